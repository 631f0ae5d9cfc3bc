from __future__ import annotations

import numpy as np
import pytest

from passes.initializer_sharing import InitializerSharing
from tests import graphs, laws


def summed(**weights: np.ndarray) -> graphs.ir.Model:
    kind = {"float32": "float", "int64": "int64"}[str(weights["a"].dtype)]
    shape = ",".join(map(str, weights["a"].shape))
    text = f"({kind}[{shape}] x) => ({kind}[{shape}] y) {{ s = Add(x, a)  y = Add(s, b) }}"
    return graphs.build(text, **weights)


def test_equal_weights_are_stored_once() -> None:
    model = summed(a=graphs.normal(3, 4), b=graphs.normal(3, 4))
    assert laws.left_by(InitializerSharing(), model) == ["Add", "Add"]
    assert list(model.graph.initializers) == ["a"]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.float32([0.0, 1.0]), np.float32([-0.0, 1.0])),
        (np.float32([1.0, 2.0]), np.float32([1.0, np.nextafter(np.float32(2), np.float32(3))])),
    ],
)
def test_bytes_decide(a: np.ndarray, b: np.ndarray) -> None:
    assert laws.reasons(InitializerSharing(), summed(a=a, b=b)) == []


def test_a_last_entry_that_differs_is_seen() -> None:
    """Large weights are first told apart by a sample."""
    a = np.zeros((300, 70), np.float32)
    b = a.copy()
    b[-1, -1] = 1
    assert laws.reasons(InitializerSharing(), summed(a=a, b=b)) == []


def test_the_same_bytes_of_another_type_are_another_weight() -> None:
    text = "(float[2] x, int32[2] z) => (float[2] y, int32[2] w) { y = Add(x, a)  w = Add(z, b) }"
    model = graphs.build(text, a=np.zeros(2, np.float32), b=np.zeros(2, np.int32))
    assert laws.reasons(InitializerSharing(), model) == []


def test_a_default_that_a_caller_may_set_stays() -> None:
    text = "(float[2] x, float[2] b) => (float[2] y) { s = Add(x, a)  y = Add(s, b) }"
    assert laws.reasons(InitializerSharing(), graphs.build(text, a=graphs.normal(2), b=graphs.normal(2))) == []


def test_what_a_norm_that_trains_writes_to_is_its_own() -> None:
    """ONNX Runtime moves its mean where the zeros of the bias would lie, and its variance where its scale would."""
    text = """(float[8,4] x) => (float[8,4] y, float[4] m, float[4] v) {
        y, m, v = BatchNormalization<training_mode = 1>(x, scale, bias, mean, variance)
    }"""
    names = ("scale", "bias", "mean", "variance")
    weights = {name: np.full(4, name in ("scale", "variance"), np.float32) for name in names}
    assert laws.left_by(InitializerSharing(), graphs.build(text, **weights)) == ["BatchNormalization"]


def tied(table: np.ndarray, head: np.ndarray) -> graphs.ir.Model:
    text = """(int64[N] ids) => (float[N,1024] y) { e = Gather(table, ids)  y = MatMul(e, head) }"""
    return graphs.build(text, table=table, head=head)


def test_a_large_head_that_is_the_table_transposed_is_a_transpose_of_it() -> None:
    table = graphs.normal(1024, 256)
    model = tied(table, table.T.copy())
    assert sorted(laws.left_by(InitializerSharing(), model)) == ["Gather", "MatMul", "Transpose"]
    assert list(model.graph.initializers) == ["table"]


@pytest.mark.parametrize("entry", [(0, 0), (-1, -1)])
def test_a_head_that_differs_in_one_entry_is_its_own(entry: tuple[int, int]) -> None:
    table = graphs.normal(1024, 256)
    head = table.T.copy()
    head[entry] += 1
    assert laws.left_by(InitializerSharing(), tied(table, head)) == ["Gather", "MatMul"]
