"""The Gaussian error linear unit is one operator since opset 20.

    erf     x/2 (1 + erf(x / sqrt 2))                                -> Gelu(x)
    tanh    x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))            -> Gelu<approximate = "tanh">(x)

Hendrycks and Gimpel 2016 (arXiv 1606.08415). The constants must be these to the last digits of x's type: a model that
was trained with others is another model.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from passes.editing.building import Builder
from passes.editing.replacing import hand_over
from passes.formulas.matching import by_scalar, made_by, origin, scalar
from passes.fusion import Fusion
from passes.running.proof import EPSILON

BENDS = ("Erf", "Tanh")


class GeluFusion(Fusion[tuple[ir.Value, str]]):
    """Turn each written-out GELU into one Gelu."""

    operator, first_opset = "Gelu", 20

    def find(self, node: ir.Node) -> tuple[ir.Value, str] | None:
        return _gelu(node) if (node.domain, node.op_type) == ("", "Mul") else None

    def near(self, node: ir.Node) -> str:
        return _why_not(node) if (node.domain, node.op_type) == ("", "Mul") and not _goes_on(node) else ""

    def fuse(self, node: ir.Node, found: tuple[ir.Value, str], build: Builder) -> None:
        x, approximate = found
        hand_over(node.outputs[0], build.one("Gelu", [x], {"approximate": approximate}), build.names)


def _gelu(node: ir.Node) -> tuple[ir.Value, str] | None:
    """x and the kind, of a product of 1/2, x and 1 + bend(x) in any order of multiplication."""
    factors, number = _factors(node)
    for at, factor in enumerate(factors):
        bent = _one_more_than(factor)
        if bent is None or number != 0.5:
            continue
        (other,) = factors[:at] + factors[at + 1 :] if len(factors) == 2 else (None,)
        kind = _kind(bent, other) if other is not None else None
        if other is not None and kind is not None:
            return other, kind
    return None


def _goes_on(node: ir.Node) -> bool:
    """A product that is one factor of the next is judged there."""
    return any(reader.op_type in ("Mul", "Div") for reader in node.outputs[0].consumers())


def _why_not(node: ir.Node) -> str:
    factors, number = _factors(node)
    bent = next((bend for one in factors if (bend := made_by(_one_more_than(one), *BENDS)) is not None), None)
    if bent is None:
        return ""
    if len(factors) != 2:
        return f"it is a product of {len(factors)} values, one of them 1 + {bent.op_type}"
    if number != 0.5:
        return f"the numbers in it multiply to {number:g} and not to 0.5"
    return f"'{bent.outputs[0].name}' is not the {bent.op_type} that the formula has of the other factor"


def _factors(node: ir.Node) -> tuple[list[ir.Value], float]:
    """The factors of nested products, numbers multiplied out; a division by a number is a product too."""
    factors: list[ir.Value] = []
    number = 1.0
    stack = list(node.inputs)
    while stack:
        value = stack.pop()
        constant = scalar(value)
        inner = made_by(value, "Mul", "Div")
        split = by_scalar(inner)
        if value is None:
            continue
        if constant is not None:
            number *= constant
        elif inner is not None and split is not None and inner.op_type == "Mul":
            stack.append(split[0])
            number *= split[1]
        elif inner is not None and split is not None and split[0] is inner.inputs[0] and split[1]:
            stack.append(split[0])
            number /= split[1]
        elif inner is not None and inner.op_type == "Mul" and len(inner.outputs[0].uses()) == 1:
            stack.extend(inner.inputs)
        else:
            factors.append(origin(value))
    return factors, number


def _one_more_than(value: ir.Value) -> ir.Value | None:
    moved = by_scalar(made_by(value, "Add"))
    return moved[0] if moved is not None and moved[1] == 1.0 else None


def _kind(bent: ir.Value, x: ir.Value) -> str | None:
    """none for the error function, tanh for its approximation, of this very x."""
    erf, tanh = made_by(bent, "Erf"), made_by(bent, "Tanh")
    if erf is not None and _is_scaled(erf.inputs[0], x, math.sqrt(0.5)):
        return "none"
    if tanh is None or (scaled := by_scalar(made_by(tanh.inputs[0], "Mul"))) is None:
        return None
    inner, factor = scaled
    right = _close(factor, math.sqrt(2 / math.pi), x) and _is_cubic(inner, x)
    return "tanh" if right else None


def _is_scaled(value: ir.Value | None, x: ir.Value, factor: float) -> bool:
    node = made_by(value, "Mul", "Div")
    split = by_scalar(node)
    if node is None or split is None or origin(split[0]) is not x or not split[1]:
        return False
    by = split[1] if node.op_type == "Mul" else 1 / split[1]
    return _close(by, factor, x) and (node.op_type == "Mul" or split[0] is node.inputs[0])


def _is_cubic(value: ir.Value, x: ir.Value) -> bool:
    """x + 0.044715 x^3"""
    node = made_by(value, "Add")
    if node is None:
        return False
    left, right = (origin(one) if one is not None else None for one in node.inputs)
    cubes = [one for one in (left, right) if one is not x]
    if len(cubes) != 1 or cubes[0] is None:
        return False
    scaled = by_scalar(made_by(cubes[0], "Mul"))
    return scaled is not None and _close(scaled[1], 0.044715, x) and _is_cube(scaled[0], x)


def _is_cube(value: ir.Value, x: ir.Value) -> bool:
    power = made_by(value, "Pow")
    if power is not None:
        return scalar(power.inputs[1]) == 3.0 and power.inputs[0] is not None and origin(power.inputs[0]) is x
    outer = made_by(value, "Mul")
    if outer is None:
        return False
    squares = [made_by(one, "Mul") for one in outer.inputs if one is not None and origin(one) is not x]
    return len(squares) == 1 and squares[0] is not None and all(one is x for one in squares[0].inputs)


def _close(number: float, constant: float, x: ir.Value) -> bool:
    """Equal as far as the type of x can tell: rounded when it was stored, and once more where it is 1 / c."""
    return math.isclose(number, constant, rel_tol=EPSILON[x.dtype or ir.DataType.FLOAT])
