"""A graph under examination: its file, its sizes, and sessions opened when a check asks for them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from compressor.errors import RequestError
from compressor.graph.decoder import Decoder, DecoderSession
from compressor.graph.session import ON_CPU, Backend, graph_nbytes, load_model, open_session

if TYPE_CHECKING:
    import onnxruntime as ort


@dataclass(frozen=True)
class Subject:
    """One side of a comparison: the reference runs `exact` on the CPU, the candidate as `served` on its backend."""

    path: Path
    is_reference: bool = False
    backend: Backend = ON_CPU

    @cached_property
    def model(self) -> ir.Model:
        return load_model(self.path)

    @cached_property
    def session(self) -> ort.InferenceSession:
        return open_session(self.path, "exact") if self.is_reference or self._holds_fp8() else self._as_served()

    @cached_property
    def served(self) -> ort.InferenceSession:
        """The session that speed is measured on, whichever side this is."""
        return self._as_served() if self.is_reference else self.session

    def _as_served(self) -> ort.InferenceSession:
        return open_session(self.path, "served", backend=self.backend)

    @cached_property
    def decoder(self) -> Decoder | None:
        return Decoder.of(self.model)

    def _holds_fp8(self) -> bool:
        """ONNX Runtime's CPU optimizer turns float8 pairs into integer kernels that do not take them."""
        constants = (value.const_value for value in self.model.graph.initializers.values())
        return any(one is not None and one.dtype == ir.DataType.FLOAT8E4M3FN for one in constants)

    @property
    def nbytes(self) -> int:
        return graph_nbytes(self.path)

    def runner(self, *, served: bool = False) -> DecoderSession:
        """Raises: RequestError when the graph is no decoder."""
        if self.decoder is None:
            raise RequestError(f"{self.path}: no decoder with a cache; text checks do not apply to it")
        return DecoderSession(self.decoder, self.served if served else self.session)
