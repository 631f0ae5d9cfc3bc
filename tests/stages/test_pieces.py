"""The experts of a mixture, one stack in a graph, are packed as the matrices that their checkpoint holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from compressor import catalog, pipeline, sources
from compressor.errors import RequestError
from compressor.package.checkpoint import Piece
from compressor.quantize.qtensor import Choice, Grid
from compressor.quantize.rtn import RoundToNearest
from compressor.recipe import recipe
from compressor.shelf import Shelf
from compressor.stages import pieces
from tests import architectures, readers
from tests.conftest import Outcome

OWN_PARTS = {"mixtral": ("w1", "w2", "w3"), "qwen3_moe": ("gate_proj", "up_proj", "down_proj")}


@pytest.mark.parametrize("form", ["gptq", "compressed_tensors"])
@pytest.mark.parametrize("name", OWN_PARTS)
def test_every_expert_is_packed_under_its_name(name: str, form: str, tmp_path: Path) -> None:
    source = architectures.write(name, tmp_path / "checkpoint")
    options = {"model": str(source), "target": "generic", "package": {"format": form}}
    options |= {"quantize": {"rtn": {"bits": 8, "group_size": -1}}}
    chosen, shelf = recipe.build(options), Shelf(tmp_path / "stages")
    optimized = pipeline.optimize(pipeline.export(sources.find(str(source)), chosen, shelf), chosen, shelf)
    quantized = pipeline.quantize(optimized, chosen, shelf)
    made = pipeline.package(optimized, quantized, chosen, shelf)
    given, found = readers.held(source), readers.weights(made.directory)
    experts = [one for one in given if ".experts." in one]
    assert {one.split(".")[-2] for one in experts} == set(OWN_PARTS[name])
    assert set(found) == {*experts, *(one for one in given if "self_attn" in one and "proj" in one)}
    for one, weight in found.items():
        solver = RoundToNearest(Grid(8, "absmax", half_scales=catalog.FORMATS[form].half_scales), -1)
        tensor = solver.solve(torch.from_numpy(given[one]).T)
        np.testing.assert_array_equal(weight, tensor.dequantize())
    stored = sum(array.nbytes for key, array in readers.held(made.directory).items() if key not in given)
    assert sum(made.facts["weight_bytes"].values()) == stored
    assert pipeline.package(optimized, quantized, chosen.as_graph(), shelf).model.is_file()


def test_an_expert_without_a_tensor_of_its_own_is_refused(tmp_path: Path, compress: Callable[..., Outcome]) -> None:
    """granitemoe holds those of a layer in one."""
    source = architectures.write("granitemoe", tmp_path / "checkpoint")
    (tmp_path / "a.yaml").write_text(
        f"model: {source}\nquantize: {{rtn: {{bits: 8, group_size: -1}}}}\npackage: {{format: gptq}}\n"
    )
    ended = compress("run", tmp_path / "a.yaml", "-o", tmp_path / "out")
    assert ended.code == 2
    assert "gate_up_proj.0 alone, which the graph has; a checkpoint package holds weights" in ended.err
    ended = compress("run", tmp_path / "a.yaml", "-o", tmp_path / "out", "--set", "quantize.exclude=[lm_head,experts]")
    assert ended.code == 0, ended.err


GATE = "model.layers.0.mlp.experts.gate_up_proj.0"


def test_what_engines_would_misread_is_refused(tmp_path: Path) -> None:
    places = {GATE: (Piece("experts.0.w1.weight", 64, 96), Piece("experts.0.w3.weight", 64, 96))}

    def refuse(columns: int = 96, bits: int = 4, *, symmetric: bool = True) -> None:
        held = {**places, "a.weight": (Piece("a.weight", 64, columns),)}
        chosen = {GATE: Choice(4, 32), "a.weight": Choice(bits, 32)}
        pieces.refuse_unheld(tmp_path, "gptq", held, chosen, symmetric=symmetric)

    refuse()
    with pytest.raises(RequestError, match=r"read experts from gptq without zero points"):
        refuse(symmetric=False)
    with pytest.raises(RequestError, match=r"read experts from gptq with the bits and group of all"):
        refuse(bits=8)
    with pytest.raises(RequestError, match=r"a\.weight: 97 outputs are no multiple of 8"):
        refuse(columns=97)
