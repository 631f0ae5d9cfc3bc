"""A recipe is one frozen value: every name known and every number in range before a model is opened.

    recipe.yaml + --set overrides  ->  Recipe        or  RecipeError with every finding, each with file:line

The models below are the schema, written once: constructor, YAML key, `--set` target, JSON schema, validation.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from compressor import catalog, formats, impossible, yaml_text
from compressor.errors import RecipeError, RequestError
from compressor.export import tasks
from compressor.findings import findings
from compressor.methods import Awq, Codebook, Dynamic, Images, Keep, LlmInt8, Rotations, Section, SmoothQuant, StaticQdq
from compressor.suggestion import suggestion
from compressor.yaml_text import Place

PER_CHANNEL = -1
Bits = Literal[8, 4, 3, 2]
GroupSize = Literal[-1, 16, 32, 64, 128, 256]  # ONNX Runtime's MatMulNBits: powers of two from 16; 512 returned zeros
Scheme = Literal["absmax", "zero_point", "symmetric"]
SCHEME = "absmax, zero_point or symmetric, which leaves no code unused; none: symmetric where the package holds it"
Dtype = Literal["float32", "float16", "bfloat16"]
Target = Literal["generic", "cpu", "cuda", "tensorrt"]
Format = Literal["matmulnbits", "qdq", "gptq", "compressed_tensors"]


def _named(kind: str, known: Iterable[str]) -> AfterValidator:
    """A name of a list; another one is told the nearest."""
    names = tuple(known)

    def check(name: str) -> str:
        if name not in names:
            raise ValueError(f"no {kind} {name!r}. {suggestion(name, names)}")
        return name

    return AfterValidator(check)


PassName = Annotated[str, _named("pass", catalog.PASSES)]
TaskName = Annotated[str, _named("task", tasks.NAMES)]


class Export(Section):
    """A model to one ONNX graph, or the fewest."""

    task: TaskName | None = Field(None, description="what the model is for; none: what its configuration says")
    opset: int = Field(21, ge=21, le=23, description="ONNX operator set; 21 is the first with blocked int4")
    dtype: Dtype = Field("float32", description="of weights, inputs and outputs that are not whole numbers")
    static: dict[str, Annotated[int, Field(ge=1)]] = Field({}, description="free axis -> its size, e.g. batch_size: 1")
    trust_remote_code: bool = Field(False, description="run the code that a repository brings; never with --strict")


class Optimize(Section):
    """Graph passes; each is proven and rolled back when it fails."""

    passes: tuple[PassName, ...] | None = Field(None, description="in the order they run; none: those of the target")
    dtype: Literal["float16", "bfloat16"] | None = Field(
        None,
        description="of what is float32 inside, where the target has kernels for it; the interface keeps its types",
    )


class Calibration(Section):
    """The data that statistics are gathered on: text for models of language, arrays or pictures for any other."""

    source: str = Field(
        "builtin",
        description="builtin, a text file (.txt .raw .md .json .jsonl .parquet), tokens (.npy), a dataset id, "
        "arrays by input name (.npz), or a folder of pictures",
    )
    samples: int = Field(128, ge=1, description="windows of `length` tokens, rows or calls of arrays, or pictures")
    length: int = Field(512, ge=8, description="tokens")
    seed: int = Field(0, ge=0, description="chooses the windows, rows or pictures")
    max_padding: float = Field(0.5, ge=0, le=1, description="share of the tokens that may be padding")


class Rtn(Section):
    """Round to nearest: absmax and symmetric, or zero-point (asymmetric), no calibration."""

    bits: Bits = 4
    group_size: GroupSize | Literal["tensor"] = Field(
        32, description="rows of the input that share a scale; -1 per channel; tensor: one scale for all"
    )
    scheme: Scheme | None = Field(None, description=SCHEME)
    scale_search: bool | Literal["weighted"] = Field(
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


class Package(Section):
    """The form in which the artifact is served."""

    format: Format | None = Field(None, description="none: the target's own; `compress recipes --schema` lists all")
    checkpoint: str | None = Field(
        None, description="where gptq and compressed_tensors copy the other weights from; none: the recipe's model"
    )
    accuracy_level: Literal[0, 1, 4] = Field(
        1, description="MatMulNBits activations: 1 float32, 4 int8 (faster, not exact), 0 the provider's choice"
    )
    paged: bool = Field(True, description="a decoder's paged twin too, which `compress serve` runs; shares the weights")
    kv_cache: Literal["float32", "float16", "int8"] | None = Field(
        None,
        description="what the twin's pool of blocks holds; none: the graph's own type, on cuda float16; int8: codes, "
        "their scales from the calibration text",
    )

    @property
    def calibrated(self) -> bool:
        """Whether what is written depends on the calibration text."""
        return self.paged and self.kv_cache == "int8"


class Agreement(Section):
    """Logits of the artifact against the reference: prefill, decode with past, batch 2, padded rows."""

    source: str | None = Field(
        None,
        description="for graphs that are no decoders: text, arrays (.npz) or a folder of pictures; none: rows of "
        "calibration.source, or the text of perplexity.source for a graph that reads it, or inputs that are made up",
    )
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


class Recipe(Section):
    """Everything `compress run` will do."""

    model: str = Field(description="Hugging Face id, local folder, or builtin:tiny-lm")
    target: Target = Field("generic", description="where it will run: chooses passes and operators")
    export: Export = Export()
    optimize: Optimize = Optimize()
    images: Images = Images()
    calibration: Calibration = Calibration()
    quantize: Quantize = Quantize(gptq=Gptq())
    package: Package = Package()
    validate_: Validate = Field(Validate(), alias="validate")

    @property
    def passes(self) -> tuple[str, ...]:
        """The passes that will run: those it names, or those of its target."""
        named = self.optimize.passes
        return catalog.passes_for(self.target) if named is None else named

    @property
    def inner_dtype(self) -> str | None:
        """What float32 becomes between the inputs and the outputs; None where it stays."""
        return self.optimize.dtype

    @property
    def format(self) -> str:
        """The package format: the one it names, or that of its target."""
        return self.package.format or catalog.FORMAT_OF[self.target]

    @property
    def scheme(self) -> str:
        """The grid of a method that has one: the one it names, or the best that target and package hold."""
        method = self.quantize.method
        named = method.scheme if isinstance(method, OnGrid) else None
        return named or formats.scheme_of(self.target, self.format)

    def as_graph(self) -> Recipe:
        """The same, packaged as a graph where it is a checkpoint: what can be measured here."""
        graph = self.package.model_copy(update={"format": catalog.FORMAT_OF[self.target], "paged": False})
        return self.model_copy(update={"package": graph}) if catalog.FORMATS[self.format].checkpoint else self

    def refusals(self) -> Iterator[tuple[Place, str]]:
        """Settings that are each in range and cannot be had together, with their places."""
        yield from impossible.findings(self)
        name, method = self.quantize.name, self.quantize.method
        if isinstance(method, OnGrid):
            grid = formats.Settings(name, method.bits, method.group_size, self.scheme)
            found = formats.refusals(self.target, self.format, grid)
            chosen = ("bits", "group_size") if self.quantize.budget else ()
            yield from (one for one in found if one[0][-1] not in chosen)

    def resolved(self) -> dict[str, Any]:
        """Every field with its value, as JSON; what the manifest keeps."""
        return self.model_dump(mode="json", by_alias=True)


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file.

    Raises: RecipeError with every finding, like
        recipes/a.yaml:14: quantize.gptq: unknown field 'bit'. Did you mean 'bits'?
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(
            f"{path}: cannot be read ({yaml_text.first_line(error)}). `compress recipes` lists ours"
        ) from None
    return parse(text, str(path), overrides)


def parse(text: str, origin: str, overrides: Sequence[str] = ()) -> Recipe:
    """YAML text -> Recipe; `origin` names the text in errors.

    Raises: RecipeError with every finding.
    """
    data, lines = yaml_text.read(text, origin)
    return _validated(data, overrides, lines, origin)


def build(data: Mapping[str, Any], overrides: Sequence[str] = (), origin: str = "arguments") -> Recipe:
    """A recipe from plain values, as single commands make one; held to the same rules as a file."""
    return _validated(json.loads(json.dumps(data)), overrides, {}, origin)


def schema() -> dict[str, Any]:
    """JSON schema of a recipe, for editors."""
    return Recipe.model_json_schema(by_alias=True) | {"$schema": "https://json-schema.org/draft/2020-12/schema"}


def _validated(data: dict[str, Any], overrides: Sequence[str], lines: dict[Place, str], origin: str) -> Recipe:
    for override in overrides:
        place = yaml_text.override(data, override)
        lines = {known: line for known, line in lines.items() if known[: len(place)] != place}
        lines[place] = f"--set {override}"
    _imply_method(data.get("quantize"))
    try:
        # JSON mode: a list is a tuple, and "4" is still no number. A date of YAML is the text it was written as.
        made = Recipe.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        raise RecipeError(findings(error.errors(include_url=False), Recipe, lines, origin)) from None
    except (TypeError, ValueError) as error:
        raise RecipeError([f"{origin}: {yaml_text.first_line(error)}"]) from None
    if errors := [{"type": "value_error", "loc": place, "msg": text} for place, text in made.refusals()]:
        raise RecipeError(findings(errors, Recipe, lines, origin))
    return made


def _imply_method(quantize: Any) -> None:
    """A preparation that names no method brings the first of those it serves: `awq: {}` is rounded."""
    if isinstance(quantize, dict) and not any(quantize.get(name) is not None for name in catalog.METHODS):
        named = [name for name in catalog.PREPARATIONS if quantize.get(name) is not None]
        quantize |= {catalog.PREPARATIONS[named[0]][0]: {}} if named else {}
