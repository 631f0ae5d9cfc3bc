from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from compressor.quantize.gptq import RETRIES, Gptq, NotPositiveDefiniteError
from compressor.quantize.qtensor import PER_CHANNEL, Grid
from compressor.quantize.rtn import RoundToNearest
from compressor.quantize.statistics import SecondMoment
from tests import laws
from tests.quantize.test_laws import CASES


def surgeon(solver: Gptq, layer: laws.Layer) -> np.ndarray:
    """Optimal Brain Surgeon, row by row, with the inverse Hessian of the rows F that are still free:

        delta  =  -(w_i - q_i) / [H_F^-1]_ii * [H_F^-1]_:,i        then row i leaves F,  by Gaussian elimination
        H_F^-1  <-  H_F^-1  -  [H_F^-1]_:,i [H_F^-1]_i,: / [H_F^-1]_ii

    Frantar et al. 2022 (arXiv 2210.17323), equations 1 to 3. Returns the dequantized weight [in, out].
    """
    weight, moment = layer.weight.numpy(), layer.moment.numpy()
    rows, columns = weight.shape
    size = rows if solver.group_size == PER_CHANNEL else solver.group_size
    spoken = np.where(moment.diagonal() > 0, moment.diagonal(), 1)
    hessian = moment + np.diag(spoken - moment.diagonal() + solver.damping * moment.diagonal().mean())
    order = np.argsort(-moment.diagonal(), kind="stable") if solver.act_order else np.arange(rows)
    free = np.linalg.inv(hessian[np.ix_(order, order)])
    updated, solved, grids = weight.copy(), np.empty_like(weight), {}
    for at, row in enumerate(order):
        group = slice(row // size * size, row // size * size + size)
        if group.start not in grids:
            source = weight if solver.act_order else updated
            grids[group.start] = [laws.fit_slowly(source[group, column], solver.grid) for column in range(columns)]
        scale, zero = np.array(grids[group.start]).T
        solved[row] = (laws.encode_slowly(updated[row], scale, zero, solver.grid.levels) - zero) * scale
        delta = -np.outer(free[:, 0], updated[row] - solved[row]) / free[0, 0]
        updated[order[at:]] += delta
        free = (free - np.outer(free[:, 0], free[0]) / free[0, 0])[1:, 1:]
    return solved


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize(("grid", "group_size"), CASES, ids=str)
def test_equals_the_paper_typed_out(grid: Grid, group_size: int, act_order: bool) -> None:
    solver = Gptq(grid, group_size, act_order=act_order)
    layer = laws.correlated_layer(laws.rows_for(group_size))
    solved = solver.solve(layer.weight, layer.moment)
    # The same codes to the last one: a single other code would be off by a whole step. 1e-6: scales are float32.
    np.testing.assert_allclose(solved.dequantize(), surgeon(solver, layer), rtol=1e-6)
    slowly = solver.solve_slowly(layer.weight, layer.moment)
    assert torch.equal(solved.q, slowly.q)
    assert torch.equal(solved.zero, slowly.zero)


def test_elimination_is_the_inverse_of_the_rows_that_are_left() -> None:
    """What `surgeon` takes from the paper, checked once against an inverse computed anew."""
    hessian = laws.correlated_layer(40).moment.numpy()
    free = np.linalg.inv(hessian)
    for left in range(1, 40):
        free = (free - np.outer(free[:, 0], free[0]) / free[0, 0])[1:, 1:]
        np.testing.assert_allclose(free, np.linalg.inv(hessian[left:, left:]), rtol=1e-6, atol=1e-9 * free.max())


@pytest.mark.parametrize("act_order", [False, True])
def test_a_silent_input_is_merely_rounded(act_order: bool) -> None:
    layer = laws.correlated_layer(133).copy()
    for row in (0, 50, 132):
        layer.moment[row], layer.moment[:, row] = 0, 0
    solver = Gptq(Grid(4, "absmax"), 32, act_order=act_order)
    solved = solver.solve(layer.weight, layer.moment)
    np.testing.assert_allclose(solved.dequantize(), surgeon(solver, layer), rtol=1e-6)
    step = solved.scale.repeat_interleave(32, 0)[:133]
    for row in (0, 50):  # 132 stands alone in its error, and not in its group: 128..132 were updated before it
        assert bool(((solved.dequantize() - layer.weight)[row].abs() <= 0.5 * step[row] * (1 + 1e-6)).all())


def test_a_group_of_zeros_stays_finite() -> None:
    """Without act_order the group is no longer zero when its turn comes; nothing divides by its size."""
    layer = laws.correlated_layer(133).copy()
    layer.weight[32:64] = 0
    for act_order in (False, True):
        solver = Gptq(Grid(4, "zero_point"), 32, act_order=act_order)
        laws.assert_on_grid(solved := solver.solve(layer.weight, layer.moment), solver, 133)
        np.testing.assert_allclose(solved.dequantize(), surgeon(solver, layer), rtol=1e-6)


def test_an_empty_moment_is_plain_rounding() -> None:
    """Calibration that never reached the layer."""
    weight = laws.correlated_layer(133).weight
    solver = Gptq(Grid(4, "absmax"), 32)
    assert torch.equal(solver.solve(weight, torch.zeros(133, 133)).q, RoundToNearest(solver.grid, 32).solve(weight).q)


@pytest.mark.parametrize("group_size", [PER_CHANNEL, 32, 128])
@pytest.mark.parametrize("act_order", [False, True])
def test_float32_loses_nothing_that_counts(group_size: int, act_order: bool) -> None:
    layer = laws.correlated_layer(laws.rows_for(group_size), columns=64)
    solver = Gptq(Grid(3, "absmax"), group_size, act_order=act_order)
    single = solver.solve(layer.weight.float(), layer.moment.float())
    double = solver.solve(layer.weight, layer.moment)
    # A code on the edge may fall to the other side, and later rows answer to it: other codes, the same loss within 2 %.
    assert layer.loss(single) == pytest.approx(layer.loss(double), rel=0.02)
    assert float((single.q == double.q).float().mean()) > 0.98


def test_one_factorisation_serves_every_weight_of_an_input() -> None:
    layer = laws.correlated_layer(133)
    solver = Gptq(Grid(4, "absmax"), 32)
    factorised = solver.factorise(layer.moment)
    for weight in (layer.weight, layer.weight.flip(1) * 2):
        assert torch.equal(factorised.solve(weight).q, solver.solve(weight, layer.moment).q)


def test_the_loudest_input_is_rounded_first() -> None:
    moment = torch.diag(torch.tensor([1.0, 9.0, 4.0, 9.0]))
    assert Gptq(Grid(4, "absmax"), 32, act_order=True).order(moment).tolist() == [1, 3, 2, 0]
    assert Gptq(Grid(4, "absmax"), 32).order(moment).tolist() == [0, 1, 2, 3]


def test_damping_grows_tenfold_until_a_singular_moment_can_be_factorised() -> None:
    singular = torch.ones(64, 64)  # every input says the same
    solver = Gptq(Grid(4, "absmax"), 32, damping=1e-9)  # less than float32 can add to 1
    factorised = solver.factorise(singular)
    tenfolds = np.log10(factorised.damping / solver.damping)
    assert tenfolds == pytest.approx(round(tenfolds))
    assert 1 <= round(tenfolds) <= RETRIES
    assert Gptq(Grid(4, "absmax"), 32).factorise(singular).damping == 0.01  # the paper's value needs no second try


def test_inputs_in_bfloat16_need_no_second_try() -> None:
    """Products rounded to bfloat16 would move small eigenvalues below zero; here all but ten are that small."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(4000, 10, generator=generator) @ torch.randn(10, 600, generator=generator)
    moment = SecondMoment(600)
    for batch in inputs.bfloat16().split(500):
        moment.add(batch)
    assert Gptq(Grid(4, "absmax"), 128).factorise(moment.value()).damping == 0.01


@pytest.mark.parametrize(
    ("moment", "damping"),
    [
        (torch.ones(64, 64), 1e-14),  # out of reach of every retry
        (torch.full((64, 64), torch.nan), 0.01),
        (torch.full((64, 64), torch.inf), 0.01),
        (-torch.eye(64), 0.01),
    ],
)
def test_a_moment_that_no_damping_helps_is_refused(moment: torch.Tensor, damping: float) -> None:
    with pytest.raises(NotPositiveDefiniteError, match="not positive definite with damping"):
        Gptq(Grid(4, "absmax"), 32, damping=damping).factorise(moment)


def test_act_order_leaves_the_rows_where_they_are_stored() -> None:
    """Shuffling the inputs shuffles the codes, and changes none of them."""
    layer = laws.correlated_layer(133)
    shuffle = torch.randperm(133, generator=torch.Generator().manual_seed(0))
    solver = replace(Gptq(Grid(4, "absmax"), PER_CHANNEL), act_order=True)
    shuffled = solver.solve(layer.weight[shuffle], layer.moment[shuffle][:, shuffle])
    assert torch.equal(shuffled.q, solver.solve(layer.weight, layer.moment).q[shuffle])
