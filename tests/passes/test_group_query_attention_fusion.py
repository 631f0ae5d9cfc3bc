from __future__ import annotations

import onnx_ir as ir
import pytest

from passes.group_query_attention_fusion import GroupQueryAttentionFusion
from tests import laws
from tests.attention_graphs import GRAPHS, cached_attention


def fused(model: ir.Model) -> ir.Node:
    assert GroupQueryAttentionFusion()(model).modified
    (node,) = [node for node in model.graph if node.op_type == "GroupQueryAttention"]
    return node


@pytest.mark.parametrize("name", [name for name in GRAPHS if name.startswith("attention")])
def test_an_attention_over_a_cache_is_one_operator(name: str) -> None:
    node = fused(model := GRAPHS[name]())
    operators = {one.op_type for one in model.graph}
    assert operators.isdisjoint({"Softmax", "Attention", "MatMul", "Concat"})
    heads = (node.attributes["num_heads"].as_int(), node.attributes["kv_num_heads"].as_int())
    assert heads == (4, 4 if "of_their_own" in name else 2)


def test_heads_are_neither_split_nor_joined_around_it() -> None:
    model = cached_attention()
    fused(model)
    assert not [node for node in model.graph if node.op_type in {"Transpose", "Reshape"}]


@pytest.mark.parametrize(("seen", "causal"), [("causal", 1), ("window", 1), ("everything", 0), ("future", 0)])
@pytest.mark.parametrize("form", ["eager", "operator"])
def test_the_future_is_skipped_only_where_the_mask_hides_it(form: str, seen: str, causal: int) -> None:
    assert fused(cached_attention(form, seen)).attributes.get_int("causal", 1) == causal


def test_the_softcap_goes_along() -> None:
    assert fused(cached_attention(scores="softcap")).attributes["softcap"].as_float() == 2.0


def test_a_rotation_before_it_keeps_the_heads_joined() -> None:
    """What the rotation reads is [batch, sequence, heads * size] afterwards, with the number of heads said."""
    model = cached_attention(new_value="Transpose<perm = [0,2,1,3]>(v4)")
    q = next(node for node in model.graph if node.op_type == "Transpose").outputs[0]
    table = ir.Value(name="angles", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1, "S", 4]))
    model.graph.inputs.append(table)
    readers = q.consumers()
    rotated = ir.node("RotaryEmbedding", [q, table, table])
    rotated.outputs[0].name, rotated.outputs[0].shape, rotated.outputs[0].type = "rotated", q.shape, q.type
    model.graph.insert_after(q.producer(), rotated)
    for reader in readers:
        reader.replace_input_with(list(reader.inputs).index(q), rotated.outputs[0])
    before = laws.run(model)
    fused(model)
    laws.assert_same(before, laws.run(model))
    (rotation,) = [node for node in model.graph if node.op_type == "RotaryEmbedding"]
    assert rotation.inputs[0].name == "x"
    assert rotation.attributes["num_heads"].as_int() == 4


def test_a_mask_of_unknown_shape_is_refused() -> None:
    model = cached_attention()
    next(value for node in model.graph for value in node.outputs if value.name == "mask").shape = None
    graph_pass = GroupQueryAttentionFusion()
    assert not graph_pass(model).modified
    assert graph_pass.refusals[0].reason == "its mask 'mask' is not known to be [batch, heads, sequence, total]"


def test_what_grows_along_another_axis_is_no_cache() -> None:
    model = cached_attention()
    for node in model.graph:
        if node.op_type == "Concat":
            node.attributes["axis"] = ir.AttrInt64("axis", -1)
    graph_pass = GroupQueryAttentionFusion()
    assert not graph_pass(model).modified
    assert graph_pass.refusals[0].reason == "its keys and values grow no cache"


def test_a_graph_that_is_no_decoder_of_text_is_left_alone() -> None:
    """It may be called with several rows on a filled cache, which the kernel refuses."""
    assert not GroupQueryAttentionFusion()(GRAPHS["cross_decoder_attention"]()).modified
