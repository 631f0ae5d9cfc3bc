from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir
import pytest

from passes.batchnorm_fusion import BatchNormFusion
from tests import graphs, laws


def fused(model: ir.Model) -> ir.Model:
    graph_pass = BatchNormFusion()
    assert graph_pass(model).modified
    assert graph_pass.refusals == []
    return model


@pytest.mark.parametrize(
    "graph",
    [
        "batchnorm_empty_bias",
        "batchnorm_grouped",
        "batchnorm_grouped_transpose",
        "batchnorm_mixed_types",
        "batchnorm_no_bias",
        "batchnorm_opset_6",
        "batchnorm_opset_7",
        "batchnorm_opset_9",
        "batchnorm_plain",
    ],
)
def test_conv_and_batchnorm_become_one_conv(graph: str) -> None:
    model = fused(graphs.GRAPHS[graph]())
    (conv,) = model.graph
    weight, bias = (value.const_value for value in conv.inputs[1:])
    assert weight.dtype == bias.dtype == model.graph.inputs[0].dtype
    assert {"gamma", "beta", "mean", "variance"}.isdisjoint(model.graph.initializers)


def test_weights_keep_their_names() -> None:
    assert set(fused(graphs.conv_batchnorm()).graph.initializers) == {"w", "b"}


def test_a_shared_weight_is_copied() -> None:
    model = graphs.convs_share_weight()
    before = model.graph.initializers["w"].const_value.numpy().copy()
    initializers = fused(model).graph.initializers
    assert set(initializers) == {"w", "b", "w_1", "b_1"}
    np.testing.assert_array_equal(initializers["w"].const_value.numpy(), before)


def test_the_tensors_before_are_untouched() -> None:
    """Copies share tensors; a rollback must find them as they were."""
    model = graphs.conv_batchnorm()
    weight = np.ascontiguousarray(graphs.normal(4, 2, 3, 3))
    model.graph.initializers["w"].const_value = ir.Tensor(weight, name="w")
    fused(model.clone())
    np.testing.assert_array_equal(weight, graphs.normal(4, 2, 3, 3))


@pytest.mark.parametrize(
    ("builder", "reason"),
    [
        (graphs.conv_batchnorm_trains, "training_mode is 1"),
        (partial(graphs.conv_batchnorm, opset=6), "is_test is not 1"),
        (partial(graphs.conv_batchnorm, opset=7, attributes="<spatial = 0>"), "spatial is 0"),
        (partial(graphs.conv_batchnorm, ir_version=3), "before IR version 4"),
        (partial(graphs.conv_batchnorm, conv="Exp(x)"), "comes from Exp, not from a Conv"),
        (partial(graphs.conv_batchnorm, mean=graphs.normal(3)), "mean has shape [3] for 4 channels"),
        (partial(graphs.conv_batchnorm, variance=-(graphs.normal(4) ** 2)), "is no variance"),
        (partial(graphs.conv_batchnorm, attributes="<epsilon = 0.0>", variance=np.zeros(4, np.float32)), "is 0"),
        (graphs.conv_batchnorm_overflow, "too large for float16"),
        (graphs.conv_batchnorm_statistics_are_read, "training outputs m, v, sm, sv"),
        (graphs.conv_batchnorm_weight_is_an_input, "weight 'w' is a graph input"),
        (graphs.conv_weight_is_dequantized, "weight 'v' is computed by DequantizeLinear"),
        (graphs.conv_result_is_an_output, "'c' is itself a graph output"),
        (graphs.conv_result_is_captured, "'c' has 2 readers"),
        (graphs.batchnorm_in_branch, "outside of this branch"),
    ],
)
def test_refused_with_a_reason(builder: partial[ir.Model], reason: str) -> None:
    model, graph_pass = builder(), BatchNormFusion()
    before = laws.to_bytes(model)
    assert not graph_pass(model).modified
    assert laws.to_bytes(model) == before
    (refusal,) = graph_pass.refusals
    assert (refusal.op_type, refusal.node) == ("BatchNormalization", "y")
    assert reason in refusal.reason
