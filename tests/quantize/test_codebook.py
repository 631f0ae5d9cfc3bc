"""NF4 and FP4: the words of bitsandbytes, the nearest one for every weight, absmax in its blocks."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from compressor.quantize import store
from compressor.quantize.codebook import BOOKS, Codebook, nearest
from tests import graphs
from tests.oracles import python_of


@pytest.mark.parametrize("book", BOOKS)
def test_every_word_is_itself_and_every_value_goes_to_the_nearest(book: str) -> None:
    words = torch.tensor(BOOKS[book])
    assert torch.equal(words[nearest(words, book).long()], words)
    values = torch.linspace(-1, 1, 4001)
    found = words[nearest(values, book).long()]
    slowly = (values[:, None] - words).abs().min(1).values
    torch.testing.assert_close((found - values).abs(), slowly, rtol=0, atol=1e-6)  # float32 on the edge of two


def test_words_by_hand() -> None:
    assert nearest(torch.tensor([-1.0, 0, 1, 0.04, 0.0397]), "nf4").tolist() == [0, 7, 15, 8, 7]
    assert nearest(torch.tensor([1.0, -1, 0, 0.5, -0.5, 0.6]), "fp4").tolist() == [3, 11, 0, 5, 13, 2]


@pytest.mark.parametrize(("rows", "block_size"), [(128, 64), (72, 64), (5, 16)])
@pytest.mark.parametrize("book", BOOKS)
def test_blocks_run_along_the_inputs_and_on(book: str, rows: int, block_size: int) -> None:
    """Said slowly: the weight of each output one after another, cut into blocks, each over its absmax."""
    weight = torch.from_numpy(graphs.normal(rows, 6))
    solved = Codebook(book, block_size).solve(weight)
    flat, words = weight.T.flatten(), torch.tensor(BOOKS[book])
    for at in range(0, len(flat), block_size):
        block = flat[at : at + block_size]
        absmax = block.abs().max()
        assert solved.scale[at // block_size] == absmax
        restored = solved.dequantize().T.flatten()[at : at + block_size]
        best = (block[:, None] - words * absmax).abs().min(1).values
        torch.testing.assert_close((block - restored).abs(), best, rtol=0, atol=1e-6)


def test_a_block_of_zeros_is_zeros() -> None:
    for book in BOOKS:
        solved = Codebook(book, 16).solve(torch.zeros(32, 2))
        assert not solved.dequantize().any()
        assert not solved.scale.any()


def test_a_codebook_is_written_and_read(tmp_path: Path) -> None:
    solved = Codebook("nf4", 64).solve(torch.from_numpy(graphs.normal(72, 6)))
    store.write(tmp_path, "a/weight", solved)
    read = store.Reader(tmp_path).read_codebook("a/weight")
    assert (read.book, read.block_size) == ("nf4", 64)
    assert torch.equal(read.dequantize(), solved.dequantize())


THEIRS = """
import json, sys, torch, bitsandbytes.functional as F
given = json.load(sys.stdin)
w = torch.tensor(given["weight"]).T.contiguous()
packed, state = F.quantize_4bit(w, blocksize=given["block"], quant_type=given["book"])
print(json.dumps({"packed": packed.flatten().tolist(), "absmax": state.absmax.tolist(), "code": state.code.tolist(),
                  "weight": F.dequantize_4bit(packed, state).T.tolist()}))
"""


@pytest.mark.parametrize("book", BOOKS)
def test_bitsandbytes_has_the_same_words_codes_and_weights(book: str) -> None:
    from compressor.package.matmulbnb4 import pack

    weight = graphs.normal(128, 48)
    given = json.dumps({"weight": weight.tolist(), "block": 64, "book": book})
    ended = subprocess.run(
        [python_of("bitsandbytes"), "-c", THEIRS], input=given, capture_output=True, text=True, check=True
    )
    theirs = json.loads(ended.stdout.splitlines()[-1])
    solved = Codebook(book, 64).solve(torch.from_numpy(weight))
    np.testing.assert_array_equal(np.float32(theirs["code"]), np.float32(BOOKS[book]))
    np.testing.assert_array_equal(np.float32(theirs["absmax"]), solved.scale)
    np.testing.assert_array_equal(np.array(theirs["weight"], np.float32), solved.dequantize())
    if book == "nf4":  # fp4 has two words for 0
        np.testing.assert_array_equal(np.array(theirs["packed"], np.uint8), pack(solved))
