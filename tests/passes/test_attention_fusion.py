from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx_ir as ir
import pytest

from passes.attention_fusion import AttentionFusion
from tests import laws
from tests.attention_graphs import GRAPHS, attention, cached_attention

WRITTEN_OUT = {"Transpose", "Reshape", "Softmax", "MatMul"}


def fused(model: ir.Model) -> ir.Node:
    assert AttentionFusion()(model).modified
    (node,) = [node for node in model.graph if node.op_type == "Attention"]
    return node


@pytest.mark.parametrize(
    ("name", "operators"),
    [
        ("standard_attention", {"Neg", "Attention"}),
        ("standard_attention_capped", {"Neg", "Attention"}),
        ("standard_attention_keys_turned_at_once", {"Neg", "Attention"}),
        ("standard_attention_narrow_values", {"Neg", "Attention"}),
        ("standard_attention_plain_mask", {"Neg", "Max", "Attention"}),
        ("standard_attention_position_bias", {"Neg", "Add", "Max", "Attention"}),
        ("standard_attention_mask_per_key", {"Neg", "Max", "Shape", "Concat", "Expand", "Attention"}),
        ("standard_attention_hidden", {"Neg", "Where", "Shape", "Concat", "Expand", "Attention"}),
    ],
)
def test_an_attention_is_one_operator(name: str, operators: set[str]) -> None:
    model = GRAPHS[name]()
    fused(model)
    assert {node.op_type for node in model.graph} == operators


@pytest.mark.parametrize("form", ["eager", "operator"])
@pytest.mark.parametrize("groups", [2, 4])
def test_its_cache_and_its_groups_go_along(form: str, groups: int) -> None:
    node = fused(model := cached_attention(form, groups=groups))
    assert WRITTEN_OUT.isdisjoint(one.op_type for one in model.graph)
    assert [value.name for value in node.inputs[4:]] == ["past_k", "past_v"]
    assert [value.name for value in node.outputs] == ["y", "present_k", "present_v"]
    assert [node.attributes[name].as_int() for name in ("q_num_heads", "kv_num_heads")] == [4, groups]


def test_a_cache_that_its_mask_is_computed_from_stays_outside() -> None:
    """The mask would wait for the operator, which waits for the mask."""
    model = cached_attention("operator")
    total = next(node for node in model.graph if node.outputs[0].name == "total")
    length = ir.node("Shape", [model.graph.outputs[1]], {"start": 2, "end": 3})
    scalar = ir.node("Squeeze", [length.outputs[0]])
    scalar.outputs[0].name, length.outputs[0].name = "joined_length", "joined_shape"
    scalar.outputs[0].type = total.outputs[0].type
    model.graph.extend([length, scalar])
    total.outputs[0].replace_all_uses_with(scalar.outputs[0])
    model.graph.sort()
    before = laws.run(model)
    node = fused(model)
    assert len(node.outputs) == 1
    laws.assert_same(before, laws.run(model))


def test_heads_that_come_apart_stay_apart() -> None:
    node = fused(GRAPHS["standard_attention_of_cached_heads"]())
    assert node.inputs[1].name == "heads"
    assert "q_num_heads" not in node.attributes


@pytest.mark.parametrize("lowest", [float(np.finfo(np.float32).min), -1e9])
@pytest.mark.parametrize("mask", ["full", "hidden", "seen"])
def test_a_row_that_sees_nothing_is_the_mean_of_the_values(mask: str, lowest: float) -> None:
    """ONNX Runtime's kernel has zeros for it where the mask is the lowest number of its type."""
    model = attention(mask, opset=23, low=lowest)
    feeds = laws.feeds_for(model)
    feeds["mask"] = np.full_like(feeds["mask"], {"full": lowest, "hidden": True, "seen": False}[mask])
    before = laws.run(model, feeds)
    np.testing.assert_allclose(before["y"][:, 0], feeds["vx"].mean(axis=1), rtol=1e-5)  # float32, a mean of two
    fused(model)
    laws.assert_same(before, laws.run(model, feeds))


def test_a_half_type_is_masked_in_its_own() -> None:
    """Scores are cast to float32 for mask and softmax, as transformers does."""
    model = half_precision_attention()
    before = laws.run(model)
    node = fused(model)
    laws.assert_same(before, laws.run(model))
    assert node.attributes["softmax_precision"].as_int() == ir.DataType.FLOAT
    assert node.inputs[3].producer().inputs[1].const_value.dtype == ir.DataType.FLOAT16


def half_of_another_type() -> ir.Model:
    model = attention(opset=23)
    next(node.outputs[0] for node in model.graph if node.outputs[0].name == "v").type = ir.TensorType(
        ir.DataType.FLOAT16
    )
    return model


def half_precision_attention() -> ir.Model:
    """float16 around, float32 inside."""
    model = attention("full", opset=23, low=-1e4)
    for value in (*model.graph.inputs, *model.graph.initializers.values(), *(n.outputs[0] for n in model.graph)):
        if value.dtype == ir.DataType.FLOAT and value.name not in {"mask", "masked", "p"}:
            value.type = ir.TensorType(ir.DataType.FLOAT16)
            if value.const_value is not None:
                value.const_value = ir.tensor(value.const_value.numpy().astype(np.float16))
    graph = model.graph
    for name, to, reader in (("placed", ir.DataType.FLOAT, "masked"), ("p", ir.DataType.FLOAT16, "o")):
        made, read = (next(node for node in graph if node.outputs[0].name == one) for one in (name, reader))
        cast = ir.node("Cast", [made.outputs[0]], {"to": to})
        cast.outputs[0].name, cast.outputs[0].type = f"{name}_cast", ir.TensorType(to)
        graph.insert_after(made, cast)
        read.replace_input_with(list(read.inputs).index(made.outputs[0]), cast.outputs[0])
    return model


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (GRAPHS["encoder_attention"], "opset 17 has no Attention; it came with 23"),
        (GRAPHS["standard_attention_capped_and_masked"], "capped and masked, and engines differ in which"),
        (GRAPHS["standard_attention_hidden_by_infinity"], "its mask hides with minus infinity"),
        (half_of_another_type, "its queries, keys and values are FLOAT, FLOAT16, and engines take one type"),
        (partial(attention, opset=23, root=-3.0), "its scale is -0.333333, and the operator takes the root of it"),
    ],
)
def test_refusals(build: Callable[[], ir.Model], reason: str) -> None:
    (found,) = laws.reasons(AttentionFusion(), build())
    assert reason in found


def test_what_is_an_operator_already_is_no_near_match() -> None:
    model = GRAPHS["standard_attention_of_cached_heads"]()
    fused(model)
    assert laws.reasons(AttentionFusion(), model) == []
