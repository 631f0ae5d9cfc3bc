"""Budget: what the weights take together, against what the recipe allowed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compressor.recipe.limits import Perplexity
from compressor.recipe.methods import Budget
from compressor.report.report import Measurement


def measure(facts: Mapping[str, Any]) -> list[Measurement]:
    """Bits for each weight, cells, scales and zero points counted; none without a budget."""
    if not facts:
        return []
    return [Measurement("bits per weight", facts["bits_per_weight"], limit=facts["asked"].get("bits"))]


def limits(perplexity: Perplexity | None, budget: Budget | None) -> Perplexity | None:
    """Perplexity's limits, with the budget's increase among them."""
    if perplexity is None or budget is None or budget.max_ppl_increase is None:
        return perplexity
    allowed = [one for one in (perplexity.max_increase, budget.max_ppl_increase) if one is not None]
    return perplexity.model_copy(update={"max_increase": min(allowed)})
