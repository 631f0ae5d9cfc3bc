"""Six recipes that cannot work are refused before a model is loaded, each with what to do instead."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compressor import catalog
from compressor.errors import RecipeError, RequestError
from compressor.providers import combinations, kernels
from compressor.providers.combinations import Wanted
from compressor.providers.kernels import CPU, CUDA
from compressor.recipe import recipe
from tests.conftest import Outcome


def kernel(provider: str, domain: str, op_type: str, dtype: str) -> bool:
    schema = kernels.schema(domain, op_type, 21 if not domain else 1)
    assert schema is not None
    types = {name: dtype for name in ("T", "T1", "T2")}
    return kernels.newest().find(provider, domain, op_type, schema.since_version, types) is not None


def config_alone(folder: Path, model_type: str, architecture: str) -> Path:
    """A model's folder whose weights would not load: whoever reads them fails."""
    (folder / "config.json").write_text(json.dumps({"model_type": model_type, "architectures": [architecture]}))
    (folder / "model.safetensors").write_bytes(b"no weights")
    return folder


def ended(compress: Callable[..., Outcome], folder: Path, *settings: str) -> Outcome:
    file = folder / "recipe.yaml"
    file.write_text(f"# For nobody.\nmodel: {folder}\n")
    return compress("run", file, "-o", folder / "out", *(f"--set={one}" for one in settings))


@pytest.mark.parametrize(
    ("model", "settings", "words"),
    [
        (("resnet", "ResNetForImageClassification"), ("target=cuda", "export.dtype=bfloat16"),
         "export.dtype: bfloat16 on cuda: CUDA has no bfloat16 kernels for BatchNormalization"),
        (("llama", "LlamaForCausalLM"), ("target=cuda", "export.dtype=float32"),
         "export.dtype: float32 on cuda: GroupQueryAttention on CUDA is float16 or bfloat16"),
    ],
)  # fmt: skip
def test_what_the_model_decides_is_refused_by_its_configuration(
    model: tuple[str, str], settings: tuple[str, ...], words: str, tmp_path: Path, compress: Callable[..., Outcome]
) -> None:
    said = ended(compress, config_alone(tmp_path, *model), *settings)
    assert (said.code, said.out) == (2, "")
    assert words in said.err
    assert "use float16" in said.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wanted", [
    Wanted("cuda", "float16", ("group-query-attention-fusion",), "text-generation-with-past", "llama"),
    Wanted("cuda", "float32", (), "text-generation-with-past", "llama"),
    Wanted("cuda", "float32", ("group-query-attention-fusion",), "image-classification", "resnet"),
    Wanted("cpu", "float32", ("group-query-attention-fusion",), "text-generation-with-past", "llama"),
    Wanted("cuda", "bfloat16", (), "text-generation-with-past", "llama"),
])  # fmt: skip
def test_what_can_work_is_not_refused(wanted: Wanted) -> None:
    combinations.refuse(wanted)


def test_every_row_is_true_by_the_tables() -> None:
    for op_type in ("BatchNormalization", "MaxPool", "GlobalAveragePool"):
        assert not kernel(CUDA, "", op_type, "bfloat16")
        assert not kernel(CPU, "", op_type, "bfloat16")
        assert kernel(CUDA, "", op_type, "float16")
    assert not kernel(CUDA, "com.microsoft", "GroupQueryAttention", "float")
    assert kernel(CPU, "com.microsoft", "GroupQueryAttention", "float")
    assert all(rule.target in catalog.TARGETS for rule in combinations.RULES)
    assert combinations.GROUP_QUERY in catalog.PASSES


def refused(data: dict[str, Any]) -> str:
    with pytest.raises(RecipeError) as said:
        recipe.build({"model": "x", **data})
    return str(said.value)


def test_zero_points_and_small_blocks_are_not_for_tensorrt() -> None:
    grid = {"bits": 4, "group_size": 32, "scheme": "zero_point"}
    text = refused({"target": "tensorrt", "quantize": {"rtn": grid}})
    assert "tensorrt runs 4 bits in groups of 64, 128, not 32" in text
    assert "tensorrt runs absmax, not zero_point" in text


def test_a_refusal_is_a_request_error() -> None:
    with pytest.raises(RequestError, match=r"^export.dtype: bfloat16 on cuda: "):
        combinations.refuse(Wanted("cuda", "bfloat16", (), "image-classification", "resnet"))
