"""The runner against passes that are wrong on purpose: each is rolled back, named, and leaves the model usable."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from passes import Refusal, run_passes
from passes.batchnorm_fusion import BatchNormFusion
from passes.dead_node_elimination import DeadNodeElimination
from passes.dropout_removal import DropoutRemoval
from passes.import_normalization import ImportNormalization
from passes.local import LocalPass, Scope
from passes.noop_elimination import NoopElimination
from passes.running.shared import SHARED
from passes.shapes.symbols import Symbols
from tests import graphs, laws


class Wrong(ir.passes.InPlacePass):
    """Does `deed` to the model and says that it changed something."""

    def __init__(self, deed: Callable[[ir.Model], object], modified: bool = True) -> None:
        self.deed, self.modified = deed, modified

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        self.deed(model)
        return ir.passes.PassResult(model, self.modified)


def crash(model: ir.Model) -> None:
    model.graph.remove(model.graph[-1])
    raise RuntimeError("half way\nand a long story")


def negate(model: ir.Model) -> None:
    model.graph[-1].op_type = "Neg"


def rename(model: ir.Model) -> None:
    model.graph.outputs[0].name = "z"


def retype(model: ir.Model) -> None:
    model.graph.outputs[0].dtype = ir.DataType.DOUBLE  # writes into a type object that `clone` shares


def forget_type(model: ir.Model) -> None:
    model.graph.outputs[0].type = None


def drop_an_input(model: ir.Model) -> None:
    model.graph.inputs.pop()


def take_a_default_away(model: ir.Model) -> None:
    del model.graph.initializers["optional"]


def break_the_graph(model: ir.Model) -> None:
    model.graph[-1].op_type = "NoSuchOperator"


def spoil_a_weight(model: ir.Model) -> None:
    weight = model.graph.initializers["k"]
    weight.const_value = ir.tensor(np.array([np.inf, 0], np.float32), name="k")


@pytest.mark.parametrize(
    ("deed", "reason"),
    [
        (crash, "RuntimeError: half way"),
        (negate, "'y' differs by"),
        (rename, "the interface changed: 'output y"),
        (retype, "became 'output y: DOUBLE[2]'"),
        (drop_an_input, "the interface changed: 'input optional"),
        (take_a_default_away, "with a default' became"),
        (break_the_graph, "No Op registered for NoSuchOperator"),
        (spoil_a_weight, "the new weight 'k' is not finite"),
    ],
)
def test_a_wrong_pass_never_happened(deed: Callable[[ir.Model], object], reason: str) -> None:
    model = graphs.dead_chain()
    before, answers = laws.to_bytes(model), laws.run(model)
    result, (outcome,) = run_passes(model, [Wrong(deed)], laws.run)
    assert outcome.rolled_back is not None
    assert reason in outcome.rolled_back
    assert "\n" not in outcome.rolled_back
    assert not outcome.modified
    assert (outcome.nodes_after, outcome.bytes_after) == (outcome.nodes_before, outcome.bytes_before)
    assert laws.to_bytes(result) == before
    laws.assert_same(answers, laws.run(result))


def test_the_passes_after_a_wrong_one_go_on() -> None:
    result, outcomes = run_passes(graphs.dead_chain(), [Wrong(negate), DeadNodeElimination()], laws.run)
    assert [outcome.modified for outcome in outcomes] == [False, True]
    assert len(result.graph) == 1


def test_outcomes_count() -> None:
    model = graphs.conv_batchnorm()
    result, (dropout, fusion) = run_passes(model, [DropoutRemoval(), BatchNormFusion()], laws.run)
    assert (dropout.name, dropout.modified, dropout.worst_difference) == ("DropoutRemoval", False, None)
    assert (fusion.nodes_before, fusion.nodes_after) == (2, 1)
    assert fusion.bytes_before - fusion.bytes_after == 4 * 4 * 4, "four parameters of four float32 channels"
    assert 0 < fusion.worst_difference < laws.ULPS * np.finfo(np.float32).eps
    assert fusion.seconds > 0
    assert len(model.graph) == 2, "the model handed in keeps its nodes"
    assert len(result.graph) == 1


def test_refusals_reach_the_outcome() -> None:
    _, (outcome,) = run_passes(graphs.dropout_mode_is_an_input(), [DropoutRemoval()])
    assert outcome.refusals == (Refusal("d", "Dropout", "training_mode 'train' is decided at run time"),)
    assert str(outcome.refusals[0]) == "Dropout d: training_mode 'train' is decided at run time"


def test_a_pass_that_claims_nothing_changes_nothing() -> None:
    """A pass that says modified=False is taken at its word: the copy it may have spoiled is dropped."""
    model = graphs.dead_chain()
    result, _ = run_passes(model, [Wrong(negate, modified=False)], laws.run)
    laws.assert_same(laws.run(graphs.dead_chain()), laws.run(result))


class Times(ir.passes.InPlacePass):
    """Changes something the first few times that it is called, and writes each call down."""

    def __init__(self, name: str, changing: int, calls: list[str]) -> None:
        self.name, self.changing, self.calls = name, changing, calls

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        self.calls.append(self.name)
        self.changing -= 1
        return ir.passes.PassResult(model, modified=self.changing >= 0)


@pytest.mark.parametrize(
    ("changing", "called"),
    [
        ((0, 0, 0), "abc"),
        ((1, 0, 0), "abca"),
        ((0, 0, 1), "abcabc"),
        ((0, 2, 0), "abcabcab"),
        ((1, 1, 9), "abcabcabc"),  # three rounds and no more
    ],
)
def test_each_pass_sees_the_model_as_it_is_in_the_end_and_none_sees_it_twice(
    changing: tuple[int, int, int], called: str
) -> None:
    calls: list[str] = []
    passes = [Times(name, times, calls) for name, times in zip("abc", changing, strict=True)]
    run_passes(graphs.dead_chain(), passes, laws.run, rounds=3)
    assert "".join(calls) == called


def test_nodes_out_of_order_are_no_obstacle() -> None:
    model = graphs.dead_chain()
    nodes = list(model.graph)
    model.graph.remove(nodes)
    model.graph.extend(reversed(nodes))
    result, (outcome,) = run_passes(model, [DeadNodeElimination()], laws.run)
    assert outcome.rolled_back is None
    assert len(result.graph) == 1


def test_without_a_probe_the_interface_is_still_checked() -> None:
    _, outcomes = run_passes(graphs.dead_chain(), [Wrong(rename), Wrong(negate)], rounds=1)
    assert [outcome.rolled_back is None for outcome in outcomes] == [False, True]
    assert outcomes[1].worst_difference is None


class NegateThird(LocalPass):
    """Makes every Exp an Abs, which is right in this graph, and the third a Neg."""

    operators = frozenset({"Exp"})

    def rewrite(self, node: ir.Node, scope: Scope) -> bool:
        node.op_type = "Neg" if len(self.edited) == 2 else "Abs"
        return True


def test_the_guilty_node_is_found_by_halving() -> None:
    text = "(float[2] x) => (float[2] y) { a = Exp(zero)  b = Exp(zero)  c = Exp(x)  d = Exp(zero)  y = Abs(c) }"
    model = graphs.build(text, zero=np.zeros(2, np.float32))
    _, (outcome,) = run_passes(model, [NegateThird()], laws.run)
    assert outcome.guilty == "Exp c"
    assert "'y' differs by" in (outcome.rolled_back or "")


def test_a_clean_group_is_compared_once() -> None:
    calls = []

    def probe(model: ir.Model) -> laws.Outputs:
        calls.append(model)
        return laws.run(model)

    passes = [DropoutRemoval(), BatchNormFusion(), DeadNodeElimination()]
    _, outcomes = run_passes(graphs.conv_batchnorm(), passes, probe)
    assert len(calls) == 2, "the original, and what came of it"
    assert [outcome.worst_difference is not None for outcome in outcomes] == [False, True, False]


def scale(factor: float) -> Callable[[ir.Model], None]:
    def deed(model: ir.Model) -> None:
        value = model.graph.initializers["weight"]
        value.const_value = ir.tensor((value.const_value.numpy() * factor).astype(np.float32), name="weight")

    return deed


def test_small_errors_do_not_add_up() -> None:
    """Each step is within the tolerance of sqrt(2 ** -23) = 3.5e-4, and the sum of two is not."""
    passes = [Wrong(scale(1 + 2e-4)), Wrong(scale(1 + 2e-4))]
    _, (first, second) = run_passes(graphs.transposed_weight(), passes, laws.run, rounds=1)
    assert first.rolled_back is None
    assert first.worst_difference == pytest.approx(2e-4, rel=1e-2)
    assert "differs by 4.0e-04 of its largest value, and 3.5e-04 is allowed" in (second.rolled_back or "")


@pytest.mark.parametrize(
    ("expected", "output", "believed"),
    [
        ([1.0, np.nan, np.inf], [1.0, np.nan, np.inf], True),
        ([1.0, np.nan, 1.0], [1.0, 1.0, 1.0], False),
        ([1.0, 1.0, 1.0], [1.0, np.nan, 1.0], False),
        ([1.0, np.inf, 1.0], [1.0, -np.inf, 1.0], False),
        ([1.0, 1.0, 1.0], [1.0, np.inf, 1.0], False),
        ([0.0, 0.0, 0.0], [0.0, 0.0, 1e-9], False),
        ([1, 2, 3], [1, 2, 3], True),
        ([1, 2, 10**9], [1, 2, 10**9 + 1], False),
        ([True, False], [True, True], False),
        (["a", "b"], ["a", "c"], False),
        ([1.0, 2.0], [[1.0, 2.0]], False),
        ([1.0, 2.0], [1, 2], False),
    ],
)
def test_what_counts_as_the_same_output(expected: list[object], output: list[object], believed: bool) -> None:
    answers = itertools.chain([np.array(expected)], itertools.repeat(np.array(output)))
    _, (outcome,) = run_passes(graphs.dead_chain(), [Wrong(lambda _: None)], lambda _: {"y": next(answers)}, rounds=1)
    assert (outcome.rolled_back is None) == believed


def test_an_unseeded_draw_is_compared_by_its_shape() -> None:
    text = """(float[2,3] x, bool c) => (float[2,3] y, float[2,3] z) {
        n = Neg(x)  u = RandomUniformLike(x)  z = Abs(x)
        y = If (c) <then_branch = t () => (float[2,3] a) { a = Add(u, x) },
                    else_branch = e () => (float[2,3] b) { b = Exp(x) }>
    }"""
    answers = iter([{"y": np.zeros((2, 3)), "z": np.zeros(3)}, {"y": np.ones((2, 3)), "z": np.zeros(3)}])
    _, (outcome,) = run_passes(graphs.build(text), [DeadNodeElimination()], lambda _: next(answers))
    assert outcome.rolled_back is None
    assert outcome.modified


def test_progress_is_the_callers() -> None:
    seen = []

    def track(passes, text):  # type: ignore[no-untyped-def]
        for graph_pass in passes:
            seen.append((text, type(graph_pass).__name__))
            yield graph_pass

    run_passes(graphs.dead_chain(), [DropoutRemoval(), DeadNodeElimination()], track=track)
    assert seen == [("passes", "DropoutRemoval"), ("passes", "DeadNodeElimination")]


def test_a_type_that_the_file_leaves_unsaid_may_be_said() -> None:
    model = graphs.build("(float[2] x) => (y) { a = Identity(x)  y = Neg(a) }")
    assert model.graph.outputs[0].type is None
    result, outcomes = run_passes(model, [ImportNormalization(), NoopElimination()])
    assert not [outcome.rolled_back for outcome in outcomes if outcome.rolled_back]
    assert [node.op_type for node in result.graph] == ["Neg"]


def test_a_type_that_the_file_says_stays() -> None:
    model = graphs.build("(float[2] x) => (float[2] y) { y = Neg(x) }")
    _, (outcome,) = run_passes(model, [Wrong(forget_type)], rounds=1)
    assert "the interface changed" in (outcome.rolled_back or "")


class Shaken:
    """A probe of one input that knows how to round it another way."""

    def __init__(self, x: float) -> None:
        self.x = x

    def __call__(self, model: ir.Model) -> laws.Outputs:
        return laws.run(model, {"x": np.full(2, self.x, np.float32)})

    def shaken(self, seed: int) -> Shaken:
        return Shaken(self.x * (1 + (-1) ** seed * 2.0**-23))


def scale_by(factor: float) -> Callable[[ir.Model], None]:
    def deed(model: ir.Model) -> None:
        model.graph.initializers["k"].const_value = ir.tensor(np.float32(factor), name="k")

    return deed


@pytest.mark.parametrize(
    ("nodes", "factor", "held"),
    [
        ("h = Mul(a, thousand)  y = Cos(h)", 1 + 2.0**-22, True),  # in the noise of the last digit
        ("h = Mul(a, thousand)  y = Cos(h)", 1.1, False),
        ("y = Exp(a)", 1.001, False),  # steady: the usual tolerance
    ],
)
def test_no_more_digits_are_asked_for_than_the_original_has(nodes: str, factor: float, held: bool) -> None:
    text = f"(float[2] x) => (float[2] y) {{ a = Mul(x, k)  {nodes} }}"
    model = graphs.build(text, k=np.float32(1), thousand=np.float32(1e4))
    _, (outcome,) = run_passes(model, [Wrong(scale_by(factor))], Shaken(1.2345), rounds=1)
    assert (outcome.rolled_back is None) == held


class Asking(LocalPass):
    """Asks for what is known of shapes, and edits the first time or never."""

    operators = frozenset({"Relu"})

    def __init__(self, seen: list[Symbols], *, edits: bool) -> None:
        super().__init__()
        self.seen, self.edits = seen, edits

    def rewrite(self, node: ir.Node, scope: Scope) -> bool:
        self.seen.append(scope.symbols)
        edits, self.edits = self.edits, False
        return edits


def test_passes_share_what_they_know_until_one_changes_something() -> None:
    seen: list[Symbols] = []
    passes = [Asking(seen, edits=False), Asking(seen, edits=False), Asking(seen, edits=True), Asking(seen, edits=False)]
    model = graphs.build("(float[2] x) => (float[2] y) { y = Relu(x) }")
    after, _ = run_passes(model, passes, rounds=1)
    first, second, third, again, last = seen
    assert first is second is third is again  # `again`: the same pass, which goes over the graph once more
    assert last is not first
    assert not {*after.meta, *model.meta} & {SHARED}
