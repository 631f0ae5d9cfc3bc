"""A recipe is right as a whole, or refused with every fault, each where it stands."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml
from pydantic import ValidationError

from compressor.errors import RecipeError, RequestError
from compressor.recipe import recipe
from compressor.recipe.methods import Gptq, Quantize, Rtn
from compressor.recipe.recipe import Recipe

OURS = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
# Each list holds the one before ten times; nine more lines would be ten thousand million values.
BOMB = "a0: &a0 x\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 6))


def findings(text: str, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(RecipeError) as caught:
        recipe.parse(text, "a.yaml", overrides)
    return caught.value.findings


def test_every_finding_comes_at_once_with_its_line_and_the_nearest_name() -> None:
    text = "model: x\nquantize:\n  gptq:\n    bit: 4\n    group_size: 100\nvalidte: {}\n"
    assert findings(text) == (
        "a.yaml:4: quantize.gptq: unknown field 'bit'. Did you mean 'bits'?",
        "a.yaml:5: quantize.gptq.group_size: 100 is not one of -1, 16, 32, 64, 128, 256.",
        "a.yaml:6: recipe: unknown field 'validte'. Did you mean 'validate'?",
    )


def test_findings_come_in_the_order_of_their_lines() -> None:
    unknown = "".join(f"unknown{line}: {{}}\n" for line in range(2, 14))
    assert [one.split(":")[1] for one in findings("model: x\n" + unknown)] == [str(line) for line in range(2, 14)]


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("{}", "a.yaml: model: missing; every recipe names it"),
        ("model: x\ncolour: red", "a.yaml:2: recipe: unknown field 'colour'. Known: model, target, export, optimize"),
        ("model: x\nmodel: y", "a.yaml:2: 'model' stands twice; first in line 1"),
        ("model: x\nexport:\n  opset: 21\n  opset: 22", "a.yaml:4: 'opset' stands twice; first in line 3"),
        ("model: [x", "a.yaml:1: not YAML: expected ',' or ']'"),
        ("model: x\n\tquantize: {}", "a.yaml:2: not YAML: "),
        ("model: x\x00", "a.yaml:1: not YAML: unacceptable character"),
        ("model: x\n---\nmodel: y", "a.yaml:2: not YAML: but found another document"),
        ("model: !!python/object:os.system x", "a.yaml:1: not YAML: could not determine a constructor"),
        ("", "a.yaml:1: a recipe is a mapping of sections, beginning with `model:`"),
        ("- model", "a.yaml:1: a recipe is a mapping of sections, beginning with `model:`"),
        ("model: x\n? [a, b]\n: 3", "a.yaml:2: a key is a word, not a list or a mapping"),
        ("model: x\nexport: &e {self: *e}", "a.yaml:1: nests too deep, or an anchor holds itself"),
        (BOMB, "a.yaml:1: stands for more than 10000 values"),
        ("model: 3", "a.yaml:1: model: the value should be a valid string, not 3"),
        ("model: x\nexport: {opset: '21'}", "a.yaml:2: export.opset: the value should be a valid integer, not '21'"),
        ("model: x\nexport: {opset: true}", "a.yaml:2: export.opset: the value should be a valid integer, not True"),
        ("model: x\nexport: {opset: 2020-01-01}", "a.yaml:2: export.opset: the value should be a valid integer"),
        ("model: x\nexport:", "a.yaml:2: export: the value should be an object, not None"),
        ("model: x\nexport: {opset: 20}", "a.yaml:2: export.opset: the value should be greater than or equal to 21"),
        ("model: x\ncalibration: {samples: 0}", "a.yaml:2: calibration.samples: the value should be greater than"),
        (
            "model: x\nvalidate: {size: {max_ratio: .nan}}",
            "a.yaml:2: validate.size.max_ratio: the value should be a fi",
        ),
        (
            "model: x\noptimize: {passes: [dropout]}",
            "a.yaml:2: optimize.passes.0: no pass 'dropout'. Did you mean 'dropout-removal'?",
        ),
        ("model: x\nquantize: {}", "a.yaml:2: quantize: choose exactly one method of rtn, gptq, "),
        ("model: x\nquantize: {rtn: {}, gptq: {}}", "a.yaml:2: quantize: choose exactly one method of rtn, gptq, "),
    ],
)
def test_a_fault_is_told_where_it_stands(text: str, finding: str) -> None:
    assert len(found := findings(text)) == 1
    assert found[0].startswith(finding)


def test_a_misspelt_choice_is_answered_with_the_nearest() -> None:
    (line,) = findings("model: x\noptimize: {passes: [dead-node-eliminaton]}")
    assert line.endswith("Did you mean 'dead-node-elimination'?")


def test_set_wins_over_the_file() -> None:
    text = "model: x\nquantize: {rtn: {bits: 4}}\nvalidate: {speed: {prompt: 1}}"
    made = recipe.parse(text, "a.yaml", ["quantize.rtn.bits=8", "validate.speed=null", "optimize.passes=[]"])
    assert made.quantize.rtn == Rtn(bits=8)
    assert made.validate_.speed is None
    assert made.optimize.passes == ()


def test_a_number_needs_no_dot_before_its_exponent() -> None:
    """YAML 1.1 takes 1e-3 for text."""
    made = recipe.parse("model: 1e-3b\nquantize: {gptq: {damping: 1e-3}}", "a.yaml", ["validate.agreement.max_kl=5E+1"])
    assert (made.model, made.quantize.method, made.validate_.agreement.max_kl) == ("1e-3b", Gptq(damping=0.001), 50.0)


def test_set_exchanges_the_method() -> None:
    made = recipe.parse(
        "model: x\nquantize: {gptq: {bits: 3}}", "a.yaml", ["quantize.gptq=null", "quantize.rtn.bits=8"]
    )
    assert made.quantize.method == Rtn(bits=8)


def test_a_later_set_wins_over_an_earlier() -> None:
    assert recipe.parse("model: x", "a.yaml", ["model=y", "model=z"]).model == "z"


@pytest.mark.parametrize(
    ("override", "finding"),
    [
        ("quantize.rtn.bits=5", "quantize.rtn.bits: 5 is not one of 8, 4, 3, 2."),
        ("quantize.rtn.group_size=48", "quantize.rtn.group_size: 48 is not one of -1, 16, 32, 64, 128, 256, tensor."),
        ("quantise.rtn.bits=4", "recipe: unknown field 'quantise'. Did you mean 'quantize'?"),
        ("quantize.rtn.bit=4", "quantize.rtn: unknown field 'bit'. Did you mean 'bits'?"),
        ("validate={agreement: {max_kl: 0}}", "validate.agreement.max_kl: the value should be greater than 0, not 0"),
        ("quantize.rtn.bits", "write it as section.field=value, e.g. quantize.gptq.bits=3"),
        ("=3", "write it as section.field=value, e.g. quantize.gptq.bits=3"),
        ("export.opset=[1", "the value is not YAML"),
        ("model.name=y", "'model' is a value and has no fields"),
    ],
)
def test_a_fault_of_an_override_points_at_the_override(override: str, finding: str) -> None:
    assert findings("model: x\nquantize: {rtn: {bits: 4}}", override) == (f"--set {override}: {finding}",)


def test_single_commands_are_held_to_the_same_rules() -> None:
    assert recipe.build({"model": "x"}, ["export.opset=22"]).export.opset == 22
    with pytest.raises(RecipeError, match=r"^arguments: export: unknown field 'opst'\. Did you mean 'opset'\?$"):
        recipe.build({"model": "x", "export": {"opst": 21}})


@pytest.mark.parametrize("content", [b"model: \xff\xfe", None], ids=["not UTF-8", "missing"])
def test_a_file_that_cannot_be_read_is_a_wrong_request(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RequestError, match=r"a\.yaml: cannot be read \(.+\)\. `compress recipes` lists ours"):
        recipe.load(path)


def test_a_recipe_is_frozen() -> None:
    made = recipe.build({"model": "x"})
    with pytest.raises(ValidationError, match="frozen"):
        made.model = "y"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        made.export.opset = 22  # type: ignore[misc]


def test_resolved_is_a_recipe_again() -> None:
    made = recipe.build({"model": "x", "validate": {"speed": None}}, ["quantize.gptq.damping=0.05"])
    assert recipe.build(made.resolved()) == made


def test_rounded_keeps_the_grid_and_leaves_the_solver() -> None:
    given = Quantize(gptq=Gptq(bits=3, group_size=64, scheme="zero_point", scale_search=True), exclude=("head",))
    plain = Rtn(bits=3, group_size=64, scheme="zero_point", scale_search=True)
    assert given.rounded() == Quantize(rtn=plain, exclude=("head",))


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_our_recipes_load_fit_the_schema_and_say_for_whom(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# For ")
    assert isinstance(recipe.load(path), Recipe)
    jsonschema.validate(yaml.safe_load(text), recipe.schema())


@pytest.mark.parametrize("data", [{}, {"model": "x", "colour": 1}, {"model": "x", "export": {"opset": 20}}])
def test_the_schema_refuses_what_a_recipe_refuses(data: dict[str, object]) -> None:
    jsonschema.Draft202012Validator.check_schema(recipe.schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, recipe.schema())
    with pytest.raises(RecipeError):
        recipe.build(data)
