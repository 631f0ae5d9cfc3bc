"""What exporters of transformers write the long way round: sequences for pieces, rows made one axis, indices for all.

detour_graphs.pieces(size="two")     a value cut into a sequence, and what stands in the way as an argument
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx_ir as ir

from tests.graphs import build, inferred, normal


def pieces(
    cut: str = "SplitToSequence<axis = 1>(x, two)",
    last: str = "SequenceAt(s, minus)",
    outputs: str = "float[A,B] y, float[C,D] z",
    width: str = "5",
    opset: int = 17,
) -> ir.Model:
    """[3, width] in pieces of two, of which the first is read, and the last."""
    return build(
        f"""(float[3,{width}] x, int64 some) => ({outputs}) {{
            s = {cut}  y = SequenceAt(s, first)  z = {last}
        }}""",
        opset,
        two=np.int64(2),
        uneven=np.array([1, 4]),
        negative=np.int64(-1),
        first=np.int64(0),
        minus=np.int64(-1),
        beyond=np.int64(7),
    )


def flat_product(
    product: str = "Gemm(f, w, b)",
    flat: tuple[int, int] = (-1, 6),
    back: str = "n, s, out",
    last: str = "Identity(r)",
    outputs: str = "float[A,B,C] y",
    opset: int = 17,
    **weights: np.ndarray,
) -> ir.Model:
    """Rows of [N, S, 6] made one axis, times [6, 4], and taken apart again."""
    return inferred(
        f"""(float[N,S,6] x) => ({outputs}) {{
            n = Shape<start = 0, end = 1>(x)  s = Shape<start = 1, end = 2>(x)
            f = Reshape(x, rows)  g = {product}  to = Concat<axis = 0>({back})  r = Reshape(g, to)  y = {last}
        }}""",
        opset,
        **(
            {
                "rows": np.array(flat),
                "out": np.array([4]),
                "all": np.array([-1]),
                "w": normal(6, 4),
                "turned": normal(4, 6),
                "b": normal(4),
                "scalar": normal(1),
                "each_row": normal(4, 4),
            }
            | weights
        ),
    )


GRID = """bn = Shape<start = 0, end = 1>(x)  b0 = Squeeze(bn)  bi = Range(nought, b0, one)
        tn = Shape<start = 1, end = 2>(x)  t0 = Squeeze(tn)  tm = {moved}  ti = Range({start}, tm, one)
        b4 = Reshape(bi, {along_b})  t4 = Reshape(ti, {along_t})
        widest = Max(b4, t4)  grid = Shape(widest)
        be = Expand(b4, {spread})  te = Expand(t4, {spread})
        bu = Unsqueeze(be, last)  tu = Unsqueeze(te, last)"""


def grid(
    order: str = "bu, tu",
    moved: str = "Identity(t0)",
    start: str = "nought",
    spread: str = "grid",
    along_b: str = "first",
    along_t: str = "fourth",
    mask: str = "bool[N,M] mask",
    gives: str = "A,B,C,D",
) -> ir.Model:
    """A mask [batch, total] read for each row and key, as [batch, 1, 1, total]."""
    indices = GRID.format(moved=moved, start=start, spread=spread, along_b=along_b, along_t=along_t)
    return inferred(
        f"""(float[N,T] x, {mask}) => (bool[{gives}] y) {{
            {indices}
            at = Concat<axis = -1>({order})  picked = GatherND(mask, at)  y = Not(picked)
        }}""",
        17,
        nought=np.int64(0),
        one=np.int64(1),
        two=np.int64(2),
        first=np.array([-1, 1, 1, 1]),
        fourth=np.array([1, 1, 1, -1]),
        last=np.array([-1]),
        wide=np.array([2, 3, 1, 2]),
    )


def rows(
    given: str = "Unsqueeze(at, last)", attributes: str = "", at: str = "int64[N,M] at", gives: str = "A,B,C"
) -> ir.Model:
    return inferred(
        f"""(float[9,4] table, {at}) => (float[{gives}] y) {{
            i = {given}  g = GatherND{attributes}(table, i)  y = Neg(g)
        }}""",
        17,
        last=np.array([-1]),
    )


def restricted(first: str = "always", second: str = "seen", to: str = "whole") -> ir.Model:
    """A mask of keys that a position at or behind 0 restricts: not at all."""
    return inferred(
        f"""(float[N,S] x, bool[1,1,S,1] other) => (bool[A,B,C,D] y) {{
            n = Shape<start = 0, end = 1>(x)  s = Shape<start = 1, end = 2>(x)  s0 = Squeeze(s)
            count = Range(nought, s0, one)  at = Reshape(count, queries)  always = GreaterOrEqual(at, nought)
            keys = Unsqueeze(x, middle)  seen = Cast<to = 9>(keys)
            both = And({first}, {second})  whole = Concat<axis = 0>(n, single, s, s)
            wide = Expand(both, {to})  y = Not(wide)
        }}""",
        17,
        nought=np.int64(0),
        one=np.int64(1),
        single=np.array([1]),
        middle=np.array([1, 2]),
        queries=np.array([1, 1, -1, 1]),
        narrow=np.array([1, 1, 1, 1]),
    )


GRAPHS: dict[str, Callable[[], ir.Model]] = {
    "pieces": pieces,
    "pieces_opset_11": partial(pieces, opset=11),
    "pieces_uneven": partial(pieces, "SplitToSequence<axis = 1>(x, uneven)"),
    "pieces_of_one": partial(pieces, "SplitToSequence<axis = 1>(x)"),
    "pieces_without_axis": partial(
        pieces, "SplitToSequence<axis = 1, keepdims = 0>(x)", outputs="float[A] y, float[B] z"
    ),
    "pieces_read_twice": partial(pieces, last="SequenceAt(s, first)"),
    "pieces_of_unknown_number": partial(pieces, width="W"),
    "pieces_anywhere": partial(pieces, last="SequenceAt(s, some)"),
    "pieces_counted": partial(pieces, last="SequenceLength(s)", outputs="float[A,B] y, int64 z"),
    "flat_product": flat_product,
    "flat_product_matmul": partial(flat_product, "MatMul(f, w)"),
    "flat_product_turned": partial(flat_product, "Gemm<transB = 1>(f, turned, b)"),
    "flat_product_without_bias": partial(flat_product, "Gemm(f, w)"),
    "flat_product_rest_inferred": partial(flat_product, back="n, all, out"),
    "flat_product_scaled": partial(flat_product, "Gemm<alpha = 0.5>(f, w, b)"),
    "flat_product_of_turned_rows": partial(flat_product, "Gemm<transA = 1>(f, w)", flat=(6, -1)),
    "flat_product_taken_apart_otherwise": partial(flat_product, back="s, n, out"),
    "flat_product_cuts_rows": partial(flat_product, "MatMul(f, small)", (-1, 3), small=normal(3, 2)),
    "flat_product_is_read": partial(flat_product, outputs="float[A,B,C] y, float[D,E] g"),
    "flat_product_bias_of_rows": partial(flat_product, "Gemm(f, w, each_row)"),
    "grid": grid,
    "grid_turned": partial(grid, "tu, bu", mask="bool[M,N] mask"),
    "grid_from_one": partial(grid, start="one"),
    "grid_of_a_difference": partial(grid, moved="Sub(t0, one)"),
    "grid_repeated": partial(grid, spread="wide"),
    "grid_along_one_axis": partial(grid, along_b="fourth"),
    "grid_of_rows": partial(grid, mask="bool[N,M,3] mask", gives="A,B,C,D,E"),
    "gather_rows": rows,
    "gather_pairs": partial(rows, "Identity(at)", at="int64[N,2] at", gives="A"),
    "restricted_by_nothing": restricted,
    "restricted_by_nothing_second": partial(restricted, "seen", "always"),
    "restricted_by_another": partial(restricted, "other"),
    "restricted_and_wider": partial(restricted, to="narrow"),
}  # fmt: skip
