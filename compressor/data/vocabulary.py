"""The tokenizer of a model's folder, and the special tokens that its texts begin with or stand between."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor import sources
from compressor.errors import RequestError, in_a_line
from compressor.sources import TOKENIZER


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer and the token that begins a document, as the model's folder names them."""

    folder: Path
    bos: int | None

    @classmethod
    def of(cls, folder: Path) -> Vocabulary:
        """Raises: RequestError when the folder holds no tokenizer, or no configuration that names the first token."""
        if not sources.has_tokenizer(folder):
            raise RequestError(
                f"{folder}: no {TOKENIZER} with {sources.CONFIG}; text cannot be read without the model's tokenizer"
            )
        bos = sources.config(folder).get("bos_token_id")
        return cls(folder, bos[0] if isinstance(bos, list) else bos)

    def encode(self, documents: Sequence[str]) -> list[list[int]]:
        """Tokens of each document, no special token added."""
        return [one.ids for one in self._tokenizer().encode_batch(list(documents), add_special_tokens=False)]

    def render(self, conversations: Sequence[str]) -> list[str]:
        """JSON lists of messages as the model's chat template writes them, the special tokens in their places.

        Raises: RequestError when the folder has no template, or the template refuses the messages.
        """
        from transformers import PreTrainedTokenizerFast

        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(self.folder), local_files_only=True)
        if not tokenizer.chat_template:
            raise RequestError(f"{self.folder}: its tokenizer has no chat template, and rows of `messages` need one")
        try:
            return [tokenizer.apply_chat_template(json.loads(one), tokenize=False) for one in conversations]
        except Exception as error:  # a template is a program of its own
            raise RequestError(f"{self.folder}: its chat template refuses the messages: {in_a_line(error)}") from None

    def frame(self) -> tuple[list[int], list[int]]:
        """The special tokens that an encoder has before and after a text: [CLS] and [SEP] for BERT."""
        framed = self._tokenizer().encode("a", add_special_tokens=True)
        text = [at for at, special in enumerate(framed.special_tokens_mask) if not special]
        first, last = (text[0], text[-1] + 1) if text else (len(framed.ids), len(framed.ids))
        return framed.ids[:first], framed.ids[last:]

    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(self.folder / TOKENIZER))
        except Exception as error:  # tokenizers raises nothing narrower
            raise RequestError(f"{self.folder / TOKENIZER}: not a tokenizer: {in_a_line(error)}") from None
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer
