"""A size computes what the numbers in the place of its symbols do."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from passes.shapes.sizes import ENTRY, ONE, Size, Symbol, broadcast, known, product

N, M = Size.symbol("x", 0), Size.symbol("x", 1)
HELD = Size.symbol(f"s{ENTRY}", 0)
TWO, THREE = Size.of(2), Size.of(3)
SIZES = (Size.of(0), ONE, THREE, N, M, HELD, N.plus(ONE), N.times(M).plus(THREE), N.plus(M.times(Size.of(-2))))
NUMBERS: Mapping[Symbol, int] = {("x", 0): 5, ("x", 1): 7, (f"s{ENTRY}", 0): -4}


def number(size: Size) -> int:
    return sum(factor * math.prod(NUMBERS[symbol] for symbol in symbols) for symbols, factor in size.terms)


@pytest.mark.parametrize("a", SIZES)
@pytest.mark.parametrize("b", SIZES)
def test_sums_and_products_are_those_of_the_numbers(a: Size, b: Size) -> None:
    assert number(a.plus(b)) == number(a) + number(b)
    assert number(a.times(b)) == number(a) * number(b)
    assert a.plus(b) == b.plus(a)
    assert a.times(b) == b.times(a)


@pytest.mark.parametrize("a", SIZES)
@pytest.mark.parametrize("b", [ONE, THREE, N, N.times(M), THREE.times(N)])
def test_a_quotient_undoes_a_product(a: Size, b: Size) -> None:
    assert a.times(b).over(b) == a


@pytest.mark.parametrize(("a", "b"), [(N, M), (N.plus(ONE), N), (THREE, TWO), (N, N.plus(ONE)), (N.times(THREE), TWO)])
def test_a_quotient_that_leaves_a_rest_is_none(a: Size, b: Size) -> None:
    assert a.over(b) is None


def test_what_cancels_out_is_known() -> None:
    assert N.plus(THREE).plus(N.times(Size.of(-1))).known == 3
    assert N.times(Size.of(0)).known == 0
    assert [size.known for size in (N, N.plus(ONE), THREE)] == [None, None, 3]
    assert (known((TWO, ONE)), known((TWO, N)), known(None)) == ([2, 1], None, None)


def test_a_count_is_never_below_zero() -> None:
    assert all(size.is_count for size in (ONE, N, product((N, M, THREE)), N.plus(ONE)))
    assert not any(size.is_count for size in (HELD, N.times(HELD), N.plus(Size.of(-1))))


def test_broadcasting_says_what_every_run_has() -> None:
    assert broadcast([(N, ONE), (M,)]) == [N, M]
    assert broadcast([(N,), (THREE,)]) == [THREE]  # or the run fails
    assert broadcast([(N,), (M,)]) == [None]  # one of them may be 1
    assert broadcast([(N, M), (N, M)]) == [N, M]
