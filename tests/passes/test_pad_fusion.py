from __future__ import annotations

import numpy as np
import pytest

from passes.pad_fusion import PadFusion
from tests import graphs, laws


def padded(reader: str, amounts: list[int], value: float = 0.0) -> graphs.ir.Model:
    text = f"(float[1,2,6,6] x) => (float[1,A,B,C] y) {{ p = Pad(x, amounts, value)  y = {reader} }}"
    return graphs.build(text, amounts=np.array(amounts), value=np.float32(value), w=graphs.normal(3, 2, 3, 3))


SIDES = [0, 0, 1, 0, 0, 0, 2, 1]


@pytest.mark.parametrize(
    ("reader", "value", "pads"),
    [
        ("Conv(p, w)", 0.0, (1, 0, 2, 1)),
        ("Conv<pads = [1,1,1,1]>(p, w)", 0.0, (2, 1, 3, 2)),
        ("AveragePool<kernel_shape = [4,4]>(p)", 0.0, (1, 0, 2, 1)),
        ("MaxPool<kernel_shape = [4,4]>(p)", -np.inf, (1, 0, 2, 1)),
    ],
)
def test_the_reader_pads_by_itself(reader: str, value: float, pads: tuple[int, ...]) -> None:
    model = padded(reader, SIDES, value)
    assert laws.left_by(PadFusion(), model) == [reader.split("(", maxsplit=1)[0].split("<", maxsplit=1)[0]]
    assert model.graph[0].attributes["pads"].as_ints() == pads


@pytest.mark.parametrize(
    ("reader", "amounts", "value", "reason"),
    [
        ("MaxPool<kernel_shape = [4,4]>(p)", SIDES, 0.0, "a MaxPool pads with -inf"),
        ("Conv(p, w)", SIDES, 1.0, "it fills in 1.0"),
        ("Conv(p, w)", [0, 0, -1, 0, 0, 0, 2, 1], 0.0, "a negative amount crops"),
        ('Conv<auto_pad = "SAME_UPPER">(p, w)', SIDES, 0.0, "auto_pad"),
        ("AveragePool<kernel_shape = [5,5], pads = [1,1,1,1]>(p)", SIDES, 0.0, "does not count that"),
    ],
)
def test_refused_with_a_reason(reader: str, amounts: list[int], value: float, reason: str) -> None:
    (found,) = laws.reasons(PadFusion(), padded(reader, amounts, value))
    assert reason in found


def test_channels_that_are_padded_stay() -> None:
    text = "(float[1,1,6,6] x) => (float[1,3,A,B] y) { p = Pad(x, amounts)  y = Conv(p, w) }"
    model = graphs.build(text, amounts=np.array([0, 1, 0, 0, 0, 0, 0, 0]), w=graphs.normal(3, 2, 3, 3))
    assert laws.reasons(PadFusion(), model) == ["it pads the batch or the channels"]
