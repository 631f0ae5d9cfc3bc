from __future__ import annotations

import pytest
import torch

from compressor.quantize.qtensor import PER_CHANNEL, Grid, QTensor, group_of_row, rows_of_group


@pytest.mark.parametrize(
    ("rows", "group_size", "sizes"),
    [
        (172, 32, [32, 32, 32, 32, 32, 12]),
        (128, 64, [64, 64]),
        (16, 64, [16]),
        (33, 16, [16, 16, 1]),
        (172, PER_CHANNEL, [172]),
    ],
)
def test_groups_cover_every_row_once(rows: int, group_size: int, sizes: list[int]) -> None:
    groups = rows_of_group(rows, group_size)
    assert [group.stop - group.start for group in groups] == sizes
    assert [row for group in groups for row in range(rows)[group]] == list(range(rows))
    assert group_of_row(rows, group_size).tolist() == [g for g, size in enumerate(sizes) for _ in range(size)]


def test_dequantize_reads_each_row_with_its_groups_scale_and_zero() -> None:
    tensor = QTensor(
        q=torch.tensor([[0, 15], [8, 7], [3, 9]], dtype=torch.uint8),
        scale=torch.tensor([[0.5, 2.0], [0.25, 1.0]]),
        zero=torch.tensor([[8, 0], [4, 8]], dtype=torch.uint8),
        bits=4,
        group_size=2,
    )
    assert tensor.dequantize().tolist() == [[-4.0, 30.0], [0.0, 14.0], [-0.25, 1.0]]


@pytest.mark.parametrize(
    ("bits", "scheme", "weight", "scale", "zero", "codes"),
    [
        (4, "absmax", [-7, 0, 3.4], 1, 8, [1, 8, 11]),
        (8, "absmax", [-1, 127], 1, 128, [127, 255]),
        (3, "absmax", [3, -3], 1, 4, [7, 1]),
        (4, "zero_point", [-5, 10], 1, 5, [0, 15]),
        (4, "zero_point", [15, 30], 2, 0, [8, 15]),  # all positive: the range is stretched to hold 0
        (4, "zero_point", [-15, -30], 2, 15, [8, 0]),  # all negative; 7.5 is a tie
        (3, "zero_point", [-3, 4], 1, 3, [0, 7]),
        (4, "symmetric", [8, -7], -1, 8, [0, 15]),  # the longer side has 8 codes, the other 7
        (4, "symmetric", [-8, 7], 1, 8, [0, 15]),
        (4, "symmetric", [7, -7], 1, 8, [15, 1]),  # absmax is exact, and stands first
        (2, "symmetric", [0, 0], 1, 2, [2, 2]),
        (4, "absmax", [0, 0], 1, 8, [8, 8]),  # nothing divides by zero
        (4, "zero_point", [0, 0], 1, 0, [0, 0]),
    ],
)
def test_a_grid_by_hand(bits: int, scheme: str, weight: list[float], scale: float, zero: int, codes: list[int]) -> None:
    column, grid = torch.tensor(weight, dtype=torch.float64)[:, None], Grid(bits, scheme)
    found_scale, found_zero = grid.fit(column)
    assert (found_scale.tolist(), found_zero.tolist()) == ([[scale]], [[zero]])
    assert grid.encode(column, found_scale, found_zero).flatten().tolist() == codes


