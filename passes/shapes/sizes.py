"""A size that need not be known: a polynomial of symbols, each of them one axis or one entry of a value.

    12 N + 1    =    Size((((), 1), ((("x", 0),), 12)))        N: the first axis of x

Two equal polynomials are equal in every run.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

Symbol = tuple[str, int]  # a value's name and an axis; as content: its name and the place of the element
ENTRY = "[]"  # behind the name of a value, where a symbol is what it holds
GIVEN = "input "  # how the symbols of a graph input's axes begin
Product = tuple[Symbol, ...]  # sorted; empty for 1


class Size(NamedTuple):
    """A whole number, known or not: the sum of products of symbols, each with its factor, sorted and none of them 0."""

    terms: tuple[tuple[Product, int], ...]

    @staticmethod
    @functools.lru_cache(maxsize=1 << 12)
    def of(number: int) -> Size:
        return Size((((), number),) if number else ())

    @classmethod
    def symbol(cls, name: str, place: int) -> Size:
        return cls(((((name, place),), 1),))

    @classmethod
    def sum_of(cls, terms: Iterable[tuple[Product, int]]) -> Size:
        factors: dict[Product, int] = {}
        for symbols, factor in terms:
            factors[symbols] = factors.get(symbols, 0) + factor
        return cls(tuple(sorted((symbols, factor) for symbols, factor in factors.items() if factor)))

    @property
    def known(self) -> int | None:
        terms = self.terms
        if not terms:
            return 0
        symbols, factor = terms[0]
        return factor if len(terms) == 1 and not symbols else None

    @property
    def symbols(self) -> set[Symbol]:
        return {symbol for symbols, _ in self.terms for symbol in symbols}

    @property
    def is_count(self) -> bool:
        """Whether it cannot be below 0: sizes of axes, added up and multiplied. Entries of a tensor may be."""
        return all(factor > 0 for _, factor in self.terms) and not any(name.endswith(ENTRY) for name, _ in self.symbols)

    def plus(self, other: Size) -> Size:
        return Size.sum_of((*self.terms, *other.terms))

    def times(self, other: Size) -> Size:
        pairs = itertools.product(self.terms, other.terms)
        return Size.sum_of((tuple(sorted((*a, *b))), m * n) for (a, m), (b, n) in pairs)

    def over(self, other: Size) -> Size | None:
        """The exact quotient, where it can be told."""
        if self == other:
            return ONE
        if len(other.terms) != 1:
            return None
        ((divisor, number),) = other.terms
        terms = [_without(symbols, divisor) for symbols, _ in self.terms]
        if any(left is None for left in terms) or any(factor % number for _, factor in self.terms):
            return None
        pairs = zip(terms, self.terms, strict=True)
        return Size.sum_of((left, factor // number) for left, (_, factor) in pairs if left is not None)


def _without(symbols: Product, divisor: Product) -> Product | None:
    left = list(symbols)
    for symbol in divisor:
        if symbol not in left:
            return None
        left.remove(symbol)
    return tuple(left)


Sizes = tuple[Size, ...]
ONE = Size.of(1)


def product(sizes: Iterable[Size]) -> Size:
    result = ONE
    for size in sizes:
        result = result.times(size)
    return result


def known(sizes: Sizes | None) -> list[int] | None:
    """All of them as numbers, or None."""
    if sizes is None:
        return None
    numbers = [size.known for size in sizes]
    return [number for number in numbers if number is not None] if None not in numbers else None


def broadcast(shapes: Sequence[Sizes]) -> list[Size | None]:
    """The common shape; None for an axis that a run decides."""
    rank = max(map(len, shapes), default=0)
    padded = [(ONE,) * (rank - len(shape)) + shape for shape in shapes]
    return [_common(column) for column in zip(*padded, strict=True)]


def _common(column: Sequence[Size]) -> Size | None:
    if all(size == column[0] for size in column):
        return column[0]
    wide = {size for size in column if size != ONE}
    for size in wide:
        if (size.known or 0) > 1:
            return size
    if len(wide) > 1:
        return None
    return next(iter(wide), ONE)
