"""A budget is kept or refused, what is chosen is what the package stores, and the verdict says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest

from compressor import pipeline
from compressor.artifact import Artifact, open_artifact
from compressor.errors import RecipeError, RequestError
from compressor.graph.session import load_model
from compressor.quantize.qtensor import Choice
from compressor.recipe import recipe
from compressor.shelf import Shelf
from compressor.stages import budgeting
from tests.conftest import SMALL, FirstRun, Outcome

EXCLUDED = SMALL["quantize"]["exclude"]  # one layer of five is quantized: seven weights


def budgeted(budget: dict[str, float], **more: object) -> recipe.Recipe:
    quantize = {"rtn": {"group_size": 32}, "exclude": EXCLUDED, "budget": budget}
    return recipe.build({**SMALL, "quantize": quantize, "package": {"paged": False}, **more})


def packaged(first: FirstRun, chosen: recipe.Recipe, folder: Path) -> tuple[Artifact, Artifact]:
    optimized, shelf = open_artifact(first.run.stage("optimize")), Shelf(folder)
    quantized = pipeline.quantize(optimized, chosen, shelf)
    return quantized, pipeline.package(optimized, quantized, chosen, shelf)


def stored_bits(made: Artifact) -> float:
    """Bits for each weight, counted on the packed graph itself."""
    graph = load_model(made.model).graph
    weights = sum(
        node.attributes["K"].as_int() * node.attributes["N"].as_int() for node in graph if node.op_type == "MatMulNBits"
    )
    constants = [
        value.const_value
        for node in graph
        if node.op_type == "MatMulNBits"
        for value in node.inputs[1:]
        if value is not None and isinstance(value, ir.Value)
    ]
    return 8 * sum(one.nbytes for one in constants if one is not None) / weights


@pytest.mark.parametrize("bits", [3.1, 4.5, 6.0])
def test_a_budget_of_bits_is_kept_and_used(bits: float, first: FirstRun, tmp_path: Path) -> None:
    quantized, made = packaged(first, budgeted({"bits": bits}), tmp_path)
    used = quantized.facts["budget"]["bits_per_weight"]
    assert used <= bits
    assert used == pytest.approx(stored_bits(made), rel=1e-9)
    assert used > bits - 1  # seven weights: a step is at most as large as the largest of them
    kinds = {(row["bits"], row["group_size"]) for row in quantized.facts["layers"]}
    assert len(kinds) > 1
    assert [row["lost"] for row in quantized.facts["budget"]["tradeoff"]] == sorted(
        (row["lost"] for row in quantized.facts["budget"]["tradeoff"]), reverse=True
    )


def test_a_limit_on_perplexity_is_met_by_the_smallest_rounding_that_meets_it(first: FirstRun, tmp_path: Path) -> None:
    more = {"calibration": {"samples": 32, "length": 64}}
    loose, _ = packaged(first, budgeted({"max_ppl_increase": 0.5}, **more), tmp_path / "loose")
    tight, _ = packaged(first, budgeted({"max_ppl_increase": 0.002}, **more), tmp_path / "tight")
    assert 2 < loose.facts["budget"]["bits_per_weight"] < tight.facts["budget"]["bits_per_weight"] < 9


def test_a_budget_below_the_smallest_choice_is_refused(first: FirstRun, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"quantize.budget.bits: 1.5 cannot be met; the smallest choice takes 2\."):
        packaged(first, budgeted({"bits": 1.5}), tmp_path)


def test_a_budget_names_one_limit() -> None:
    for budget in ({}, {"bits": 4.0, "max_ppl_increase": 0.02}):
        with pytest.raises(RecipeError, match="name exactly one of bits, max_ppl_increase"):
            budgeted(budget)


def test_candidates_are_what_target_format_and_shape_allow() -> None:
    def found(shape: tuple[int, int], **more: object) -> list[Choice]:
        made = budgeted({"bits": 4.0}, **more)
        return budgeting.candidates(made, made.quantize.method, shape)

    assert {one.bits for one in found((256, 64))} == {8, 4, 3, 2}
    assert {one.group_size for one in found((256, 64))} == {128, 64, 32, -1}
    tensorrt = found((256, 64), target="tensorrt", package={"format": "qdq"})
    assert set(tensorrt) >= {Choice(4, 64), Choice(4, 128), Choice(8, -1)}
    assert all(one.group_size in ((-1,) if one.bits == 8 else (64, 128)) for one in tensorrt)
    assert set(found((96, 64), package={"format": "gptq"})) == {Choice(b, g) for b in (8, 4, 2) for g in (32, -1)}


def test_the_command_line_asks_and_the_verdict_answers(
    first: FirstRun, tmp_path: Path, compress: Callable[..., Outcome]
) -> None:
    optimized, place = first.run.stage("optimize"), tmp_path / "out"
    settings = f"--set=quantize.exclude={json.dumps(EXCLUDED)}"
    data = f"--set=calibration={json.dumps(SMALL['calibration'])}"
    asked = ("quantize", optimized, "-o", place, "--method", "rtn", settings, data, "--set=package.paged=false")
    assert compress(*asked, "--budget", "bits=4.5").code == 0
    (quantized,) = pipeline.stages_beside(place).root.glob("quantize-*")
    chosen = budgeted({"bits": 4.5})
    report = pipeline.validate(
        open_artifact(place), open_artifact(first.run.stage("export")), chosen, made_by=[open_artifact(quantized)]
    )
    (verdict,) = [one for one in report.measurements if one.name == "bits per weight"]
    assert verdict.limit == 4.5
    assert verdict.passed
    assert "## Trade-off" in report.to_markdown(strict=False)
    assert compress(*asked, "--budget", "bits=4.5", "--max-ppl-increase", "0.02").code == 2
