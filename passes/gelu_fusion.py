"""The Gaussian error linear unit is one operator since opset 20.

    erf     x/2 (1 + erf(x / sqrt 2))                                -> Gelu(x)
    tanh    x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))            -> Gelu<approximate = "tanh">(x)

Hendrycks and Gimpel 2016 (arXiv 1606.08415). The constants must be these to float32's last digits: a model that was
trained with others is another model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import onnx_ir as ir

from passes.building import Builder
from passes.dead_node_elimination import DeadNodeElimination
from passes.matching import by_scalar, made_by, origin, scalar
from passes.refusal import Refusal

FIRST_OPSET = 20
TOLERANCE = 1e-3  # float16 and bfloat16 hold constants to three digits; the functions nearby are further off


@dataclass
class GeluFusion(ir.passes.InPlacePass):
    """Turn each written-out GELU into one Gelu."""

    refusals: list[Refusal] = field(default_factory=list, init=False)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        self.refusals = []
        build = Builder(model.graph)
        products = [node for node in model.graph if node.domain == "" and node.op_type == "Mul"]
        opset = model.opset_imports.get("", 1)
        if not any([self._try_to_fuse(node, opset, build) for node in products]):
            return ir.passes.PassResult(model, False)
        DeadNodeElimination()(model)
        return ir.passes.PassResult(model, True)

    def _try_to_fuse(self, node: ir.Node, opset: int, build: Builder) -> bool:
        found = _gelu(node)
        if found is None:
            return False
        if opset < FIRST_OPSET:
            self.refusals.append(Refusal.of(node, f"opset {opset} has no Gelu; it came with {FIRST_OPSET}"))
            return False
        x, approximate = found
        build.before(node)
        build.hand_over(node.outputs[0], build.one("Gelu", [x], {"approximate": approximate}))
        return True


def _gelu(node: ir.Node) -> tuple[ir.Value, str] | None:
    """x and the kind, of a product of 1/2, x and 1 + bend(x) in any order of multiplication."""
    factors, number = _factors(node)
    for at, factor in enumerate(factors):
        bent = _one_more_than(factor)
        if bent is None or not math.isclose(number, 0.5, rel_tol=TOLERANCE):
            continue
        (other,) = factors[:at] + factors[at + 1 :] if len(factors) == 2 else (None,)
        kind = _kind(bent, other) if other is not None else None
        if other is not None and kind is not None:
            return other, kind
    return None


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
    right = math.isclose(factor, math.sqrt(2 / math.pi), rel_tol=TOLERANCE) and _is_cubic(inner, x)
    return "tanh" if right else None


def _is_scaled(value: ir.Value | None, x: ir.Value, factor: float) -> bool:
    node = made_by(value, "Mul", "Div")
    split = by_scalar(node)
    if node is None or split is None or origin(split[0]) is not x or not split[1]:
        return False
    by = split[1] if node.op_type == "Mul" else 1 / split[1]
    return math.isclose(by, factor, rel_tol=TOLERANCE) and (node.op_type == "Mul" or split[0] is node.inputs[0])


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
    return scaled is not None and math.isclose(scaled[1], 0.044715, rel_tol=TOLERANCE) and _is_cube(scaled[0], x)


def _is_cube(value: ir.Value, x: ir.Value) -> bool:
    power = made_by(value, "Pow")
    if power is not None:
        return scalar(power.inputs[1]) == 3.0 and power.inputs[0] is not None and origin(power.inputs[0]) is x
    outer = made_by(value, "Mul")
    if outer is None:
        return False
    squares = [made_by(one, "Mul") for one in outer.inputs if one is not None and origin(one) is not x]
    return len(squares) == 1 and squares[0] is not None and all(one is x for one in squares[0].inputs)
