"""A tokenizer with a token a byte, so that tokens can be counted by eye; BOS is 256."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors

BOS = 256


def write_tokenizer(folder: Path) -> None:
    """A token a byte; set to add BOS, to pad and to cut, none of which may reach our windows."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = {letter: index for index, letter in enumerate(alphabet)} | {"<s>": BOS}
    tokenizer = Tokenizer(models.BPE(tokens, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=50)
    tokenizer.save(str(folder / "tokenizer.json"))
