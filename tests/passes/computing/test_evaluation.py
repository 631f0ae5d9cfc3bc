"""Each row of the table computes what ONNX Runtime computes, in every type it is likely to meet."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from passes.computing import evaluation
from passes.computing.evaluation import EVALUATE, evaluate
from tests import laws

INTS = np.array([[7, -7, 2], [-1, 0, 5]])
DIVISORS = np.array([[2, 2, -3], [4, 1, -5]])
FLOATS = np.array([[1.5, -2.5, 0.5], [3.25, -0.25, 2.0]], np.float32)
POSITIVE = np.abs(FLOATS)
BOOLS = np.array([[True, False, True], [False, False, True]])
SIGNS = np.array([[[0] * 4, [1] * 4, [-1] * 4]])
CUBE = np.arange(24, dtype=np.float32).reshape(2, 3, 4)

# op -> cases of (opset, inputs, attributes); None is an input left out.
Case = tuple[int, list[Any], dict[str, Any]]
CASES: dict[str, list[Case]] = {
    "Abs": [(17, [INTS], {}), (17, [FLOATS], {})],
    "Add": [
        (17, [INTS, INTS[:1]], {}),
        (17, [FLOATS, FLOATS], {}),
        (7, [FLOATS.astype(np.float16), np.float16(0.1)], {}),
    ],
    "And": [(17, [BOOLS, ~BOOLS[0]], {})],
    "Cast": [
        (13, [FLOATS], {"to": ir.DataType.INT64}),
        (13, [FLOATS], {"to": ir.DataType.BOOL}),
        (13, [INTS], {"to": ir.DataType.FLOAT16}),
        (19, [INTS], {"to": ir.DataType.UINT8, "saturate": 1}),
        (13, [BOOLS], {"to": ir.DataType.INT32}),
    ],
    "Ceil": [(17, [FLOATS], {})],
    "Clip": [
        (17, [FLOATS, np.float32(-1), None], {}),
        (17, [INTS, None, np.int64(3)], {}),
        (7, [FLOATS], {"min": 0.0, "max": 1.0}),
    ],
    "Concat": [(17, [INTS, INTS], {"axis": -1}), (17, [BOOLS], {"axis": 0})],
    "ConstantOfShape": [
        (17, [np.array([2, 3])], {}),
        (17, [np.array([], np.int64)], {"value": ir.tensor(np.array([True]))}),
    ],
    "Cos": [(17, [FLOATS], {})],
    "CumSum": [
        (17, [INTS, np.array(1)], {}),
        (17, [INTS, np.array(-2)], {"exclusive": 1, "reverse": 1}),
        (17, [INTS.astype(np.int32), np.array([0])], {"exclusive": 1}),
    ],
    "Div": [
        (17, [INTS, DIVISORS], {}),
        (17, [INTS.astype(np.int32), DIVISORS.astype(np.int32)], {}),
        (17, [FLOATS, POSITIVE], {}),
    ],
    "Equal": [(17, [INTS, DIVISORS], {}), (17, [BOOLS, ~BOOLS], {})],
    "Exp": [(17, [FLOATS], {})],
    "Expand": [(17, [INTS[:, :1], np.array([2, 1, 4])], {}), (17, [INTS, np.array([1, 1])], {})],
    "Flatten": [(17, [CUBE], {}), (17, [CUBE], {"axis": 0}), (17, [CUBE], {"axis": -1}), (17, [CUBE], {"axis": 3})],
    "Floor": [(17, [FLOATS], {})],
    "Gather": [(17, [CUBE, np.array([[0, -1]])], {"axis": 1}), (17, [INTS, np.array(1)], {})],
    "GatherElements": [(17, [INTS, np.array([[0, -1, 1, 1], [2, 0, 0, -3]])], {"axis": 1}), (17, [CUBE, SIGNS], {})],
    "GatherND": [(17, [CUBE, np.array([[0, 1], [-1, -2]])], {}), (17, [INTS, np.array([1, -1])], {})],
    "Greater": [(17, [INTS, DIVISORS], {})],
    "GreaterOrEqual": [(17, [FLOATS, FLOATS[:1]], {})],
    "Less": [(17, [INTS, DIVISORS], {})],
    "LessOrEqual": [(17, [FLOATS, FLOATS[:1]], {})],
    "Log": [(17, [POSITIVE], {})],
    "Max": [(17, [INTS, DIVISORS, np.int64(1)], {}), (17, [FLOATS], {})],
    "Min": [(17, [INTS, DIVISORS], {})],
    "Mod": [(17, [INTS, DIVISORS], {}), (17, [INTS, DIVISORS], {"fmod": 1}), (17, [FLOATS, POSITIVE], {"fmod": 1})],
    "Mul": [(17, [INTS, DIVISORS], {}), (17, [FLOATS, FLOATS], {})],
    "Neg": [(17, [INTS], {}), (17, [FLOATS], {})],
    "NonZero": [(17, [INTS], {}), (17, [BOOLS], {}), (17, [np.zeros(3, np.float32)], {})],
    "Not": [(17, [BOOLS], {})],
    "OneHot": [
        (17, [np.array([[0, 2], [-1, 9]]), np.array([3]), np.array([-1, 5])], {}),
        (17, [np.array([0, -4, 1]), np.array(3), np.array([0.5, 2.0], np.float32)], {"axis": 0}),
    ],
    "Or": [(17, [BOOLS, BOOLS[:1]], {})],
    "Pow": [(17, [FLOATS, np.int64(2)], {}), (17, [INTS, np.int64(3)], {}), (17, [POSITIVE, np.float32(0.5)], {})],
    "Range": [(17, [np.int64(2), np.int64(11), np.int64(3)], {}), (17, [np.int32(5), np.int32(-3), np.int32(-2)], {})],
    "Reciprocal": [(17, [FLOATS], {})],
    "ReduceMax": [(17, [CUBE], {"axes": [0, -1], "keepdims": 0}), (18, [INTS, np.array([1])], {})],
    "ReduceMin": [(17, [CUBE], {}), (18, [CUBE], {"noop_with_empty_axes": 1})],
    "ReduceProd": [(17, [INTS], {"axes": [1]}), (17, [FLOATS], {"keepdims": 0})],
    "ReduceSum": [
        (17, [INTS.astype(np.int32), np.array([0])], {}),
        (11, [CUBE], {"axes": [1]}),
        (17, [CUBE, np.array([], np.int64)], {}),
    ],
    "Reshape": [(17, [CUBE, np.array([0, -1])], {}), (17, [CUBE[:0], np.array([2, 0])], {"allowzero": 1})],
    "Round": [(17, [FLOATS], {})],
    "ScatterND": [
        (17, [INTS, np.array([[0, 1], [1, -1]]), np.array([100, 200])], {}),
        (15, [CUBE, np.array([[1]]), CUBE[:1] + 9], {}),
    ],
    "Shape": [(17, [CUBE], {}), (17, [CUBE], {"start": -2, "end": 3})],
    "Sign": [(17, [INTS], {}), (17, [FLOATS], {})],
    "Sin": [(17, [FLOATS], {})],
    "Size": [(17, [CUBE], {})],
    "Slice": [
        (17, [CUBE, np.array([1, -3]), np.array([2**31, -1]), np.array([1, 2])], {}),
        (17, [CUBE, np.array([-1]), np.array([-(2**31)]), np.array([2]), np.array([-2])], {}),
        (17, [CUBE, np.array([3]), np.array([-5]), np.array([-1]), np.array([-1])], {}),
        (17, [CUBE, np.array([-9]), np.array([-(2**31)]), np.array([1]), np.array([-1])], {}),
        (17, [CUBE, np.array([1]), np.array([2])], {}),
        (9, [CUBE], {"starts": [0, 1], "ends": [1, 100], "axes": [0, 2]}),
    ],
    "Sqrt": [(17, [POSITIVE], {})],
    "Squeeze": [
        (17, [CUBE[:1, :1]], {}),
        (17, [CUBE[:1, :1], np.array([-3])], {}),
        (11, [CUBE[:1, :1]], {"axes": [1]}),
    ],
    "Sub": [(17, [INTS, DIVISORS], {}), (17, [FLOATS, POSITIVE], {})],
    "Tile": [(17, [INTS, np.array([2, 1])], {}), (17, [CUBE, np.array([1, 0, 2])], {})],
    "Transpose": [(17, [CUBE], {}), (17, [CUBE], {"perm": [1, 0, 2]}), (17, [BOOLS], {})],
    "Trilu": [(17, [CUBE], {}), (17, [INTS, np.array(-1)], {"upper": 0}), (17, [INTS, np.array(1)], {"upper": 1})],
    "Unsqueeze": [(17, [CUBE, np.array([0, -1])], {}), (11, [INTS], {"axes": [2, 0]})],
    "Where": [(17, [BOOLS, INTS, np.int64(0)], {}), (17, [BOOLS[:1], FLOATS, POSITIVE], {})],
    "Xor": [(17, [BOOLS, BOOLS[1:]], {})],
}


def one_node(op_type: str, opset: int, inputs: list[Any], attributes: dict[str, Any]) -> ir.Model:
    """The operator alone, all of its inputs constant."""
    arrays = [None if array is None else np.asarray(array) for array in inputs]
    values = [
        None if a is None else ir.val(f"i{i}", const_value=ir.tensor(a, name=f"i{i}")) for i, a in enumerate(arrays)
    ]
    node = ir.node(op_type, values, attributes)
    node.outputs[0].name = "y"
    node.outputs[0].dtype = ir.DataType.from_numpy(evaluate(op_type, arrays, attributes).dtype)
    weights = [value for value in values if value is not None]
    graph = ir.Graph([], node.outputs, nodes=[node], initializers=weights, opset_imports={"": opset}, name="g")
    return ir.Model(graph, ir_version=8)


@pytest.mark.parametrize(("op_type", "case"), [(op_type, case) for op_type, cases in CASES.items() for case in cases])
def test_a_row_computes_what_the_runtime_computes(op_type: str, case: Case) -> None:
    opset, inputs, attributes = case
    arrays = [None if array is None else np.asarray(array) for array in inputs]
    laws.assert_same(
        laws.run(one_node(op_type, opset, inputs, attributes)), {"y": evaluate(op_type, arrays, attributes)}
    )


def test_every_row_has_a_case() -> None:
    assert CASES.keys() == EVALUATE.keys()
    assert EVALUATE.keys() > evaluation.BROADCASTING


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes", "reason"),
    [
        ("Add", [FLOATS, FLOATS], {"broadcast": 1}, "unexpected keyword argument 'broadcast'"),
        ("Div", [INTS, INTS], {}, "division by zero"),
        ("Cast", [np.array([1e30, np.nan], np.float32)], {"to": ir.DataType.INT32}, "depends on the machine"),
        ("Cast", [FLOATS], {"to": ir.DataType.FLOAT8E4M3FN}, "left to the runtime"),
        ("Range", [np.float32(0), np.float32(1), np.float32(0.1)], {}, "floats"),
        ("Range", [np.int64(0), np.int64(10**12), np.int64(1)], {}, "1000000000000 entries"),
        ("Gather", [INTS, np.array([9])], {}, "out of bounds"),
        ("CumSum", [FLOATS, np.array(0)], {}, "floats"),
        ("ReduceSum", [np.full(3, 2**30, np.int32)], {}, "does not fit int32"),
        ("ReduceProd", [np.full(3, 2**30)], {}, "does not fit int64"),
        ("GatherElements", [INTS, np.array([[0]])], {"axis": 1}, "of a part"),
        ("GatherND", [INTS, np.array([[0]])], {"batch_dims": 1}, "batches"),
        ("OneHot", [FLOATS, np.array(3), np.array([0, 1])], {}, "floats"),
        ("ScatterND", [INTS, np.array([[0, 0]]), np.array([1])], {"reduction": "add"}, "reduction"),
        ("Less", [np.zeros((10**6, 1)), np.zeros((1, 10**6))], {}, "1000000000000 entries"),
    ],
)
def test_what_cannot_be_told_is_an_error(
    op_type: str, inputs: list[Any], attributes: dict[str, Any], reason: str
) -> None:
    with pytest.raises((TypeError, ValueError, IndexError, ArithmeticError), match=reason):
        evaluate(op_type, [np.asarray(array) for array in inputs], attributes)
