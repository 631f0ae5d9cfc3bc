"""A check that cannot fail is no check: each passes on equal artifacts and fails on one spoiled weight.

The decoder here is a bigram, so that every number can be worked out by hand: a token's logits are its row of a table.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from compressor.data.calibration import Windows
from compressor.errors import RequestError
from compressor.graph.session import save_model
from compressor.recipe.limits import Agreement, Layers, Perplexity, Size, Speed
from compressor.report.report import Measurement
from compressor.validate import agreement, layers, perplexity, size, speed, structure
from compressor.validate.subject import Subject
from tests import graphs
from tests.decoders import Exported

# The mask of the tokens that are read now is its last columns; logits of padding are what `ignored` says.
BIGRAM = """(int64[B,S] input_ids, int64[B,T] attention_mask, float[B,1,P,1] past_key, float[B,1,P,1] past_value)
    => (float[B,S,V] logits, float[B,1,T,1] present_key, float[B,1,T,1] present_value) {
    seen = Gather(table, input_ids)
    length = Shape<start = 1>(input_ids)  begin = Neg(length)  now = Slice(attention_mask, begin, end, last)
    real = Cast<to = 9>(now)  column = Unsqueeze(real, minus)
    logits = Where(column, seen, ignored)
    float_ids = Cast<to = 1>(input_ids)  new = Unsqueeze(float_ids, middle)
    present_key = Concat<axis = 2>(past_key, new)  present_value = Concat<axis = 2>(past_value, new)
}"""
NAMES = {f"{kind}_{part}": f"{long}.0.{part}" for kind, long in (("past", "past_key_values"), ("present", "present"))
         for part in ("key", "value")}  # fmt: skip


def probabilities(*rows: list[float]) -> np.ndarray:
    return np.log(np.array(rows, np.float32))


# From token 0 the next is 1 with a half, 0 or 2 with a quarter; and so on. An odd constant is nobody's business.
TABLE = probabilities([0.25, 0.5, 0.25], [0.125, 0.125, 0.75], [0.5, 0.25, 0.25]) + 3
LIMITS = Agreement(length=12, max_kl=1e-6, min_top1=1.0, max_difference=1e-6)


def bigram(table: np.ndarray = TABLE, ignored: float = 0.0) -> ir.Model:
    shape = table.shape[-1]
    model = graphs.build(
        BIGRAM.replace("V]", f"{shape}]"),
        opset=21,
        table=table.astype(np.float32),
        ignored=np.float32(ignored),
        end=np.array([2**31]),
        last=np.array([1]),
        minus=np.array([-1]),
        middle=np.array([1, 3]),
    )
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.name = NAMES.get(value.name, value.name)
    return model


@pytest.fixture
def subject(tmp_path: Path) -> Callable[..., Subject]:
    """subject(model) as it lies on disk; subject(model, reference=True) for the other side."""
    count = iter(range(100))

    def make(model: ir.Model, *, reference: bool = False) -> Subject:
        path = tmp_path / f"{next(count)}" / "model.onnx"
        path.parent.mkdir()
        save_model(model, path)
        return Subject(path, is_reference=reference)

    return make


def spoiled(weight: float = -2) -> np.ndarray:
    """One weight of nine."""
    other = TABLE.copy()
    other[1, 2] = weight
    return other


def windows(ids: list[list[int]], lengths: list[int] | None = None) -> Windows:
    mask = np.array([[int(at < n) for at in range(len(ids[0]))] for n in lengths or [len(row) for row in ids]])
    return Windows(np.array(ids), mask, {"source": "by hand"})


TEXT = windows([[0, 1, 2, 0, 1], [2, 1, 2, 2, 0]])
Measure = Callable[[Subject, Subject], list[Measurement]]
CHECKS: dict[str, Measure] = {
    "agreement": lambda ours, theirs: agreement.measure(ours, theirs, None, LIMITS),
    "perplexity": lambda ours, theirs: perplexity.measure(ours, theirs, TEXT, Perplexity(max_increase=1e-6)),
    "perplexity_value": lambda ours, theirs: perplexity.measure(ours, theirs, TEXT, Perplexity(max_value=2.8)),
}


def passed(found: list[Measurement]) -> bool:
    return all(one.passed for one in found)


@pytest.mark.parametrize("name", CHECKS)
def test_passes_on_equal_artifacts_and_fails_on_one_spoiled_weight(name: str, subject: Callable[..., Subject]) -> None:
    reference = subject(bigram(), reference=True)
    assert passed(CHECKS[name](subject(bigram()), reference))
    assert not passed(CHECKS[name](subject(bigram(spoiled())), reference))


@pytest.mark.filterwarnings("ignore:invalid value")  # inf - inf
@pytest.mark.parametrize("no_number", [math.nan, math.inf])
@pytest.mark.parametrize("name", CHECKS)
def test_a_logit_that_is_no_number_never_passes(name: str, no_number: float, subject: Callable[..., Subject]) -> None:
    broken = spoiled(no_number)
    for ours, theirs in ((broken, TABLE), (TABLE, broken), (broken, broken)):
        found = CHECKS[name](subject(bigram(ours)), subject(bigram(theirs), reference=True))
        by_value = name == "perplexity_value" and ours is TABLE  # asks nothing of the reference
        assert passed(found) == by_value


# --- agreement -------------------------------------------------------------------------------------------------------


def test_padding_is_not_compared(subject: Callable[..., Subject]) -> None:
    """Two models that differ on padding alone agree."""
    ours, theirs = subject(bigram(ignored=1e6)), subject(bigram(ignored=0), reference=True)
    assert passed(agreement.measure(ours, theirs, None, LIMITS))


def test_the_worst_case_speaks(subject: Callable[..., Subject]) -> None:
    """A fault that only decode steps meet is told, and by its name: the prompt is of 0, the steps are of 1."""
    tokens = np.array([[0] * 12 + [1] * 4] * 2)
    found = agreement.measure(subject(bigram(spoiled())), subject(bigram(), reference=True), tokens, LIMITS)
    difference, kl, top1 = found
    assert [one.note for one in found] == ["decode"] * 3
    assert difference.value == pytest.approx(TABLE[1, 2] + 2)
    assert (top1.value, kl.passed, top1.passed) == (0.0, False, False)


@pytest.mark.parametrize("side", [0, 1])
def test_a_single_case_that_is_no_number_is_not_outshone(side: int, subject: Callable[..., Subject]) -> None:
    """NaN is not larger than a difference of 0."""
    tables = [TABLE, TABLE]
    tables[side] = spoiled(math.nan)
    tokens = np.array([[0] * 12 + [1] * 4] * 2)
    ours, theirs = subject(bigram(tables[0])), subject(bigram(tables[1]), reference=True)
    assert not any(one.passed for one in agreement.measure(ours, theirs, tokens, LIMITS))


def test_distances_by_hand() -> None:
    half, quarter = probabilities([0.5, 0.5]), probabilities([0.25, 0.75])
    found = agreement.distance("", quarter + 7, half)
    assert found.kl == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), abs=1e-6)  # logits are float32
    assert found.difference == pytest.approx(7 + math.log(1.5), abs=1e-6)
    both = agreement.distance("", np.stack([half, quarter]), np.stack([half, half]))
    assert both.kl == pytest.approx(found.kl / 2, abs=1e-6)  # a mean over positions
    assert agreement.distance("", half, half) == agreement.Distance("", 0.0, 0.0, 1.0)
    assert agreement.distance("", quarter[:, ::-1], quarter).top1 == 0.0


def test_one_faulty_position_in_a_prompt_is_a_share(subject: Callable[..., Subject]) -> None:
    tokens = np.array([[0] * 11 + [1] + [0] * 4] * 2)
    *_, top1 = agreement.measure(subject(bigram(spoiled())), subject(bigram(), reference=True), tokens, LIMITS)
    assert top1.value == pytest.approx(11 / 12)


@pytest.mark.parametrize("limit", [{"max_kl": 1e-5}, {"min_top1": 1.0}, {"max_difference": 1e-3}])
def test_a_decoder_with_a_cache_agrees_until_a_weight_is_spoiled(
    limit: dict[str, float], exported: Callable[[str], Exported], subject: Callable[..., Subject]
) -> None:
    llama, options = exported("llama"), Agreement(length=9, decode_steps=3, **limit)
    reference = Subject(llama.path, is_reference=True)
    assert passed(agreement.measure(Subject(llama.path), reference, None, options))
    graph = llama.graph()
    weight = graph.graph.initializers["model.layers.1.mlp.down_proj.weight"]
    weight.const_value = ir.tensor(-weight.const_value.numpy(), name=weight.name)
    assert not passed(agreement.measure(subject(graph), reference, None, options))


# --- perplexity ------------------------------------------------------------------------------------------------------


def test_perplexity_by_hand(subject: Callable[..., Subject]) -> None:
    """0 -> 1 -> 2 -> 0: a half, three quarters, a half; the geometric mean of their inverses."""
    runner = subject(bigram()).runner()
    assert perplexity.of(runner, windows([[0, 1, 2, 0]])) == pytest.approx((2 * 4 / 3 * 2) ** (1 / 3))


def test_padding_is_neither_read_nor_predicted(subject: Callable[..., Subject]) -> None:
    runner = subject(bigram(ignored=-50)).runner()
    padded = windows([[0, 1, 2, 2], [2, 0, 0, 0]], lengths=[3, 2])
    assert padded.predicted == 3
    assert perplexity.of(runner, padded) == pytest.approx((2 * 4 / 3 * 2) ** (1 / 3))


def test_batches_change_nothing(subject: Callable[..., Subject], monkeypatch: pytest.MonkeyPatch) -> None:
    runner = subject(bigram()).runner()
    whole = perplexity.of(runner, TEXT)
    monkeypatch.setattr(perplexity, "LOGITS_BYTES", 1)  # one row a call
    assert perplexity.of(runner, TEXT) == pytest.approx(whole)


def test_a_uniform_model_is_as_perplexed_as_its_vocabulary_is_large(subject: Callable[..., Subject]) -> None:
    assert perplexity.of(subject(bigram(np.zeros((3, 3)))).runner(), TEXT) == pytest.approx(3)


def test_an_absurd_model_is_infinitely_perplexed(subject: Callable[..., Subject]) -> None:
    """exp of more than 709 nats is no float64."""
    absurd = np.array([[1e4, 0, 0]] * 3)
    assert perplexity.of(subject(bigram(absurd)).runner(), TEXT) == math.inf


@pytest.mark.parametrize(("below", "weight", "expected"), [(True, 0, False), (True, -4, True), (False, 0, True)])
def test_being_worse_than_rounding_is_a_miss_where_it_is_asked(
    below: bool, weight: float, expected: bool, subject: Callable[..., Subject]
) -> None:
    """Ours has -2 where the reference has 2.7; rounding with -4 is worse than ours, and 0 is better."""
    ours, theirs = subject(bigram(spoiled())), subject(bigram(), reference=True)
    rounded = subject(bigram(spoiled(weight)))
    *_, found = perplexity.measure(ours, theirs, TEXT, Perplexity(below_rounding=below), rounded=rounded)
    assert (found.name, found.passed) == ("perplexity against rounding", expected)
    assert found.reference == pytest.approx(perplexity.of(rounded.runner(), TEXT))


# --- structure -------------------------------------------------------------------------------------------------------


def renamed(model: ir.Model) -> None:
    model.graph.outputs[0].name = "scores"


def another_type(model: ir.Model) -> None:
    logits = model.graph.outputs[0]
    cast = ir.node("Cast", [logits], {"to": 11}).outputs[0]
    model.graph.append(cast.producer())
    cast.name, logits.name, cast.shape, cast.type = "logits", "single", logits.shape, ir.TensorType(ir.DataType.DOUBLE)
    model.graph.outputs[0] = cast


def another_rank(model: ir.Model) -> None:
    model.graph.inputs[1].shape = ir.Shape(["B", "S", "T"])


def one_input_more(model: ir.Model) -> None:
    model.graph.inputs.append(ir.Value(name="extra", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.FLOAT)))


def unknown_operator(model: ir.Model) -> None:
    model.graph[0].op_type = "Gatherer"


@pytest.mark.parametrize(
    ("fault", "note"),
    [
        (renamed, "output logits is missing, not FLOAT"),
        (renamed, "output scores is new"),
        (another_type, "output logits is DOUBLE"),
        (another_rank, "input attention_mask is INT64[None, None, None], not INT64[None, None]"),
        (one_input_more, "input extra is new"),
        (unknown_operator, "checker: No Op registered for Gatherer"),
        (unknown_operator, "ONNX Runtime cannot load it"),
    ],
)
def test_structure_names_the_fault(
    fault: Callable[[ir.Model], None], note: str, subject: Callable[..., Subject]
) -> None:
    reference, model = subject(bigram(), reference=True), bigram()
    fault(model)
    (found,) = structure.measure(subject(model), reference)
    assert not found.passed
    assert note in found.note


def test_structure_of_equal_graphs_is_faultless(subject: Callable[..., Subject]) -> None:
    reference, other_axes = subject(bigram(), reference=True), bigram(spoiled())
    other_axes.graph.inputs[0].shape = ir.Shape(["rows", "columns"])
    (found,) = structure.measure(subject(other_axes), reference)  # weights and names of axes are not its business
    assert (found.value, found.passed, found.note) == (0, True, "")


@pytest.mark.parametrize(("ir_version", "faults"), [(3, 0), (4, 1)])
def test_a_weight_among_the_inputs_is_a_callers_choice_from_ir_4_on(
    ir_version: int, faults: int, subject: Callable[..., Subject]
) -> None:
    def model(inputs: str, version: int) -> ir.Model:
        return graphs.build(f"({inputs}) => (float[2] y) {{ y = Add(x, w) }}", 8, version, w=graphs.normal(2))

    reference = subject(model("float[2] x, float[2] w", ir_version), reference=True)
    (found,) = structure.measure(subject(model("float[2] x", 8)), reference)
    assert found.value == faults


def test_structure_says_where_bfloat16_can_be_validated(subject: Callable[..., Subject]) -> None:
    model = graphs.build("(bfloat16[2] x) => (bfloat16[2] y) { y = Sin(x) }")
    (found,) = structure.measure(subject(model), subject(model, reference=True))
    assert not found.passed
    assert "`--provider cuda` validates it" in found.note


@pytest.mark.parametrize("content", [b"no graph", b"", None])
def test_structure_of_a_broken_file_is_a_fault(content: bytes | None, subject: Callable[..., Subject]) -> None:
    reference, broken = subject(bigram(), reference=True), subject(bigram())
    whole = broken.path.read_bytes()
    broken.path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    (found,) = structure.measure(broken, reference)
    assert not found.passed
    assert found.note


def test_structure_of_missing_weights_is_a_fault(subject: Callable[..., Subject]) -> None:
    table = np.zeros((300, 300))  # large enough to lie beside the graph
    reference, broken = subject(bigram(table), reference=True), subject(bigram(table))
    broken.path.with_name("model.onnx.data").unlink()
    (found,) = structure.measure(broken, reference)
    assert not found.passed


# --- layers, size, speed ---------------------------------------------------------------------------------------------


def test_layers_counts_flags() -> None:
    rows = [
        {"layer": "a", "flags": []},
        {"layer": "b", "flags": ["constant", "worse than rounding"]},
        {"layer": "c", "flags": ["not finite"]},
    ]
    (found,) = layers.measure(rows, Layers(max_flagged=2))
    assert (found.value, found.passed, found.note) == (3, False, "b constant; b worse than rounding; c not finite")
    assert passed(layers.measure(rows, Layers(max_flagged=3)))
    assert passed(layers.measure(rows[:1], Layers()))
    assert layers.measure([], Layers()) == []


def test_size_counts_the_weights_beside_the_graph(subject: Callable[..., Subject]) -> None:
    large, small = subject(bigram(np.zeros((300, 300))), reference=True), subject(bigram())
    whole, ratio = size.measure(small, large, Size(max_ratio=0.05))
    on_disk = [sum(path.stat().st_size for path in one.path.parent.iterdir()) for one in (small, large)]
    assert [whole.value, whole.reference] == on_disk
    assert on_disk[1] > 300 * 300 * 4
    assert ratio.value == on_disk[0] / on_disk[1]
    assert ratio.passed
    assert not passed(size.measure(large, small, Size(max_ratio=1.0)))


def test_speed_is_a_median_of_positive_numbers(subject: Callable[..., Subject]) -> None:
    options = Speed(prompt=4, new_tokens=2, repeats=3)
    found = speed.measure(subject(bigram()), subject(bigram(), reference=True), options)
    assert [one.name for one in found] == ["prefill speed", "decode speed", "decode ratio"]
    assert all(one.value > 0 and (one.reference or 1) > 0 for one in found)
    assert found[2].value == found[1].value / (found[1].reference or 0)
    assert passed(found)


def test_speed_misses_what_nothing_reaches(subject: Callable[..., Subject]) -> None:
    options = Speed(prompt=4, new_tokens=2, repeats=1, min_decode_ratio=1e6)
    assert not passed(speed.measure(subject(bigram()), subject(bigram(), reference=True), options))


def test_text_checks_do_not_apply_to_any_graph(subject: Callable[..., Subject]) -> None:
    with pytest.raises(RequestError, match="no decoder with a cache"):
        subject(graphs.transposed_weight()).runner()
