"""A recipe is one frozen value: every name known and every number in range before a model is opened.

    recipe.yaml + --set overrides  ->  Recipe        or  RecipeError with every finding, each with file:line

The models below, in methods.py and in limits.py are the schema, written once: constructor, YAML key, `--set` target,
JSON schema, validation.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from compressor import catalog
from compressor.errors import RecipeError, RequestError, in_a_line
from compressor.export import tasks
from compressor.recipe import formats, impossible, yaml_text
from compressor.recipe.findings import findings
from compressor.recipe.limits import Validate
from compressor.recipe.methods import Gptq, OnGrid, Quantize
from compressor.recipe.section import Section
from compressor.recipe.suggestion import suggestion
from compressor.recipe.yaml_text import Place

Dtype = Literal["float32", "float16", "bfloat16"]
Target = Literal["generic", "cpu", "cuda", "tensorrt"]
Format = Literal["matmulnbits", "qdq", "gptq", "compressed_tensors"]
Deviation = Annotated[float, Field(gt=0)]
Side = Annotated[int, Field(ge=1)]


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
    text_field: str = Field("text", description="of rows that are objects; `translation.en` is en within translation")
    target_field: str = Field("target", description="of the text that a decoder behind an encoder writes from a row's")
    max_padding: float = Field(0.5, ge=0, le=1, description="share of the tokens that may be padding")


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
    def paged(self) -> bool:
        """Whether a decoder gets its paged twin; TensorRT has no attention over blocks."""
        return self.package.paged and self.target != "tensorrt"

    @property
    def scheme(self) -> str:
        """The grid of a method that has one: the one it names, or the best that target and package hold."""
        method = self.quantize.method
        named = method.scheme if isinstance(method, OnGrid) else None
        return named or formats.scheme_of(self.target, self.format)

    @property
    def convolutions(self) -> bool:
        """Whether kernels are rounded too: where the package is a graph that can hold them."""
        held = isinstance(self.quantize.method, OnGrid) and not catalog.FORMATS[self.format].checkpoint
        return held and self.target != "tensorrt"

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
        raise RequestError(f"{path}: cannot be read ({in_a_line(error)}). `compress recipes` lists ours") from None
    return parse(text, str(path), overrides)


def parse(text: str, origin: str, overrides: Sequence[str] = ()) -> Recipe:
    """YAML text -> Recipe; `origin` names the text in errors.

    Raises: RecipeError with every finding.
    """
    data, lines = yaml_text.read(text, origin)
    return _validated(data, overrides, lines, origin)


def build(data: Mapping[str, Any], overrides: Sequence[str] = (), options: Mapping[Place, str] | None = None) -> Recipe:
    """A recipe from plain values, as single commands make one; held to the same rules as a file.

    options: place in a recipe -> the option of the command that fills it, which errors name.
    """
    return _validated(json.loads(json.dumps(data)), overrides, dict(options or {}), "arguments")


def schema() -> dict[str, Any]:
    """JSON schema of a recipe, for editors."""
    return Recipe.model_json_schema(by_alias=True) | {"$schema": "https://json-schema.org/draft/2020-12/schema"}


def _validated(data: dict[str, Any], overrides: Sequence[str], lines: dict[Place, str], origin: str) -> Recipe:
    for override in overrides:
        place = yaml_text.override(data, override)
        lines = {known: line for known, line in lines.items() if known[: len(place)] != place}
        begun = (place[:end] for end in range(1, len(place)) if place[:end] not in lines)
        lines |= dict.fromkeys((*begun, place), f"--set {override}")
    _imply_method(data.get("quantize"))
    try:
        # JSON mode: a list is a tuple, and "4" is still no number. A date of YAML is the text it was written as.
        made = Recipe.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        raise RecipeError(findings(error.errors(include_url=False), Recipe, lines, origin)) from None
    except (TypeError, ValueError) as error:
        raise RecipeError([f"{origin}: {in_a_line(error)}"]) from None
    if errors := [{"type": "value_error", "loc": place, "msg": text} for place, text in made.refusals()]:
        raise RecipeError(findings(errors, Recipe, lines, origin))
    return made


def _imply_method(quantize: Any) -> None:
    """A preparation that names no method brings the first of those it serves: `awq: {}` is rounded."""
    if isinstance(quantize, dict) and not any(quantize.get(name) is not None for name in catalog.METHODS):
        named = [name for name in catalog.PREPARATIONS if quantize.get(name) is not None]
        quantize |= {catalog.PREPARATIONS[named[0]][0]: {}} if named else {}
