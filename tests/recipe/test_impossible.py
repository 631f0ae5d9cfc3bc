"""What a target cannot run is refused when the recipe is read, with its line and what to do instead."""

from __future__ import annotations

import pytest

from compressor.errors import RecipeError
from compressor.recipe import impossible, recipe


@pytest.mark.parametrize(
    ("target", "quantize", "finding"),
    [
        ("cuda", "dynamic: {}", "a.yaml:4: quantize.dynamic: CUDA runs no integer-quantized graph"),
        ("cuda", "static_qdq: {}", "a.yaml:4: quantize.static_qdq: CUDA runs no integer-quantized graph"),
        ("tensorrt", "dynamic: {}", "a.yaml:4: quantize.dynamic: TensorRT accepts static symmetric quantization only"),
        ("tensorrt", "static_qdq: {dtype: uint8}", "a.yaml:4: quantize.static_qdq.dtype: TensorRT accepts static"),
        ("tensorrt", "static_qdq: {symmetric: false}", "a.yaml:4: quantize.static_qdq.symmetric: TensorRT accepts"),
        (
            "tensorrt",
            "{rtn: {group_size: 64}, embeddings: 8}",
            "a.yaml:4: quantize.embeddings: TensorRT gathers no rows",
        ),
        ("cpu", "static_qdq: {dtype: fp8}", "a.yaml:4: quantize.static_qdq.dtype: no CPU kernel computes in fp8"),
    ],
)
def test_a_method_that_a_target_cannot_run_is_refused(target: str, quantize: str, finding: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe.parse(f"model: x\ntarget: {target}\nquantize:\n  {quantize}\n", "a.yaml")
    (found,) = caught.value.findings
    assert found.startswith(finding)


@pytest.mark.parametrize(
    ("target", "cache", "why"),
    [
        ("tensorrt", "int8", "use package.paged: true and another target than tensorrt"),
        ("cuda", "float32", "half precision; use float16"),
    ],
)
def test_a_cache_that_cannot_be_kept_is_refused(target: str, cache: str, why: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe.parse(f"model: x\ntarget: {target}\npackage:\n  kv_cache: {cache}\n", "a.yaml")
    (found,) = caught.value.findings
    assert found.startswith("a.yaml:4: package.kv_cache: ")
    assert found.endswith(why)


def test_the_line_says_what_to_do_instead() -> None:
    assert all("; use " in rule.why for rule in impossible.RULES)


@pytest.mark.parametrize(
    ("target", "quantize"),
    [
        ("cpu", {"dynamic": {}}),
        ("cpu", {"static_qdq": {}}),
        ("tensorrt", {"static_qdq": {"symmetric": True}}),
        ("tensorrt", {"static_qdq": {"dtype": "fp8"}}),
        ("generic", {"static_qdq": {"dtype": "uint8"}}),
    ],
)
def test_what_a_target_runs_is_taken(target: str, quantize: dict[str, object]) -> None:
    assert recipe.build({"model": "x", "target": target, "quantize": quantize}).target == target


def test_zero_point_of_fp8_is_refused() -> None:
    with pytest.raises(RecipeError, match="symmetric: false has no meaning for fp8"):
        recipe.build({"model": "x", "quantize": {"static_qdq": {"dtype": "fp8", "symmetric": False}}})
