from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from passes.requantization_removal import RequantizationRemoval
from tests import laws, moving_graphs


def once(graph: str) -> tuple[ir.Model, RequantizationRemoval]:
    model, graph_pass = moving_graphs.GRAPHS[graph](), RequantizationRemoval()
    graph_pass(model)
    return model, graph_pass


@pytest.mark.parametrize("graph", ["requantized_alike", "requantized_per_channel", "requantized_16_bits"])
def test_the_codes_come_back(graph: str) -> None:
    model, _ = once(graph)
    assert [node.op_type for node in model.graph] == ["Identity"]


@pytest.mark.parametrize("scale", [3e-30, 1e-3, 0.3, 7.0, 1e25])
@pytest.mark.parametrize("kind", ["uint8", "int8", "uint16", "int16"])
def test_every_code_does(kind: str, scale: float) -> None:
    """What the pass relies on, in ONNX Runtime: all codes of the type, through the float and back."""
    info = np.iinfo(kind)
    codes = np.arange(info.min, info.max + 1).astype(kind)
    text = f"({kind}[C] q) => ({kind}[C] y) {{ d = DequantizeLinear(q, s, z)  y = QuantizeLinear(d, s, z) }}"
    model = moving_graphs.build(text, opset=21, s=np.float32(scale), z=np.array(info.max - 3, kind))
    np.testing.assert_array_equal(laws.run(model, {"q": codes})["y"], codes)


def test_a_constant_is_moved_as_codes() -> None:
    model, _ = once("constant_requantized")
    assert [node.op_type for node in model.graph] == ["DequantizeLinear", "Reshape", "DequantizeLinear", "Add"]
    laws.assert_same(laws.run(moving_graphs.GRAPHS["constant_requantized"]()), laws.run(model))


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        ("requantized_other_scale", "other scales"),
        ("requantized_other_type", "are INT8 and become UINT8"),
        ("requantized_no_scale", "too large for float32"),
        ("requantized_run_time_scale", "computed at run time"),
    ],
)
def test_refused_with_a_reason(graph: str, reason: str) -> None:
    model, graph_pass = once(graph)
    assert [node.op_type for node in model.graph] == ["DequantizeLinear", "QuantizeLinear"]
    assert reason in graph_pass.refusals[0].reason


@pytest.mark.parametrize("graph", ["requantized_after_reshape", "constant_requantized_between", "quantized"])
def test_no_candidate(graph: str) -> None:
    """Data that moves keeps its pairs, for engines that look for them; so does the quantization itself."""
    model, graph_pass = once(graph)
    assert not graph_pass.refusals
    assert len(model.graph) == len(moving_graphs.GRAPHS[graph]().graph)
