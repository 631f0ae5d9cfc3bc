from __future__ import annotations

import numpy as np

from compressor.graph.decoder import LOGITS, MASK, PAST_KEY, PRESENT_KEY, PRESENT_VALUE, Decoder

SIZES = Decoder(layers=1, kv_heads=2, head_size=4, vocab=8, inputs=(MASK, PAST_KEY.format(0)))


def test_what_padding_computes_is_not_promised() -> None:
    """Rows of 2 cached and 3 new tokens; the first is padded left by 3, the second right by 1."""
    feeds = {MASK: np.array([[0, 0, 0, 1, 1], [1, 1, 1, 1, 0]])}
    logits = SIZES.promised(LOGITS, np.ones((2, 3, 8)), feeds)
    np.testing.assert_array_equal(logits[:, :, 0], [[0, 1, 1], [1, 1, 0]])
    for name in (PRESENT_KEY.format(0), PRESENT_VALUE.format(0)):
        present = SIZES.promised(name, np.ones((2, 2, 5, 4)), feeds)
        np.testing.assert_array_equal(present[:, 1, :, 3], feeds[MASK])
    other = np.ones((2, 5))
    assert SIZES.promised("hidden", other, feeds) is other
