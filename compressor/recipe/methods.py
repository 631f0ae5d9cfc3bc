"""The sections of a recipe that choose how numbers are stored: one method, what prepares for it, what it may cost."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from compressor import catalog
from compressor.recipe.section import Section

PER_CHANNEL = -1
Bits = Literal[8, 4, 3, 2]
GroupSize = Literal[-1, 16, 32, 64, 128, 256]  # ONNX Runtime's MatMulNBits: powers of two from 16; 512 returned zeros
Scheme = Literal["absmax", "zero_point", "symmetric"]
SCHEME = "absmax, zero_point or symmetric, which leaves no code unused; none: symmetric where the package holds it"


class Rtn(Section):
    """Round to nearest: absmax and symmetric, or zero-point (asymmetric), no calibration."""

    bits: Bits = 4
    group_size: Literal[GroupSize, "tensor"] = Field(
        32, description="rows of the input that share a scale; -1 per channel; tensor: one scale for all"
    )
    scheme: Scheme | None = Field(None, description=SCHEME)
    scale_search: Literal[False, True, "weighted"] = Field(
        False, description="shrink each scale to the least squared error; weighted: by what each input is on the data"
    )


class Gptq(Section):
    """GPTQ, Frantar et al. 2022 (arXiv 2210.17323), on the graph."""

    bits: Bits = 4
    group_size: GroupSize = Field(128, description="rows of the input that share a scale; -1 per channel")
    scheme: Scheme | None = Field(None, description=SCHEME)
    damping: float = Field(0.01, gt=0, lt=1, description="times the mean diagonal; 0.01 is the paper's")
    correction: float = Field(
        0,
        ge=0,
        le=1,
        description="share of the drift of inputs that is solved away (GPTAQ's aim); 0.5 suits 2 and 3 bits",
    )
    act_order: bool = Field(True, description="most active inputs first; groups stay as stored, free at run time")
    scale_search: bool = Field(True, description="shrink each scale to the least squared error")


class StaticQdq(Section):
    """Weights and activations as integers, ranges found on calibration data, written as QuantizeLinear pairs."""

    dtype: Literal["int8", "uint8", "fp8"] | None = Field(
        None, description="of activations; none: uint8 on cpu, int8 elsewhere. Weights are int8, with fp8 fp8"
    )
    symmetric: bool | None = Field(None, description="activations around zero; none: where dtype is not uint8")
    ranges: Literal["minmax", "entropy", "percentile"] = Field("minmax", description="what of the activations is kept")
    percentile: float = Field(99.999, gt=50, le=100, description="of the absolute values, for ranges: percentile")
    per_channel: bool = Field(True, description="a scale for each output channel of a weight")
    reduce_range: bool = Field(False, description="7-bit weights, for CPUs whose 8-bit products saturate (no VNNI)")
    operators: tuple[str, ...] | None = Field(None, description="operator types; none: those the target gains from")
    attention: bool = Field(False, description="products of two activations too")
    keep_sensitive: int = Field(0, ge=0, description="nodes left float: those that alone move the outputs most")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.symmetric is False and self.dtype == "fp8":
            raise ValueError("symmetric: false has no meaning for fp8, whose zero is 0. Leave it out")
        return self


class Dynamic(Section):
    """int8 weights; activations are quantized at run time, each call by its own range."""

    per_channel: bool = Field(True, description="a scale for each output of a weight; false: one for all of it")
    reduce_range: bool = Field(False, description="7-bit weights, for CPUs whose 8-bit products saturate (no VNNI)")


class LlmInt8(Section):
    """LLM.int8(), Dettmers et al. 2022 (arXiv 2208.07339): int8 products, outlier columns as they were."""

    threshold: float = Field(6.0, gt=0, description="of an input column's largest absolute value; 6.0 is the paper's")
    outliers: Literal["calibrated", "dynamic"] = Field(
        "calibrated", description="found on calibration data and fixed, or anew at each call"
    )


class Codebook(Section):
    """4-bit words of a code book with a scale a block, as bitsandbytes defines them (QLoRA, arXiv 2305.14314)."""

    block_size: Literal[16, 32, 64, 128, 256] = Field(64, description="weights that share a scale; 64 is the paper's")


class Keep(Section):
    """No weight is changed: the artifact has the precision of its export."""


class Rotations(Section):
    """R1 and R2 of QuaRot and SpinQuant (arXiv 2404.00456, 2405.16406), folded into Llama-like graphs."""

    untie: bool = Field(False, description="store an embedding that is the head too twice, as a rotation needs it")
    seed: int = Field(0, ge=0, description="of the random signs")


class Awq(Section):
    """AWQ, Lin et al. 2023 (arXiv 2306.00978): loud inputs get a finer grid, scaled before rtn or gptq at no cost."""


class SmoothQuant(Section):
    """SmoothQuant, Xiao et al. 2022 (arXiv 2211.10438): activations made even before static_qdq or dynamic."""

    alpha: float | None = Field(None, ge=0, le=1, description="0.5 is the paper's; none: the best for each input")


class Budget(Section):
    """What the weights may cost together; bits and groups of each are then chosen by how sensitive it is."""

    bits: float | None = Field(None, gt=1, le=16, description="for each weight, scales and zero points counted")
    max_ppl_increase: float | None = Field(None, gt=0, description="relative, of the calibration text: 0.02 allows 2 %")

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if (self.bits is None) == (self.max_ppl_increase is None):
            raise ValueError("name exactly one of bits, max_ppl_increase")
        return self


OnGrid = Rtn | Gptq  # a QTensor for each weight
Method = OnGrid | Dynamic | LlmInt8 | Codebook | StaticQdq | Keep


class Quantize(Section):
    """Exactly one method, and the weights it leaves alone."""

    rtn: Rtn | None = None
    gptq: Gptq | None = None
    dynamic: Dynamic | None = None
    llm_int8: LlmInt8 | None = None
    nf4: Codebook | None = None
    fp4: Codebook | None = None
    static_qdq: StaticQdq | None = None
    none: Keep | None = None
    rotations: Rotations | None = Field(None, description="rotate the residual stream and the values of heads")
    awq: Awq | None = Field(None, description="scale weights before rtn or gptq")
    smoothquant: SmoothQuant | None = Field(None, description="scale activations before static_qdq or dynamic")
    budget: Budget | None = Field(None, description="bits and groups chosen for each weight instead of one for all")
    embeddings: Literal[8, 4] | None = Field(
        None,
        description="bits of embedding tables, in matmulnbits and qdq; a head that is the same matrix is rounded too",
    )
    exclude: tuple[str, ...] = Field(("lm_head",), description="a weight whose name holds one of these is kept")

    @model_validator(mode="after")
    def _one_method(self) -> Self:
        chosen = [name for name in catalog.METHODS if getattr(self, name) is not None]
        if len(chosen) != 1:
            named = " and ".join(chosen) or "none"
            raise ValueError(f"choose exactly one method of {', '.join(catalog.METHODS)}; the recipe names {named}")
        return self

    @property
    def name(self) -> str:
        """The name of the one method that is set."""
        return next(name for name in catalog.METHODS if getattr(self, name) is not None)

    @property
    def calibrated(self) -> bool:
        """Whether the work looks at data."""
        at_run_time = self.llm_int8 is not None and self.llm_int8.outliers == "dynamic"
        weighted = self.rtn is not None and self.rtn.scale_search == "weighted"
        looks = self.name in catalog.CALIBRATED and not at_run_time
        scaled = self.awq is not None or self.smoothquant is not None
        return looks or weighted or scaled or self.budget is not None

    @property
    def prepared(self) -> tuple[str, ...]:
        """What is done to the float graph first."""
        return tuple(name for name in catalog.PREPARATIONS if getattr(self, name) is not None)

    @property
    def method(self) -> Method:
        """The one method that is set."""
        chosen: Method = getattr(self, self.name)
        return chosen

    def rounded(self) -> Quantize:
        """The same grid without a solver: what plain rounding would have given."""
        method = self.method
        assert isinstance(method, OnGrid)  # asked of solvers on a grid alone
        rtn = Rtn(
            bits=method.bits, group_size=method.group_size, scheme=method.scheme, scale_search=method.scale_search
        )
        return self.model_copy(update={self.name: None, "rtn": rtn})
