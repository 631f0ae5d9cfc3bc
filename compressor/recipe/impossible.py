"""What no machine can do, said when a recipe is read: parts that do not go together, a method on a target.

What a target cannot run is a row: where the recipe says it, when it is impossible, and the line that says what to do
instead. Bits, groups and schemes are ranges of numbers and no rows (`formats.py`); what only the model's configuration
tells is asked once there is one (`providers/combinations.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressor import catalog
from compressor.recipe.yaml_text import Place

if TYPE_CHECKING:
    from compressor.recipe.recipe import Recipe

WEIGHT_ONLY = "use a weight-only method: rtn or gptq"


@dataclass(frozen=True)
class Rule:
    """`place` is the field at fault; the rule speaks when its first two parts are set and `when` holds."""

    place: tuple[str, ...]
    when: Callable[[Recipe], bool]
    why: str


def _target(*names: str) -> Callable[[Recipe], bool]:
    return lambda recipe: recipe.target in names


def _static(recipe: Recipe, field: str) -> object:
    return getattr(recipe.quantize.static_qdq, field)


# Sources: kernel tables of ONNX Runtime 1.31.1 (its CUDA provider has no integer convolution, and of the integer
# products int8 x int8 alone; a Q/DQ graph runs there in float); operator table of onnx-tensorrt 10.
RULES = (
    Rule(
        ("quantize", "dynamic"),
        _target("cuda"),
        f"CUDA runs no integer-quantized graph: its nodes would fall to the CPU; {WEIGHT_ONLY}",
    ),
    Rule(
        ("quantize", "static_qdq"),
        _target("cuda"),
        f"CUDA runs no integer-quantized graph: it computes Q/DQ in float, slower than without; {WEIGHT_ONLY}",
    ),
    Rule(
        ("quantize", "dynamic"),
        _target("tensorrt"),
        "TensorRT accepts static symmetric quantization only; use static_qdq",
    ),
    Rule(
        ("quantize", "llm_int8"),
        _target("tensorrt"),
        "TensorRT reads no MatMulInteger; use static_qdq, or rtn or gptq",
    ),
    Rule(("quantize", "nf4"), _target("tensorrt"), "TensorRT reads no MatMulBnb4; use rtn or gptq with 4 bits"),
    Rule(("quantize", "fp4"), _target("tensorrt"), "TensorRT reads no MatMulBnb4; use rtn or gptq with 4 bits"),
    Rule(
        ("quantize", "static_qdq", "dtype"),
        lambda recipe: recipe.target == "tensorrt" and _static(recipe, "dtype") == "uint8",
        "TensorRT accepts static symmetric quantization only; use int8",
    ),
    Rule(
        ("quantize", "static_qdq", "symmetric"),
        lambda recipe: recipe.target == "tensorrt" and _static(recipe, "symmetric") is False,
        "TensorRT accepts static symmetric quantization only; use true",
    ),
    Rule(
        ("quantize", "static_qdq", "dtype"),
        lambda recipe: recipe.target == "cpu" and _static(recipe, "dtype") == "fp8",
        "no CPU kernel computes in fp8; use uint8 or int8, or target tensorrt",
    ),
    Rule(
        ("quantize", "embeddings"),
        _target("tensorrt"),
        "TensorRT gathers no rows of 8-bit codes; use rtn or gptq without embeddings",
    ),
    Rule(
        ("package", "kv_cache"),
        lambda recipe: not recipe.paged,
        "it is of the paged twin, and there is none here; use package.paged: true and another target than tensorrt",
    ),
    Rule(
        ("package", "kv_cache"),
        lambda recipe: recipe.target == "cuda" and recipe.package.kv_cache == "float32",
        "PagedAttention on CUDA reads and writes half precision; use float16",
    ),
)


def findings(recipe: Recipe) -> Iterator[tuple[Place, str]]:
    """Place and sentence of everything that cannot be."""
    yield from _mismatches(recipe)
    for rule in RULES:
        section, field, *_ = rule.place
        if getattr(getattr(recipe, section), field) is not None and rule.when(recipe):
            yield rule.place, rule.why


def _mismatches(recipe: Recipe) -> Iterator[tuple[Place, str]]:
    """Parts of a recipe that no target could have together."""
    name = recipe.quantize.name
    if recipe.package.format is not None and name in (*catalog.OWN_FORMAT, *catalog.REWRITERS):
        yield ("package", "format"), f"{name} has a form of its own; leave package.format out"
    if recipe.quantize.budget is not None and name not in catalog.SOLVERS:
        yield ("quantize", "budget"), f"{name} has bits of its own; a budget is spent by rtn or gptq"
    for preparation in recipe.quantize.prepared:
        served = catalog.PREPARATIONS[preparation]
        if name not in served:
            yield ("quantize", preparation), f"{preparation} prepares for {' or '.join(served)}, not for {name}"
        if catalog.FORMATS[recipe.format].checkpoint:
            why = f"{preparation} changes weights that a {recipe.format} package copies; use matmulnbits or qdq"
            yield ("quantize", preparation), why
    if recipe.quantize.embeddings is not None and (name not in catalog.SOLVERS or recipe.format not in catalog.TABLES):
        why = "tables are packed beside the weights of rtn or gptq, in format matmulnbits or qdq; leave embeddings out"
        yield ("quantize", "embeddings"), why
