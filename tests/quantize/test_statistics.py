from __future__ import annotations

import pytest
import torch

from compressor.quantize.statistics import PANEL, SecondMoment, energy, proportion


def batches(width: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Three of different lengths, one of them a single token."""
    generator = torch.Generator().manual_seed(width)
    return [torch.randn(tokens, width, generator=generator).to(dtype) for tokens in (40, 1, 23)]


def gathered(parts: list[torch.Tensor]) -> SecondMoment:
    moment = SecondMoment(parts[0].shape[1])
    for part in parts:
        moment.add(part)
    return moment


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 7, PANEL - 1, PANEL, PANEL + 1, 2 * PANEL + 5])
def test_equals_x_transposed_x(width: int, dtype: torch.dtype) -> None:
    moment, X = gathered(parts := batches(width, dtype)), torch.cat(parts).double()
    # A sum of n products in float32, in any order, is off by at most n * 2^-24 of the sum of their sizes; inputs in
    # bfloat16 lose nothing more, for they are multiplied in float32.
    bound = len(X) * 2**-24 * (X.abs().T @ X.abs())
    value = moment.value()
    assert bool(((value.double() - X.T @ X).abs() <= bound).all())
    assert torch.equal(value, value.T)
    assert value.dtype == torch.float32


def test_an_input_that_never_speaks_has_an_empty_row() -> None:
    parts = batches(9, torch.float32)
    for part in parts:
        part[:, 4] = 0
    value = gathered(parts).value()
    assert not value[4].any()
    assert (value.diagonal() == 0).tolist() == [index == 4 for index in range(9)]


def test_the_energy_does_not_depend_on_the_number_of_threads() -> None:
    def measured(threads: int) -> float:
        torch.set_num_threads(threads)
        generator = torch.Generator().manual_seed(0)
        X, M = torch.randn(2048, 256, generator=generator), torch.randn(2048, 128, generator=generator)
        return energy(X @ X.T, M)

    assert measured(1) == measured(2) == measured(5)


def test_a_proportion_has_six_digits_or_is_none() -> None:
    assert proportion(2.00000001, 3.0) == proportion(2.0, 3.0) == 0.666667
    assert proportion(0.0, 0.0) == 0.0
    assert proportion(float("inf"), 3.0) is proportion(float("nan"), 3.0) is None
