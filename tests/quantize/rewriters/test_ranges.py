"""What of an activation a grid should hold: told by hand, and by what clipping it would cost."""

from __future__ import annotations

import numpy as np
import pytest

from compressor.errors import RequestError
from compressor.graph.decoder import Feeds
from compressor.quantize.rewriters import ranges
from compressor.quantize.rewriters.ranges import Range, observe
from tests import graphs

MODEL = graphs.build("(float[N] x) => (float[N] y) { h = Mul(x, two) y = Relu(h) }", opset=21, two=np.float32(2))


def batches(*arrays: np.ndarray) -> list[Feeds]:
    return [{"x": array.astype(np.float32)} for array in arrays]


def test_minmax_holds_all_that_was_seen_and_zero() -> None:
    found = observe(MODEL, ["x", "h", "y"], batches(np.array([1, 3]), np.array([2, 5])), "minmax", 100)
    assert found == {"x": Range(0, 5), "h": Range(0, 10), "y": Range(0, 10)}
    found = observe(MODEL, ["x", "y"], batches(np.array([-1]), np.array([-4])), "minmax", 100)
    assert found == {"x": Range(-4, 0), "y": Range(0, 0)}


def test_a_percentile_leaves_out_the_share_it_says() -> None:
    x = np.concatenate([np.linspace(-1, 1, 999), [100]])
    kept = observe(MODEL, ["x"], batches(x), "percentile", 99.8)["x"]
    # A bin is 100 / 2048 wide: the threshold lies on the edge of the one that holds the largest of the rest.
    assert kept == Range(-1, pytest.approx(1, abs=100 / ranges.BINS))
    assert observe(MODEL, ["x"], batches(x), "percentile", 100)["x"] == Range(-1, pytest.approx(100))


def test_entropy_clips_one_outlier_and_keeps_what_has_none() -> None:
    rng = np.random.default_rng(0)
    bell = rng.normal(size=20000)
    clipped = observe(MODEL, ["x"], batches(np.append(bell, 50)), "entropy", 100)["x"]
    assert 2.5 < clipped.high < 6
    even = observe(MODEL, ["x"], batches(rng.uniform(-1, 1, 20000)), "entropy", 100)["x"]
    assert even.high > 0.95


def test_entropy_is_not_led_by_the_zeros_of_a_relu() -> None:
    """Nine of ten values are 0; the threshold is that of the tenth."""
    bell = np.random.default_rng(0).normal(size=4000)
    alone, among = (
        observe(MODEL, ["x"], batches(x), "entropy", 100)["x"].high for x in (bell, np.append(bell, np.zeros(36000)))
    )
    assert among == pytest.approx(alone, rel=0.05)  # the first bin counts as the second: a sliver of the mass


def test_divergence_by_hand() -> None:
    """256 bins, two to a level: what is even within its level loses nothing."""
    even = np.repeat(np.arange(1, 129), 2)
    assert ranges._divergence(even, 256) == pytest.approx(0, abs=1e-12)
    uneven = even.copy()
    uneven[0], uneven[1] = 2, 0
    assert ranges._divergence(uneven, 256) == pytest.approx(0, abs=1e-12)  # an empty bin takes no part
    uneven[0], uneven[1] = 3, 1
    total = uneven.sum()
    expected = (3 * np.log(3 / 2) + 1 * np.log(1 / 2)) / total
    assert ranges._divergence(uneven, 256) == pytest.approx(expected)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(broken: float) -> None:
    with pytest.raises(RequestError, match="'h' is not finite on this data"):
        observe(MODEL, ["h"], batches(np.array([1, broken])), "minmax", 100)


def test_data_on_which_the_graph_does_not_run_is_refused() -> None:
    with pytest.raises(RequestError, match="calibration: the graph does not run on it"):
        observe(MODEL, ["h"], [{"x": np.zeros((2, 2), np.float32)}], "minmax", 100)


def test_zeros_have_a_range_of_their_own() -> None:
    for kind in ("minmax", "entropy", "percentile"):
        assert observe(MODEL, ["x"], batches(np.zeros(9)), kind, 99)["x"] == Range(0, 0)
