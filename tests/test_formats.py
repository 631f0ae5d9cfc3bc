"""What a format cannot carry and a target cannot run is said before a model is opened, with its place."""

from __future__ import annotations

import pytest

from compressor import catalog, recipe
from compressor.errors import RecipeError


def findings(text: str) -> str:
    with pytest.raises(RecipeError) as refused:
        recipe.parse(text, "r.yaml")
    return str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "model: x\ntarget: tensorrt\nquantize:\n  gptq: {group_size: 32}",
            "r.yaml:4: quantize.gptq.group_size: tensorrt runs 4 bits in groups of 64, 128, not 32",
        ),
        (
            "model: x\ntarget: tensorrt\nquantize:\n  rtn: {bits: 8, group_size: -1, scheme: zero_point}",
            "r.yaml:4: quantize.rtn.scheme: tensorrt runs absmax, not zero_point",
        ),
        (
            "model: x\ntarget: tensorrt\npackage: {format: matmulnbits}",
            "r.yaml:3: package.format: matmulnbits does not run on target tensorrt; it runs on generic, cpu, cuda",
        ),
    ],
)
def test_what_cannot_be_had_together_is_said_in_one_line(text: str, said: str) -> None:
    assert findings(text) == said


@pytest.mark.parametrize("target", catalog.TARGETS)
def test_a_target_names_its_format_and_runs_it(target: str) -> None:
    made = recipe.build({"model": "x", "target": target})
    assert made.format == catalog.FORMAT_OF[target]
    assert target in catalog.FORMATS[made.format].targets


def test_every_format_of_the_catalog_can_be_named() -> None:
    for name, entry in catalog.FORMATS.items():
        assert recipe.build({"model": "x", "target": entry.targets[0], "package": {"format": name}}).format == name
