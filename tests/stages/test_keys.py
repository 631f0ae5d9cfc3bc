"""Equal keys, equal bytes: what a stage looks at is in its key."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from compressor import sources
from compressor.recipe import recipe
from compressor.recipe.recipe import Recipe
from compressor.stages import keys


def wish(**sections: Any) -> Recipe:
    return recipe.build({"model": "x", "calibration": {"source": "builtin"}, **sections})


def test_a_budget_is_spent_by_what_the_package_stores() -> None:
    def found(budget: dict[str, float] | None, target: str) -> str:
        return keys.quantize("optimized", wish(target=target, quantize={"rtn": {}, "budget": budget}))[0]

    assert found({"bits": 4.5}, "cpu") != found({"bits": 4.5}, "generic")
    assert found(None, "cpu") == found(None, "generic")


def test_a_package_depends_on_the_bytes_of_its_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(sources.find("builtin:tiny-lm").folder, folder)
    asked = wish(target="generic", package={"format": "gptq", "checkpoint": str(folder)})
    before, _ = keys.package("optimized", "quantized", asked)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert keys.package("optimized", "quantized", asked)[0] != before
