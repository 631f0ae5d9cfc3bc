"""A quantized weight on disk is what safetensors itself would have written, and what was given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from compressor.quantize import store
from compressor.quantize.codebook import CodebookTensor
from tests.qtensors import assert_equal, random_tensor


@pytest.mark.parametrize("name", ["layer.weight", "schräg/1", 'so "named"'])
def test_a_qtensor_is_stored_as_safetensors_stores_it(name: str, tmp_path: Path) -> None:
    tensor = random_tensor(4, "zero_point", 16, 40)
    store.write(tmp_path, name, tensor)
    facts = json.dumps({"bits": 4, "group_size": 16, "weight": name})
    parts = {"q": tensor.q, "scale": tensor.scale, "zero": tensor.zero}
    assert (tmp_path / store.file_of(name)).read_bytes() == save(parts, {"qtensor": facts})
    assert_equal(store.Reader(tmp_path).read(name), tensor)


def test_a_codebooks_tensor_is_stored_as_safetensors_stores_it(tmp_path: Path) -> None:
    q, scale = torch.arange(12, dtype=torch.uint8).reshape(4, 3), torch.rand(6)
    store.write(tmp_path, "w", CodebookTensor(q, scale, "nf4", 2))
    facts = json.dumps({"book": "nf4", "block_size": 2, "weight": "w"})
    assert (tmp_path / store.file_of("w")).read_bytes() == save({"q": q, "scale": scale}, {"qtensor": facts})
    found = store.Reader(tmp_path).read_codebook("w")
    assert (torch.equal(found.q, q), torch.equal(found.scale, scale), found.book) == (True, True, "nf4")