@pytest.mark.parametrize("scheme", ["absmax", "zero_point", "symmetric"])
@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_scale_search_never_raises_the_squared_error(bits: int, scheme: str) -> None:
    weight = torch.randn(64, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 3

    plain = squared_error(weight, Grid(bits, scheme))
    searched = squared_error(weight, Grid(bits, scheme, scale_search=True))
    assert bool((searched <= plain).all())
    assert bool((searched < plain).any()) or bits == 8  # 255 steps leave clipping nothing to win


@pytest.mark.parametrize(("zero", "codes"), [(8, [6, 8, 8, 10, 10]), (7, [6, 6, 8, 8, 10])])
def test_a_tie_goes_to_the_even_code(zero: int, codes: list[int]) -> None:
    one, weight = torch.ones(1), torch.tensor([-1.5, -0.5, 0.5, 1.5, 2.5])
    assert Grid(4, "absmax").encode(weight, one, zero * one).tolist() == codes


def test_a_code_beyond_the_grid_is_its_end() -> None:
    one = torch.ones(1)
    assert Grid(3, "absmax").encode(torch.tensor([-99.0, 99.0]), one, 4 * one).tolist() == [0, 7]


@pytest.mark.parametrize("search", [False, True])
@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_symmetric_is_never_worse_than_absmax(bits: int, search: bool) -> None:
    weight = torch.randn(64, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    symmetric, absmax = (squared_error(weight, Grid(bits, scheme, search)) for scheme in ("symmetric", "absmax"))
    assert bool((symmetric <= absmax).all())
    assert bool((symmetric < absmax).any())


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_a_group_of_one_sign_has_every_code(bits: int, sign: int) -> None:
    """Its step is the range over all codes: half of absmax's, so a quarter of its squared error or less, as uniform
    weights have it; and no weight is cut off, as where 2^bits - 1 steps are laid around a zero in the middle."""
    weight = sign * torch.rand(64, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scale, zero = Grid(bits, "symmetric").fit(weight)
    codes = Grid(bits, "symmetric").encode(weight, scale, zero)
    assert set(zero.flatten().tolist()) == {0 if sign > 0 else 2**bits - 1}
    assert (codes.min(), codes.max()) == (0, 2**bits - 1)
    largest = ((codes - zero) * scale - weight).abs().amax(0)
    assert bool((largest <= weight.abs().amax(0) / (2**bits - 1) / 2 * (1 + 1e-9)).all())  # half a step, exact numbers
    error = squared_error(weight, Grid(bits, "symmetric")).mean()
    assert error < 0.26 * squared_error(weight, Grid(bits, "absmax")).mean()


def test_a_short_group_of_one_sign_keeps_its_zero_in_the_middle() -> None:
    """One in 2^15 groups of 16 is of one sign by chance; zero points for a whole weight would cost more."""
    weight = torch.rand(16, 50, generator=torch.Generator().manual_seed(0))
    scale, zero = Grid(4, "symmetric").fit(weight)
    assert set(zero.flatten().tolist()) == {8}
    assert torch.equal(Grid(4, "symmetric").encode(weight, scale, zero).amin(0) == 0, scale.flatten() < 0)


def test_importance_says_what_an_error_costs() -> None:
    """The weighted error of the scale it finds is never above that of the scale found without."""
    generator = torch.Generator().manual_seed(0)
    weight, importance = torch.randn(64, 50, generator=generator), torch.rand(64, 1, generator=generator) ** 4
    grid = Grid(3, "symmetric", scale_search=True)

    def weighted(found: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        scale, zero = found
        return (importance * ((grid.encode(weight, scale, zero) - zero) * scale - weight).square()).sum(0)

    with_it, without = weighted(grid.fit(weight, importance=importance)), weighted(grid.fit(weight))
    assert bool((with_it <= without).all())
    assert bool((with_it < without).any())


def squared_error(weight: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Of each column."""
    scale, zero = grid.fit(weight)
    return ((grid.encode(weight, scale, zero) - zero) * scale - weight).square().sum(0)


@pytest.mark.parametrize("scheme", ["absmax", "zero_point"])
def test_half_scales_are_fitted_as_a_float16_holds_them(scheme: str) -> None:
    weight = torch.randn(64, 50, generator=torch.Generator().manual_seed(0)) * torch.logspace(-9, 4, 50)
    scale, _ = Grid(4, scheme, scale_search=True, half_scales=True).fit(weight)
    assert torch.equal(scale.half().float(), scale)
    assert bool((scale > 0).all())
    assert bool(scale.isfinite().all())
    plain, _ = Grid(4, scheme).fit(weight[:, 30:])
    half, _ = Grid(4, scheme, half_scales=True).fit(weight[:, 30:])
    assert torch.equal(half, plain.half().float())
