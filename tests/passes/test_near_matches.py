"""What is nearly the formula of a fusion is left alone with the value that keeps it from being one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx_ir as ir
import pytest

from compressor import catalog
from passes.attention_bias_fusion import AttentionBiasFusion
from passes.attention_fusion import AttentionFusion
from passes.bias_gelu_fusion import BiasGeluFusion
from passes.fusion import Fusion
from passes.gelu_fusion import GeluFusion
from passes.group_query_attention_fusion import GroupQueryAttentionFusion
from passes.layer_normalization_fusion import LayerNormalizationFusion
from passes.multi_head_attention_fusion import MultiHeadAttentionFusion
from passes.quick_gelu_fusion import QuickGeluFusion
from passes.rms_normalization_fusion import RmsNormalizationFusion
from passes.rotary_embedding_fusion import RotaryEmbeddingFusion
from passes.skip_normalization_fusion import SkipNormalizationFusion
from tests import graphs, laws
from tests.attention_graphs import cached_attention
from tests.graphs import inferred
from tests.transformer_graphs import GRAPHS, layer_norm, rms_norm

Build = Callable[[], ir.Model]


def attention(q: str = "B,4,S,8", keys: str = "Transpose<perm = [0,1,3,2]>(k)", axis: int = -1) -> ir.Model:
    """`q`: the shape of queries, keys and values."""
    return inferred(
        f"""(float[{q}] q, float[{q}] k, float[{q}] v) => (float[{q}] y) {{
            t = {keys}  s = MatMul(q, t)  p = Softmax<axis = {axis}>(s)  y = MatMul(p, v)
        }}""",
        23,
    )


def gated_gelu() -> ir.Model:
    text = "(float[N,8] x, float[N,8] z) => (float[N,8] y) { d = Div(x, root)  e = Erf(d)  o = Add(e, one)  GATE }"
    gate = "h = Mul(x, half)  g = Mul(h, z)  y = Mul(g, o)"
    numbers = {"root": np.float32(np.sqrt(2)), "one": np.float32(1), "half": np.float32(0.5)}
    return inferred(text.replace("GATE", gate), 20, **numbers)


def norm_over_rows() -> ir.Model:
    model = rms_norm()
    model.graph.initializers["last"].const_value = ir.tensor(np.array([1]))
    return model


def no_cache() -> ir.Model:
    """Keys and values are joined along their last axis, which is no cache that grows."""
    model = cached_attention()
    for node in model.graph:
        if node.op_type == "Concat":
            node.attributes["axis"] = ir.AttrInt64("axis", -1)
    return model


OF_ATTENTION: list[tuple[Build, str]] = [
    (partial(attention, "B,S,8", "Transpose<perm = [0,2,1]>(k)"), "'q' is not known to be [batch, heads, sequence, s"),
    (partial(attention, axis=2), "its Softmax goes over axis 2 and not over the last of four"),
    (partial(attention, "B,4,8,8", "Identity(k)"), "'t' is not seen to be keys of four axes, turned"),
]
NEAR: dict[type[Fusion[object]], list[tuple[Build, str]]] = {
    AttentionBiasFusion: [
        (GRAPHS["biased_attention_of_queries_alone"], "one of the three has a bias, and zeros would be added"),
        (GRAPHS["biased_attention_added_already"], "it adds 'bq24' already"),
    ],
    AttentionFusion: OF_ATTENTION,
    BiasGeluFusion: [
        (GRAPHS["bias_gelu_of_rows"], "'rows' of shape [1,8] is no row for the last axis of 'x'"),
        (GRAPHS["bias_gelu_read"], "'a' is read by others too"),
    ],
    GeluFusion: [
        (GRAPHS["gelu_of_another"], "'e' is not the Erf that the formula has of the other factor"),
        (GRAPHS["gelu_wrong_root"], "'e' is not the Erf that the formula has of the other factor"),
        (GRAPHS["gelu_not_halved"], "the numbers in it multiply to 1 and not to 0.5"),
        (gated_gelu, "it is a product of 3 values, one of them 1 + Erf"),
    ],
    GroupQueryAttentionFusion: [(no_cache, "its keys and values grow no cache")],
    LayerNormalizationFusion: [
        (GRAPHS["layer_norm_of_another"], "'v' is not the variance of 'x'"),
        (partial(layer_norm, last="y = Neg(n)"), "no constant weight follows it"),
    ],
    MultiHeadAttentionFusion: OF_ATTENTION,
    QuickGeluFusion: [(GRAPHS["quick_gelu_of_another"], "its Sigmoid is of 'x', scaled, and not of 'z'")],
    RmsNormalizationFusion: [
        (GRAPHS["rms_norm_of_another"], "'x' is divided by the root of the squares of 'z'"),
        (norm_over_rows, "'m' is not a mean over the last axis alone, or drops it"),
    ],
    RotaryEmbeddingFusion: [
        (GRAPHS["rotary_swapped"], "'r' is not concat(-x2, x1) of the halves of one value of four axes"),
        (GRAPHS["rotary_of_different_angles"], "its angles are not seen to be the same for both halves"),
    ],
    SkipNormalizationFusion: [
        (GRAPHS["skip_norm_broadcasts"], "[N,S,16] + [16]: the operator adds two equal shapes of rank 2 or 3"),
    ],
}


@pytest.mark.parametrize(
    ("fusion", "build", "reason"), [(fusion, *row) for fusion, rows in NEAR.items() for row in rows]
)
def test_a_near_match_stays_and_is_explained(fusion: type[Fusion[object]], build: Build, reason: str) -> None:
    (found,) = laws.reasons(fusion(), build())
    assert reason in found


def test_every_fusion_of_the_catalog_explains_one() -> None:
    passes = [catalog.resolve(entry.where) for entry in catalog.PASSES.values()]
    assert {one for one in passes if issubclass(one, Fusion)} == NEAR.keys()


@pytest.mark.parametrize("form", ["erf", "erf_halved_last", "tanh", "tanh_cubed_by_hand"])
def test_the_parts_of_a_formula_are_no_near_matches(form: str) -> None:
    assert laws.left_by(graph_pass := GeluFusion(), GRAPHS[f"gelu_{form}"]()) == ["Gelu"]
    assert graph_pass.refusals == []


@pytest.mark.parametrize("name", ["layer_norm", "layer_norm_power", "rms_norm", "rms_norm_over", "rms_norm_unweighted"])
@pytest.mark.parametrize("fusion", [LayerNormalizationFusion, RmsNormalizationFusion])
def test_a_norm_is_no_near_match_of_the_other(fusion: type[Fusion[object]], name: str) -> None:
    (graph_pass := fusion())(GRAPHS[name]())
    assert [one for one in graph_pass.refusals if "opset" not in one.reason] == []


def test_a_gate_is_no_near_match() -> None:
    model = graphs.build("(float[2] x, float[2] z) => (float[2] y) { s = Sigmoid(z)  y = Mul(x, s) }")
    assert laws.reasons(QuickGeluFusion(), model) == []
