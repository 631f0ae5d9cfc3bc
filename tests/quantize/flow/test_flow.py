"""What flows through the segments is what the whole graph computes, with the weights it was told to flow on with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
import pytest
import torch

from compressor.errors import RequestError
from compressor.graph.decoder import Feeds
from compressor.quantize.flow.flow import Flow
from compressor.quantize.flow.linears import Linear, find_linears
from compressor.quantize.flow.segments import REMADE_BELOW_BYTES, segments
from compressor.quantize.qtensor import Grid
from compressor.quantize.rtn import RoundToNearest
from tests import decoders, graphs, laws
from tests.decoders import Exported
from tests.segment_graphs import TEXTS, small_graph


def small_batches(model: ir.Model) -> list[Feeds]:
    """Five rows, and a last batch of two."""
    feeds = laws.feeds_for(model, free_dimension=5)
    return [feeds, {name: array[:2] if array.ndim else array for name, array in feeds.items()}]


def decoder_batches(decoder: Exported) -> list[Feeds]:
    """Prompts with padding on either side, and a last batch of fewer."""
    sizes, padded = decoder.runner.decoder, np.ones((3, 9), np.int64)
    padded[0, :4], padded[1, -2:] = 0, 0
    return [sizes.feeds(decoders.tokens(3, 9), padded), sizes.feeds(decoders.tokens(2, 9))]


def replaced(model: ir.Model, linears: Sequence[Linear], weights: Mapping[str, torch.Tensor]) -> ir.Model:
    """A copy with other weights, float32 [in, out], in the place of its own."""
    copy = model.clone()
    for linear in linears:
        stored = weights[linear.name].T if linear.transposed else weights[linear.name]
        copy.graph.initializers[linear.name].const_value = ir.tensor(stored.contiguous().numpy(), name=linear.name)
    return copy


def values_in(model: ir.Model, names: set[str], feeds: Feeds) -> Feeds:
    """What the whole graph computes for some of its values, inputs among them."""
    tapped = [value for node in model.graph for value in node.outputs if value.name in names]
    model.graph.outputs.extend(value for value in tapped if not value.is_graph_output())
    return {**feeds, **laws.run(model, feeds)}


def check_flow(model: ir.Model, batches: Sequence[Feeds], weights: Mapping[str, torch.Tensor] | None = None) -> None:
    """The x of every group is the whole graph's, with the weights that it was told to flow on with."""
    linears, _ = find_linears(model, ["lm_head"])
    weights = weights or {linear.name: linear.read() for linear in linears}
    names = {str(x.name) for linear in linears for x, _ in linear.inputs}
    expected = [values_in(replaced(model, linears, weights), names, feeds) for feeds in batches]
    flow = Flow(batches, dtype=torch.float32, device=torch.device("cpu"))
    for segment in segments(model, linears):
        flowing = list(flow.run(segment))
        for x, whole in zip(flowing, expected, strict=True):
            reference = whole[str(segment.x.name)]
            # The same float32 sums in another order, through two layers: 2e-6 of the largest value was seen.
            close = {"rtol": 0, "atol": 2e-5 * np.abs(reference).max()}
            reference = reference.reshape(-1, segment.width)
            real = whole.get("attention_mask", np.ones(len(reference))).astype(bool)  # padding is no statistic
            np.testing.assert_allclose(x, reference[real.flatten()], **close, err_msg=str(segment.x.name))
            assert x.shape[1] == segment.width
        flow.resume(segment, [weights[linear.name] for linear in segment.linears])


def rounded(model: ir.Model) -> dict[str, torch.Tensor]:
    """Three bits: far enough from the weights that no tolerance could hide them."""
    solver = RoundToNearest(Grid(3, "absmax"), 16)
    return {linear.name: solver.solve(linear.read()).dequantize() for linear in find_linears(model)[0]}


def test_data_that_the_graph_does_not_run_on_is_a_wrong_request() -> None:
    text = "(int64[N] i) => (float[N,4] y) { e = Gather(table, i)  y = MatMul(e, w) }"
    model = graphs.build(text, opset=21, table=graphs.normal(5, 4), w=graphs.normal(4, 4))
    (segment,) = segments(model, find_linears(model)[0])
    flow = Flow([{"i": np.array([5])}], dtype=torch.float32, device=torch.device("cpu"))
    with pytest.raises(
        RequestError, match=r"^calibration: the graph does not run on it: .*indices element out of data"
    ):
        next(flow.run(segment))


@pytest.mark.parametrize("name", TEXTS)
def test_the_flow_is_the_graph(name: str) -> None:
    model = small_graph(name)
    check_flow(model, small_batches(model))


@pytest.mark.parametrize("name", TEXTS)
def test_the_flow_with_rounded_weights_is_the_graph_with_rounded_weights(name: str) -> None:
    model = small_graph(name)
    check_flow(model, small_batches(model), rounded(model))


@pytest.mark.parametrize("remade_below", [0, REMADE_BELOW_BYTES, 1 << 30])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_flow_of_a_decoder(
    name: str, remade_below: int, exported: Callable[[str], Exported], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is carried and whatever is made again."""
    monkeypatch.setattr("compressor.quantize.flow.segments.REMADE_BELOW_BYTES", remade_below)
    decoder = exported(name)
    check_flow(decoder.graph(), decoder_batches(decoder))
    check_flow(decoder.graph(), decoder_batches(decoder), rounded(decoder.graph()))


def test_bfloat16_flows_close_by() -> None:
    model = small_graph("residual")
    plan = segments(model, find_linears(model)[0])
    (batch, *_) = small_batches(model)
    reference = values_in(model.clone(), {"u"}, batch)["u"]
    flow = Flow([batch], dtype=torch.bfloat16, device=torch.device("cpu"))
    for segment in plan:
        (x,) = flow.run(segment)
        flow.resume(segment, [linear.read() for linear in segment.linears])
    assert x.dtype == torch.bfloat16
    # Four products of inputs and weights with 8 bits of mantissa, each 2^-8 off: 2 % of the largest value.
    np.testing.assert_allclose(x.float(), reference.reshape(x.shape), rtol=0, atol=0.02 * np.abs(reference).max())


@pytest.mark.parametrize("name", ["residual", "branches"])
def test_the_numbers_of_a_batch_do_not_depend_on_how_many_are_on_their_way(name: str) -> None:
    def flowed(threads: int) -> list[torch.Tensor]:
        torch.set_num_threads(threads)
        model = small_graph(name)
        flow = Flow(small_batches(model) * 3, dtype=torch.float32, device=torch.device("cpu"))
        seen = []
        for segment in segments(model, find_linears(model)[0]):
            seen += [x.clone() for x in flow.run(segment)]
            flow.resume(segment, [linear.read() for linear in segment.linears])
        return seen

    alone, together = flowed(1), flowed(3)
    assert len(alone) == len(together) > 3
    assert all(map(torch.equal, alone, together))
