"""What broke other optimizers, under all of our passes: right, and where it may, smaller."""

from __future__ import annotations

import functools

import numpy as np
import onnx_ir as ir
import pytest

from compressor import catalog
from passes import PassOutcome, run_passes
from tests import graphs, laws, trap_graphs

TRAPS = trap_graphs.GRAPHS | {"stale_batch": trap_graphs.stale_batch}
GRAPHS = graphs.GRAPHS | TRAPS
RANDOM = {"two_draws"}


@functools.cache
def optimized(graph: str, target: str = "generic") -> tuple[ir.Model, tuple[PassOutcome, ...]]:
    passes = [catalog.resolve(catalog.PASSES[name].where)() for name in catalog.passes_for(target)]
    return run_passes(GRAPHS[graph](), passes)


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph.all_nodes()]


@pytest.mark.parametrize("graph", TRAPS)
def test_all_passes_together_keep_every_answer(graph: str) -> None:
    """At two sizes of each free axis: what was folded for one must hold for the other."""
    result, _ = optimized(graph)
    original = GRAPHS[graph]()
    assert laws.interface(result) == laws.interface(original)
    for size in () if graph in RANDOM else (2, 3):
        feeds = laws.feeds_for(original, size)
        laws.assert_same(laws.run(original, feeds), laws.run(result, feeds))


@pytest.mark.parametrize(
    ("graph", "left"),
    [
        ("branch_shares_a_name", ["Add", "Mul"]),
        ("cast_through_double", ["Identity"]),
        ("clip_then_relu", ["Clip"]),
        ("conv_times_channels", ["Conv"]),
        ("conv_times_scalar", ["Conv"]),
        ("pad_average", ["AveragePool"]),
        ("pad_conv", ["Conv"]),
        ("pad_max_with_lowest", ["MaxPool"]),
        ("reshape_copies_a_dimension", ["Reshape"]),
        ("slices_tile", ["Split", "Neg", "Neg", "Neg"]),
        ("slices_tile_opset_11", ["Split", "Neg", "Neg"]),
        ("stale_batch", ["Neg", "Exp"]),
        ("transposes_cancel", ["Relu"]),
        ("transposes_merge", ["Exp", "Transpose"]),
        ("two_limits_of_one_value", ["Clip", "Clip"]),
        ("dropout_opset_7", ["Neg", "Exp"]),
        ("dropout_opset_12", ["Neg", "Exp"]),
        ("constant_is_the_output", ["Add"]),
    ],
)
def test_what_may_go_goes(graph: str, left: list[str]) -> None:
    assert operators(optimized(graph)[0]) == left


@pytest.mark.parametrize(
    ("graph", "graph_pass", "reason"),
    [
        ("clip_disjoint", "ActivationMerging", "leave no interval"),
        ("negative_clip_then_relu", "ActivationMerging", "leave no interval"),
        ("conv_times_width", "AffineFusion", "differs along another axis than the channels"),
        ("pad_max_with_zero", "PadFusion", "it fills in 0.0, and a MaxPool pads with -inf"),
        ("pad_crops", "PadFusion", "a negative amount crops"),
        ("pad_reflects", "PadFusion", "the Pad is of mode reflect"),
        ("cast_through_half", "CastMerging", "FLOAT16 does not hold every FLOAT"),
        ("gemm_of_a_row", "GemmFusion", "the summand may be larger than the product"),
        ("slices_overlap", "SliceSplitting", "do not tile the 6 entries"),
        ("slices_with_a_gap", "SliceSplitting", "do not tile the 6 entries"),
        ("batchnorm_trains", "BatchNormFusion", "training_mode is 1"),
        ("dropout_mode_is_an_input", "DropoutRemoval", "decided at run time"),
        ("expand_to_a_weight", "ConstantFolding", "the model would grow"),
    ],
)
def test_what_must_stay_stays_with_a_reason(graph: str, graph_pass: str, reason: str) -> None:
    result, outcomes = optimized(graph)
    assert len(operators(result)) == len(operators(GRAPHS[graph]()))
    found = [str(refusal) for outcome in outcomes if outcome.name == graph_pass for refusal in outcome.refusals]
    assert any(reason in line for line in found), found


@pytest.mark.parametrize("graph", ["almost_one", "ones_with_an_axis_more", "same_name_for_two_sizes", "two_draws"])
def test_what_looks_like_nothing_is_kept(graph: str) -> None:
    assert sorted(operators(optimized(graph)[0])) == sorted(operators(GRAPHS[graph]()))


def test_sizes_of_one_name_may_differ() -> None:
    result, _ = optimized("same_name_for_two_sizes")
    feeds = {"x": np.ones(1, np.float32), "z": np.ones(3, np.float32)}
    assert laws.run(result, feeds)["y"].shape == (3,)


def test_a_default_stays_an_input() -> None:
    model, _ = optimized("batchnorm_weight_is_an_input")
    assert [value.name for value in model.graph.inputs] == ["x", "w"]
    feeds = laws.feeds_for(model) | {"w": np.zeros((4, 2, 3, 3), np.float32)}
    laws.assert_same(laws.run(GRAPHS["batchnorm_weight_is_an_input"](), feeds), laws.run(model, feeds))


def test_weights_of_before_ir_4_become_private() -> None:
    text = "(float[2] x, float[2] w) => (float[2] y) { n = Neg(w)  y = Add(x, n) }"
    model = graphs.build(text, opset=9, ir_version=3, w=graphs.normal(2))
    passes = [catalog.resolve(catalog.PASSES[name].where)() for name in catalog.passes_for("generic")]
    result, outcomes = run_passes(model, passes, laws.run)
    assert not [outcome.rolled_back for outcome in outcomes if outcome.rolled_back]
    assert [value.name for value in result.graph.inputs] == ["x"]
    assert operators(result) == ["Add"]


@pytest.mark.parametrize(("opset", "ir_version"), [(27, 14), (26, 13)])
def test_versions_are_those_that_onnx_runtime_loads(opset: int, ir_version: int) -> None:
    model = graphs.build("(float[2] x) => (float[2] y) { y = Neg(x) }", opset=opset, ir_version=ir_version)
    passes = [catalog.resolve(catalog.PASSES["import-normalization"].where)()]
    result, _ = run_passes(model, passes)
    assert (result.opset_imports[""], result.ir_version) == (26, 13)
    laws.open_session(result)
