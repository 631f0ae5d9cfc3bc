"""Attention as exporters write it, with a cache and without, each with what keeps it from being fused as an argument.

    attention_graphs.cached_attention(seen="causal", opset=23)

Shapes are inferred, as an exporter states them: [batch, heads, sequence, size] = [1 or B, 4, S, 8], 2 groups of keys.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx_ir as ir

from tests.graphs import inferred, normal

SEEN = {
    "causal": "seen = LessOrEqual(key, query)",
    "window": "old = Sub(query, three)  near = Greater(key, old)  past_only = LessOrEqual(key, query)  "
    "seen = And(near, past_only)",
    "everything": "start = Sub(query, query)  seen = GreaterOrEqual(key, start)",
    "future": "seen = GreaterOrEqual(key, query)",
}
SCORES = {
    "plain": "capped = Identity(scaled)",
    "softcap": "low = Div(scaled, cap)  bent = Tanh(low)  capped = Mul(bent, cap)",
}
ATTEND = {
    "eager": """kt = Transpose<perm = [0,1,3,2]>(keys)  scores = MatMul(q, kt)  scaled = Mul(scores, scale)
            {scores}
            masked = Add(capped, mask)  p = Softmax<axis = -1>(masked)  o = MatMul(p, values)""",
    "operator": "o = Attention<scale = 0.3>(q, keys, values, seen)",
    "operator_added": "o = Attention<scale = 0.3, softcap = 2.0>(q, keys, values, mask)",
}


def cached_attention(
    form: str = "eager",
    seen: str = "causal",
    scores: str = "plain",
    opset: int = 23,
    groups: int = 2,
    new_value: str = "Transpose<perm = [0,2,1,3]>(v4)",
    read: str = "merged",
    padding: str = "attention_mask",
) -> ir.Model:
    """Grouped queries over a cache of any length; the mask is computed as transformers does it.

    read: merged (heads joined, as every decoder does), or apart (read as [batch, heads, sequence, size]).
    """
    repeat = "{0}5 = Unsqueeze({1}, second)  {0}r = Expand({0}5, times)  {0} = Reshape({0}r, joined)"
    repeated = "\n            ".join([repeat.format("keys", "present_k"), repeat.format("values", "present_v")])
    merged = "ot = Transpose<perm = [0,2,1,3]>(o)  y = Reshape(ot, flat)"
    return inferred(
        f"""(float[1,S,32] x, float[1,{groups},P,8] past_k, float[1,{groups},P,8] past_v, float[1,S,{groups * 8}] kx,
             int64[1,T] {padding})
            => (float[1,S,32] y, float[1,{groups},T,8] present_k, float[1,{groups},T,8] present_v) {{
            x4 = Reshape(x, queries)  q = Transpose<perm = [0,2,1,3]>(x4)
            k4 = Reshape(kx, grouped)  new_k = Transpose<perm = [0,2,1,3]>(k4)
            vx = Neg(kx)  v4 = Reshape(vx, grouped)  new_v = {new_value}
            present_k = Concat<axis = -2>(past_k, new_k)
            present_v = Concat<axis = -2>(past_v, new_v)
            p_shape = Shape<start = 2, end = 3>(past_k)  past = Squeeze(p_shape)
            s_shape = Shape<start = 1, end = 2>(x)  length = Squeeze(s_shape)
            total = Add(past, length)
            steps = Range(nought, length, one)  at = Add(steps, past)
            q1 = Unsqueeze(at, outer)  query = Unsqueeze(q1, inner)
            all = Range(nought, total, one)  key = Unsqueeze(all, leading)
            {SEEN[seen]}
            mask = Where(seen, open, closed)
            {repeated}
            {ATTEND[form].format(scores=SCORES[scores])}
            {merged if read == "merged" else "oo = Neg(o)  y = Reshape(oo, flat)"}
        }}""",
        opset,
        queries=np.array([0, 0, 4, 8]),
        grouped=np.array([0, 0, groups, 8]),
        second=np.array([2]),
        times=np.array([1, groups, 4 // groups, 1, 8]),
        joined=np.array([0, 4, -1, 8]),
        flat=np.array([0, -1, 32]) if read == "merged" else np.array([1, -1, 32]),
        nought=np.int64(0),
        one=np.int64(1),
        three=np.int64(3),
        outer=np.array([0, 1]),
        inner=np.array([3]),
        leading=np.array([0, 1, 2]),
        open=np.float32(0),
        closed=np.finfo(np.float32).min,
        scale=np.float32(0.3),
        cap=np.float32(2),
    )


VACUOUS = """s_shape = Shape<start = 1, end = 2>(x)  length = Squeeze(s_shape)  all = Range(nought, length, step)
            at = Unsqueeze(all, leading)  seen = GreaterOrEqual(at, nought)  mask = Where(seen, open, closed)"""


def attention(
    mask: str = "none",
    keys: str = "Transpose<perm = [0,2,1,3]>(k4)",
    softcap: bool = False,
    opset: int = 17,
    turn: str = "Transpose<perm = [0,1,3,2]>(k)",
    low: float = float(np.finfo(np.float32).min),
    values: int = 8,
    root: float = 3.0,
) -> ir.Model:
    """An encoder's. mask: none, vacuous (position >= 0, as vision models have it), per_key [B,1,1,S], full [B,1,S,S],
    plain [S,S], position (a bias of T5 [1,H,S,S], and a mask per key), hidden and seen (a choice, [B,1,1,S] spread to
    the scores); keys that do not come from a projection: `heads`; `turn`: k^T; `low`: what takes the place of scores.
    """
    shape = {
        "none": "",
        "vacuous": "",
        "position": ", float[1,4,S,S] place, float[B,1,1,S] mask",
        "per_key": ", float[B,1,1,S] mask",
        "full": ", float[B,1,S,S] mask",
        "plain": ", float[S,S] mask",
        "hidden": ", bool[B,1,1,S] mask",
        "seen": ", bool[B,1,1,S] mask",
    }[mask]
    capped = (
        "low = Div(scaled, cap)  bent = Tanh(low)  capped = Mul(bent, cap)" if softcap else "capped = Identity(scaled)"
    )
    masked = {
        "none": "Identity(capped)",
        "vacuous": "Add(capped, mask)",
        "hidden": "Where(wide, closed, capped)",
        "seen": "Where(wide, capped, closed)",
    }.get(mask, "Add(placed, mask)")
    return inferred(
        f"""(float[B,S,32] x, float[B,4,S,8] heads, float[B,S,{4 * values}] vx{shape})
            => (float[B,S,{4 * values}] y) {{
            q4 = Reshape(x, split)  q = Transpose<perm = [0,2,1,3]>(q4)
            k3 = Neg(x)  k4 = Reshape(k3, split)  k = {keys}
            v4 = Reshape(vx, value_split)  v = Transpose<perm = [0,2,1,3]>(v4)
            kt = {turn}  scores = MatMul(q, kt)  scaled = Div(scores, root)
            {capped}
            {VACUOUS if mask == "vacuous" else ""}
            {"whole = Shape(scores)  wide = Expand(mask, whole)" if mask in ("hidden", "seen") else ""}
            placed = {"Add(capped, place)" if mask == "position" else "Identity(capped)"}
            masked = {masked}
            p = Softmax<axis = -1>(masked)  o = MatMul(p, v)
            ot = Transpose<perm = [0,2,1,3]>(o)  y = Reshape(ot, flat)
        }}""",
        opset,
        split=np.array([0, 0, 4, 8]),
        value_split=np.array([0, 0, 4, values]),
        flat=np.array([0, 0, 4 * values]),
        root=np.float32(root),
        nought=np.int64(0),
        step=np.int64(1),
        leading=np.array([0, 1, 2]),
        open=np.float32(0),
        closed=np.float32(low),
        cap=np.float32(2),
    )


def biased_attention(
    q: str = "Add(x, bq)", k: str = "Add(bk, x)", v: str = "Add(x, bv)", reads: str = "q, k, v", heads: str = "N,4,T,2"
) -> ir.Model:
    """The operator of ONNX Runtime, of sums with constant rows."""
    model = inferred(
        f"""(float[N,S,8] x, float[{heads}] past) => (float[N,S,8] y) {{
            q = {q}  k = {k}  v = {v}  m = com.microsoft.MultiHeadAttention<num_heads = 4>({reads})  y = Neg(m)
        }}""",
        20,
        bq=normal(8),
        bk=normal(8) + 1,
        bv=normal(8) - 1,
        bq24=normal(24),
    )
    (y,) = (node.outputs[0] for node in model.graph if node.domain)
    y.type, y.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["N", "S", 8])
    return model


GRAPHS: dict[str, Callable[[], ir.Model]] = {
    "attention_eager": cached_attention,
    "attention_eager_opset_21": partial(cached_attention, opset=21),
    "attention_eager_softcap": partial(cached_attention, scores="softcap"),
    "attention_eager_window": partial(cached_attention, seen="window"),
    "attention_eager_sees_everything": partial(cached_attention, seen="everything"),
    "attention_eager_sees_the_future": partial(cached_attention, seen="future"),
    "cross_decoder_attention": partial(cached_attention, padding="encoder_attention_mask"),
    "decoder_attention": partial(cached_attention, padding="encoder_attention_mask", groups=4),
    "decoder_attention_operator": partial(cached_attention, "operator", padding="encoder_attention_mask", groups=4),
    "decoder_attention_softcap": partial(
        cached_attention, scores="softcap", padding="encoder_attention_mask", groups=4
    ),
    "attention_heads_of_their_own": partial(cached_attention, groups=4),
    "attention_operator": partial(cached_attention, form="operator"),
    "attention_operator_added": partial(cached_attention, form="operator_added"),
    "attention_read_apart": partial(cached_attention, read="apart"),
    "encoder_attention": attention,
    "encoder_attention_capped": partial(attention, softcap=True),
    "encoder_attention_full_mask": partial(attention, mask="full"),
    "encoder_attention_mask_per_key": partial(attention, mask="per_key"),
    "encoder_attention_vacuous_mask": partial(attention, mask="vacuous"),
    "encoder_attention_position_bias": partial(attention, mask="position"),
    "encoder_attention_of_cached_heads": partial(attention, keys="Identity(heads)"),
    "encoder_attention_of_cached_keys": partial(attention, keys="Identity(heads)", mask="full"),
    "encoder_attention_narrow_values": partial(attention, values=4, mask="per_key"),
    "encoder_attention_narrow_values_of_cached_keys": partial(attention, keys="Identity(heads)", values=4),
    "encoder_attention_keys_turned_at_once": partial(attention, turn="Transpose<perm = [0,2,3,1]>(k4)"),
    "encoder_attention_hidden": partial(attention, mask="hidden"),
    "encoder_attention_seen": partial(attention, mask="seen", turn="Transpose<perm = [0,2,3,1]>(k4)"),
    "encoder_attention_opset_13": partial(attention, mask="per_key", opset=13),
    "standard_attention": partial(attention, opset=23),
    "standard_attention_mask_per_key": partial(attention, mask="per_key", opset=23),
    "standard_attention_plain_mask": partial(attention, mask="plain", opset=23),
    "standard_attention_position_bias": partial(attention, mask="position", opset=23),
    "standard_attention_hidden": partial(attention, mask="hidden", opset=23),
    "standard_attention_hidden_by_infinity": partial(attention, mask="hidden", opset=23, low=-np.inf),
    "standard_attention_capped": partial(attention, softcap=True, opset=23),
    "standard_attention_capped_and_masked": partial(attention, mask="full", softcap=True, opset=23),
    "standard_attention_of_cached_heads": partial(attention, keys="Identity(heads)", opset=23),
    "standard_attention_narrow_values": partial(attention, opset=23, values=4),
    "standard_attention_keys_turned_at_once": partial(attention, turn="Transpose<perm = [0,2,3,1]>(k4)", opset=23),
    "biased_attention": biased_attention,
    "biased_attention_added_already": partial(biased_attention, reads="q, k, x, bq24"),
    "biased_attention_of_queries_alone": partial(biased_attention, k="Identity(x)", v="Identity(x)"),
    "biased_attention_of_heads": partial(biased_attention, k="Identity(past)", v="Neg(past)"),
    "biased_attention_without_key": partial(biased_attention, k="Identity(x)"),
}
