"""The pool: free and used are all, a chain finds what is there, and what nobody holds goes longest unused first."""

from __future__ import annotations

import numpy as np
import pytest

from compressor.serve.backend import Sampling
from compressor.serve.blocks import BlockPool, chain
from compressor.serve.sampling import choose


def test_a_chain_knows_a_block_by_all_before_it() -> None:
    one, other = chain([1, 2, 3, 4, 5], 2), chain([9, 2, 3, 4], 2)
    assert len(one) == 2
    assert one == chain([1, 2, 3, 4], 2)
    assert not set(one) & set(other)  # the second blocks hold the same tokens after another beginning


def test_free_and_used_are_all_whatever_happens() -> None:
    rng, pool, held = np.random.default_rng(0), BlockPool(12), []
    for _ in range(500):
        if rng.random() < 0.5 and len(pool.free) >= 3:
            held.append([pool.take() for _ in range(rng.integers(1, 4))])
        elif held and rng.random() < 0.3:
            pool.hold(held[0])  # a second holder
            held.append(list(held[0]))
        elif held:
            pool.release(held.pop(rng.integers(len(held))))
        assert len(pool.free) + pool.used == 12
        assert pool.used == len({block for blocks in held for block in blocks})
    for blocks in held:
        pool.release(blocks)
    assert len(pool.free) == 12


def test_a_named_block_is_found_until_it_is_taken_again() -> None:
    pool, (first, second) = BlockPool(2), chain([1, 2, 3, 4], 2)
    blocks = [pool.take(), pool.take()]
    for block, content in zip(blocks, (first, second), strict=True):
        pool.name(block, content)
    pool.release(blocks)
    assert pool.shared([first, second]) == blocks
    assert pool.take() == blocks[1]  # the end of a prefix goes before its beginning
    assert pool.shared([first, second]) == blocks[:1]
    pool.take()
    with pytest.raises(KeyError):
        pool.take()


def test_a_draw_stays_within_top_p_and_follows_the_distribution() -> None:
    logits, rng = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32)), np.random.default_rng(0)
    draws = np.bincount([choose(logits, Sampling(1.0, 0.8, 0), rng) for _ in range(4000)], minlength=4) / 4000
    np.testing.assert_allclose(draws, [0.625, 0.375, 0, 0], atol=0.03)  # 0.5 and 0.3, of 0.8; four standard errors
    assert choose(logits, Sampling(), rng) == 0
    cold = [choose(logits, Sampling(0.01, 1.0, 0), rng) for _ in range(50)]
    assert set(cold) == {0}


def test_a_chain_goes_on_from_what_is_known() -> None:
    tokens = list(range(23))
    assert chain(tokens, 4, chain(tokens[:10], 4)) == chain(tokens, 4)
    assert chain(tokens[:3], 4) == []
