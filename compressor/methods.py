"""The sections of a recipe that choose how numbers are stored, and how data for them is read."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Deviation = Annotated[float, Field(gt=0)]
Side = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of a recipe: frozen, and no key but its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Images(Section):
    """How a picture becomes the model's input: resized, divided by 255, less the mean, over the deviation."""

    size: tuple[Side, Side] | None = Field(None, description="height and width; none: those of the graph's input")
    mean: tuple[float, ...] = Field((0.485, 0.456, 0.406), description="of each channel, in 0..1; ImageNet's")
    deviation: tuple[Deviation, ...] = Field((0.229, 0.224, 0.225), description="of each channel; ImageNet's")
    layout: Literal["nchw", "nhwc"] = Field("nchw", description="axes of the graph's input")

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        if len(self.mean) != len(self.deviation):
            raise ValueError(f"{len(self.mean)} means and {len(self.deviation)} deviations; a channel has one of each")
        return self


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


class LlmInt8(Section):
    """LLM.int8(), Dettmers et al. 2022 (arXiv 2208.07339): int8 products, outlier columns as they were."""

    threshold: float = Field(6.0, gt=0, description="of an input column's largest absolute value; 6.0 is the paper's")
    outliers: Literal["calibrated", "dynamic"] = Field(
        "calibrated", description="found on calibration data and fixed, or anew at each call"
    )


class Codebook(Section):
    """4-bit words of a code book with a scale a block, as bitsandbytes defines them (QLoRA, arXiv 2305.14314)."""

    block_size: Literal[16, 32, 64, 128, 256] = Field(64, description="weights that share a scale; 64 is the paper's")
