"""A quantized weight on disk is what safetensors itself would have written, and what was given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from compressor.quantize import cells, store
from compressor.quantize.codebook import CodebookTensor
from tests.qtensors import assert_equal, random_tensor


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("name", ["layer.weight", "schräg/1", 'so "named"'])
def test_a_qtensor_is_stored_as_safetensors_stores_it(name: str, bits: int, tmp_path: Path) -> None:
    tensor = random_tensor(bits, "zero_point", 16, 41)
    store.write(tmp_path, name, tensor)
    cell_bits = {3: 4}.get(bits, bits)
    facts = {"weight": name, "rows": 41, "cell_bits": cell_bits, "bits": bits, "group_size": 16}
    codes = torch.from_numpy(cells.pack(tensor.q.numpy(), cell_bits))
    parts = {"q": codes, "scale": tensor.scale, "zero": tensor.zero}
    assert len(codes) == -(-41 * cell_bits // 8)
    assert (tmp_path / store.file_of(name)).read_bytes() == save(parts, {"qtensor": json.dumps(facts)})
    assert_equal(store.Reader(tmp_path).read(name), tensor)


def test_a_codebooks_tensor_is_stored_as_safetensors_stores_it(tmp_path: Path) -> None:
    q, scale = torch.arange(12, dtype=torch.uint8).reshape(4, 3), torch.rand(6)
    store.write(tmp_path, "w", CodebookTensor(q, scale, "nf4", 2))
    facts = {"weight": "w", "rows": 4, "cell_bits": 4, "book": "nf4", "block_size": 2}
    parts = {"q": torch.tensor([[0x30, 0x41, 0x52], [0x96, 0xA7, 0xB8]], dtype=torch.uint8), "scale": scale}
    assert (tmp_path / store.file_of("w")).read_bytes() == save(parts, {"qtensor": json.dumps(facts)})
    found = store.Reader(tmp_path).read_codebook("w")
    assert (torch.equal(found.q, q), torch.equal(found.scale, scale), found.book) == (True, True, "nf4")
