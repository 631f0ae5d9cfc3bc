"""The sections of a recipe that say what is measured, and the limits that turn a number into a verdict."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from compressor.recipe.section import Section


class Agreement(Section):
    """Logits of the artifact against the reference: prefill, decode with past, batch 2, padded rows."""

    source: str | None = Field(
        None,
        description="for graphs that are no decoders: text, arrays (.npz) or a folder of pictures; none: rows of "
        "calibration.source, or the text of perplexity.source for a graph that reads it, or inputs that are made up",
    )
    text_field: str = Field("text", description="as calibration.text_field, of rows of text in `source`")
    length: int = Field(32, ge=4, description="prompt tokens; of an encoder, all")
    decode_steps: int = Field(4, ge=1)
    max_kl: float | None = Field(None, gt=0, description="nats, mean over positions, worst case")
    min_top1: float | None = Field(None, ge=0, le=1, description="share of positions with the same best token")
    max_difference: float | None = Field(None, gt=0, description="largest absolute difference of a logit or output")
    min_cosine: float | None = Field(
        None, ge=-1, le=1, description="of outputs, worst row; graphs that are no decoders"
    )


class Perplexity(Section):
    """exp(mean negative log likelihood) on held-out text, for artifact and reference."""

    source: str = Field("builtin", description="builtin, a file or a dataset id")
    text_field: str = Field("text", description="as calibration.text_field, of rows in `source`")
    windows: Literal["packed", "documents"] = Field(
        "packed", description="packed: the text cut every `length` tokens; documents: BOS and one document a window"
    )
    length: int = Field(256, ge=2, description="tokens in a window")
    tokens: int = Field(20480, ge=2, description="stop after this many tokens")
    max_increase: float | None = Field(None, description="relative: 0.02 allows 2 % above the reference")
    max_value: float | None = Field(None, gt=1)
    below_rounding: bool | None = Field(
        None, description="also measure the same weights rounded to the same grid; true makes being worse a miss"
    )


class Paged(Section):
    """Logits of the paged twin against the contiguous graph's: ragged requests, chunks, scattered blocks."""

    max_difference: float | None = Field(0.01, gt=0, description="of a logit, in parts of the largest one")
    max_kl: float | None = Field(0.005, gt=0, description="nats, mean over held-out text; a pool of 8-bit codes alone")


class Accuracy(Section):
    """Share of rows whose largest score is their label's, for artifact and reference."""

    source: str = Field(
        description="arrays by input name with `labels` (.npz), or a folder with a folder for each class"
    )
    samples: int | None = Field(None, ge=1, description="rows from the beginning; none: all")
    max_drop: float | None = Field(None, ge=0, le=1, description="0.005 allows half a point below the reference")
    min_value: float | None = Field(None, ge=0, le=1)


class Size(Section):
    """Bytes on disk, weights and graph."""

    max_ratio: float | None = Field(None, gt=0, description="of the unquantized graph")


class Speed(Section):
    """Tokens a second, median of repeats, in ONNX Runtime as it will be served."""

    prompt: int = Field(128, ge=1, description="tokens of the prefill")
    new_tokens: int = Field(32, ge=1)
    repeats: int = Field(5, ge=1)
    min_decode_ratio: float | None = Field(None, gt=0, description="of the reference's decode speed")


class Placement(Section):
    """Where the nodes run: measured on the target's provider where it loads, predicted where it does not."""

    min_nodes_on_provider: float | None = Field(None, ge=0, le=1, description="share of the nodes")
    min_flops_on_provider: float | None = Field(None, ge=0, le=1, description="share of the operations")
    max_copies: int | None = Field(None, ge=0, description="between host and device, a run")


class Latency(Section):
    """Milliseconds a call takes, median and 95th percentile; limits are of the latter."""

    prompt: int = Field(128, ge=1, description="tokens of the prefill")
    repeats: int = Field(50, ge=2)
    max_prefill_p95: float | None = Field(None, gt=0, description="milliseconds")
    max_decode_p95: float | None = Field(None, gt=0, description="milliseconds a token")
    max_call_p95: float | None = Field(None, gt=0, description="milliseconds, graphs that are no decoders")


class Layers(Section):
    """The solver's output error of each layer, against rounding's."""

    max_flagged: int | None = Field(0, ge=0, description="layers worse than rounding, constant or not finite")


class Validate(Section):
    """What is measured, and the limits that turn a number into a verdict."""

    agreement: Agreement = Agreement()
    perplexity: Perplexity | None = Perplexity()
    paged: Paged = Paged()
    accuracy: Accuracy | None = None
    size: Size = Size()
    speed: Speed | None = Speed()
    placement: Placement = Placement()
    latency: Latency | None = Field(None, description="asked for by `validate --provider`")
    layers: Layers = Layers()
