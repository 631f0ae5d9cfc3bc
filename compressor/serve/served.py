"""An artifact's folder as a server sees it: sizes, tokenizer, and the backend that runs it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.artifact import MODEL
from compressor.errors import RequestError
from compressor.graph.paged_decoder import BLOCK_SIZE, PAGED_CONFIG, PAGED_MODEL, token_bytes
from compressor.graph.session import load_model
from compressor.package.genai import CONFIG
from compressor.serve.backend import Backend, Limits
from compressor.sources import TOKENIZER

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BACKENDS = ("engine", "reference")  # that batch continuously
STATIC = "static"  # and the one that does not
SHARE_OF_MEMORY = 0.25  # of the machine's, that the pool takes at most unless told otherwise
# Of a call, shared by prompts read side by side. With 256, eight of 64 to 448 tokens took 5 to 20% longer, since those
# that answer already went through more calls of prompts. One of 2048 took half as long again in a single call.
PROMPT_TOKENS = 512


@dataclass(frozen=True)
class Served:
    """A decoder artifact, with its paged twin unless it is only to be batched statically."""

    folder: Path

    @classmethod
    def open(cls, folder: Path, *, paged: bool = True) -> Served:
        """Raises: RequestError when there is nothing to serve, with what to do about it."""
        if not folder.is_dir():
            raise RequestError(f"{folder}: no such folder; serve the artifact that `compress run` wrote")
        if not (folder / CONFIG).is_file():
            raise RequestError(
                f"{folder}: no {CONFIG}, as `compress run` writes beside a decoder; nothing else has text to give"
            )
        for name in (MODEL, TOKENIZER, *((PAGED_MODEL, PAGED_CONFIG) if paged else ())):
            if not (folder / name).is_file():
                raise RequestError(
                    f"{folder}: no {name}; an artifact of `compress run` with package.paged (the default) has it, "
                    "or its report says why its attention cannot be paged"
                )
        return cls(folder)

    @cached_property
    def model(self) -> dict[str, Any]:
        """The `model` part of genai_config.json."""
        path = self.folder / CONFIG
        try:
            return dict(json.loads(path.read_text(encoding="utf-8"))["model"])
        except (ValueError, KeyError, TypeError) as error:
            raise RequestError(f"{path}: not a configuration of onnxruntime-genai ({error!r})") from None

    @cached_property
    def tokenizer(self) -> Tokenizer:
        from tokenizers import Tokenizer

        path = self.folder / TOKENIZER
        try:
            return Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises no class of its own
            raise RequestError(f"{path}: not a tokenizer ({error})") from None

    @property
    def ends(self) -> list[int]:
        """Tokens that end a text."""
        eos = self.model.get("eos_token_id")
        return [] if eos is None else list(eos) if isinstance(eos, list) else [int(eos)]

    @property
    def block_bytes(self) -> int:
        """Bytes of one block in all layers, keys and values."""
        twin = self.folder / PAGED_MODEL
        return BLOCK_SIZE * token_bytes(load_model(twin if twin.is_file() else self.folder / MODEL))

    def limits(self, max_batch: int, cache_tokens: int | None = None, threads: int = 0) -> Limits:
        """A pool in which every place of the batch has its whole context, as far as memory allows."""
        context = int(self.model["context_length"])
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        affordable = int(memory * SHARE_OF_MEMORY) // self.block_bytes
        wanted = -(-(cache_tokens or max_batch * context) // BLOCK_SIZE)
        blocks = wanted if cache_tokens else min(wanted, affordable)
        return Limits(blocks, BLOCK_SIZE, max_batch, PROMPT_TOKENS + max_batch, context, threads)

    def backend(self, name: str, limits: Limits) -> Callable[[], Backend]:
        """What makes a backend of `BACKENDS`, or `STATIC`, in the thread that will own it."""
        if name == "engine":
            from compressor.serve.engine import Engine

            return lambda: Engine(self.folder, limits, int(self.model["vocab_size"]))
        if name == STATIC:
            from compressor.serve.padded import Padded

            return lambda: Padded(self.folder / MODEL, limits, self.ends)
        from compressor.serve.reference import Reference

        return lambda: Reference(self.folder / PAGED_MODEL, limits, self.ends)
