"""docs/fusions.md is drawn from what was measured: rollbacks are shown, targets with one layer share a line."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import transformers

from tests import architectures, fusion_table


def told(rolled_back: int = 0, **layer: int) -> dict[str, Any]:
    return {"nodes": 40, "rolled_back": rolled_back, "worst": 1e-6, "layer": layer}


def row(**targets: dict[str, Any]) -> dict[str, Any]:
    half = {target: {"nodes": 44, "rolled_back": 0, "worst": None} for target in fusion_table.HALVED}
    wider = {target: told | {"nodes": 45, "worst": 2e-3} for target, told in half.items()}
    return {"class": "BertForMaskedLM", "nodes": 242, "targets": targets, "float16": half, "bfloat16": wider}


def test_a_rollback_is_shown_and_equal_layers_share_a_line() -> None:
    wide = told(MatMul=6, Softmax=1)
    text = fusion_table.table({"bert": row(generic=wide, cpu=told(1, MatMul=6), cuda=told(MatMul=6), tensorrt=wide)})
    assert "| bert | 242 | 40, 1.0e-06 | 40, 1.0e-06, 1 rolled back | 40, 1.0e-06 | 40, 1.0e-06 |" in text
    assert "| bert | generic, tensorrt | 7 | MatMul 6, Softmax |" in text
    assert "| bert | cpu, cuda | 6 | MatMul 6 |" in text
    assert "| bert | 44, not compared |" in text
    assert "| bert | 45, 2.0e-03 |" in text


@pytest.mark.parametrize("name", fusion_table.DEEPER)
def test_one_layer_more_is_a_size_that_the_model_has(name: str) -> None:
    made = architectures.ROWS[name]
    configuration = getattr(transformers, made.model).config_class(**made.sizes | fusion_table.DEEPER[name])
    assert all(getattr(configuration, size) == value for size, value in fusion_table.DEEPER[name].items())
    before = Counter(str(made.sizes.get(size)) for size in fusion_table.DEEPER[name])
    assert before != Counter(str(value) for value in fusion_table.DEEPER[name].values())
