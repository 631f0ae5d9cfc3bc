"""The loss of a weight is what its rounded product loses on the data, and finer grids lose less."""

from __future__ import annotations

import pytest
import torch

from compressor.progress import identity
from compressor.quantize import sensitivity
from compressor.quantize.flow.linears import find_linears
from compressor.quantize.qtensor import Choice, Grid
from compressor.quantize.rtn import RoundToNearest
from tests.quantize.test_solve import WEIGHTS, batches, model

CHOICES = [Choice(bits, size) for bits in (8, 4, 2) for size in (32, 16)]


def test_the_loss_is_that_of_the_product_on_the_data() -> None:
    data, made = batches(), model()
    linears, _ = find_linears(made)
    losses = sensitivity.measure(made, linears, lambda _: CHOICES, lambda bits: Grid(bits, "absmax"), data, identity)
    X = torch.cat([torch.from_numpy(batch["x"]) for batch in data]).double()
    products = {name: X @ torch.from_numpy(WEIGHTS[name]).double() for name in ("wa", "wc")}
    inputs = {"wa": X, "wc": X, "wy": products["wa"] * products["wc"]}
    assert losses.keys() == inputs.keys()
    for name, x in inputs.items():
        W = torch.from_numpy(WEIGHTS[name].copy())
        for choice in CHOICES:
            E = RoundToNearest(Grid(choice.bits, "absmax"), choice.group_size).solve(W).dequantize() - W
            lost = (x @ E.double()).square().sum() / (x @ W.double()).square().sum()
            assert losses[name][choice] == pytest.approx(float(lost), rel=1e-2)  # float32 sums of 400 tokens
        for size in (32, 16):
            assert losses[name][Choice(8, size)] < losses[name][Choice(4, size)] < losses[name][Choice(2, size)]
