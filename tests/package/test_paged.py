"""The paged twin says what the model says, for ragged requests in chunks on scattered blocks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import passes
from compressor import catalog
from compressor.errors import RequestError
from compressor.graph import decoder
from compressor.graph.decoder import Decoder, DecoderSession
from compressor.graph.paged_decoder import PAGED_CONFIG, PAGED_MODEL, PagedSession, Row, feeds
from compressor.graph.session import external_files, load_model, open_session
from compressor.package import attention, cache_scales, paged, paging, window
from compressor.recipe.limits import Paged
from compressor.validate import paged as check
from compressor.validate.subject import Subject
from tests.decoders import ARCHITECTURES, Exported, tokens

CONTEXT = 128
# Sums of float32 in another order; a wrong position, mask or block moves these logits by tenths.
ROUNDING = 1e-4
BRANCHES = ("then_branch", "else_branch")


def fused(graph: ir.Model) -> ir.Model:
    """As a recipe for the CPU optimizes it: attention is GroupQueryAttention."""
    chosen = [catalog.resolve(catalog.PASSES[name].where)() for name in catalog.passes_for("cpu")]
    return passes.run_passes(graph, chosen, ())[0]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def made(request: pytest.FixtureRequest, exported: Callable[[str], Exported]) -> Exported:
    return exported(request.param)


@pytest.fixture(scope="module", params=["exported", "fused"])
def twin(request: pytest.FixtureRequest, made: Exported) -> tuple[Exported, ir.Model]:
    """A model, and the twin of its graph as it was exported and as it is optimized for the CPU."""
    graph = made.graph()
    return made, paged.convert(fused(graph) if request.param == "fused" else graph, CONTEXT)


def test_ragged_requests_in_chunks_are_as_each_alone(twin: tuple[Exported, ir.Model]) -> None:
    """Against torch: three texts, all together, each in its own pieces and on its own blocks."""
    model, graph = twin
    session = PagedSession(graph, check.BLOCKS, check.BLOCK_SIZE, exact=True, fill=np.nan)
    texts = [tokens(sum(each)) for each in zip(*check.CALLS, strict=True)]
    done = [0, 0, 0]
    for counts in check.CALLS:
        taking = [index for index, count in enumerate(counts) if count]
        rows = [
            Row(texts[at][done[at] : done[at] + counts[at]].tolist(), done[at], check.SCATTERED[at]) for at in taking
        ]
        for at, logits in zip(taking, session.step(rows), strict=True):
            done[at] += counts[at]
            np.testing.assert_allclose(logits, model.alone(texts[at])[done[at] - 1], atol=ROUNDING)


def test_tiles_of_any_width_say_the_same(exported: Callable[[str], Exported], monkeypatch: pytest.MonkeyPatch) -> None:
    """A request longer than a tile, beside shorter ones, with and without a past."""
    rows = [[Row(tokens(size).tolist(), past, blocks) for size, past, blocks in each] for each in (
        [(11, 0, (9, 2, 14, 5, 6)), (3, 0, (7, 1))],
        [(1, 11, (9, 2, 14, 5, 6)), (5, 3, (7, 1)), (13, 0, (0, 11, 3, 12))],
    )]  # fmt: skip
    found = []
    for width in (64, 4, 1):
        monkeypatch.setattr(paging, "TILE", width)
        session = PagedSession(paged.convert(exported("llama").graph(), CONTEXT), 16, 4, exact=True, fill=np.nan)
        found.append([session.step(each) for each in rows])
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            np.testing.assert_allclose(one, same, atol=ROUNDING)


def test_what_lies_in_other_blocks_is_not_read(twin: tuple[Exported, ir.Model]) -> None:
    session = PagedSession(twin[1], 8, 4, exact=True, fill=np.nan)
    text = tokens(6).tolist()
    before = session.step([Row(text, 0, [5, 2])])
    session.step([Row(tokens(16).tolist(), 0, [0, 1, 3, 4])])
    after = session.step([Row(text, 0, [5, 2])])
    assert np.array_equal(before, after)
    shared = session.step([Row(text[4:], 4, [5, 7])])  # the first block as another request filled it
    np.testing.assert_allclose(shared, after, atol=ROUNDING)


def test_the_interface_is_the_engines(twin: tuple[Exported, ir.Model]) -> None:
    model, graph = twin
    sizes = Exported.sizes(model.graph())
    shapes = {value.name: [str(size) for size in value.shape or ()] for value in graph.graph.inputs}
    pool = ["num_blocks", "block_size", str(sizes.kv_heads), str(sizes.head_size)]
    assert shapes == {
        "input_ids": ["num_tokens"],
        "block_table": ["batch_size", "max_num_blocks"],
        "cumulative_sequence_lengths": ["batch_size_plus_one"],
        "past_sequence_lengths": ["batch_size"],
        **dict.fromkeys(sizes.cache_names, pool),
    }
    outputs = {value.name: [str(size) for size in value.shape or ()] for value in graph.graph.outputs}
    assert outputs == {"logits": ["batch_size", str(sizes.vocab)], **dict.fromkeys(sizes.present_names, pool)}
    assert {graph.opset_imports[""], graph.ir_version} == {24, 11}


def test_the_pool_is_written_in_place(twin: tuple[Exported, ir.Model]) -> None:
    """Each cache output is a scatter into the cache input itself, with nothing between: so one buffer can be both."""
    assert_written_in_place(twin[1].graph)


def assert_written_in_place(graph: ir.Graph) -> None:
    pools = {value.name: value for value in graph.inputs}
    for output in graph.outputs:
        if output.name != decoder.LOGITS:
            writer = output.producer()
            assert writer is not None
            assert writer.op_type == "ScatterND"
            assert writer.inputs[0] is pools[str(output.name).replace("present.", "past_key_values.")]


def test_the_head_is_computed_for_last_tokens_alone(twin: tuple[Exported, ir.Model]) -> None:
    head = next(value for value in twin[1].graph.outputs if value.name == decoder.LOGITS)
    while (node := head.producer()) is not None and node.op_type != "MatMul":
        head = node.inputs[0]  # type: ignore[assignment]
    assert node is not None
    narrowed = node.inputs[0]
    assert narrowed is not None
    assert narrowed.producer().op_type == "Gather"  # type: ignore[union-attr]


def test_what_only_prompts_need_lies_in_branches(exported: Callable[[str], Exported]) -> None:
    """Where each request brings one token, a layer computes one Attention on the tokens as they lie."""
    graph = paged.convert(fused(exported("mistral").graph()), CONTEXT).graph
    kinds = [node.op_type for node in graph]
    branches = [node for node in graph if node.op_type == "If"]
    assert kinds.count("Attention") == 0
    assert len(branches) == 1 + Exported.sizes(exported("mistral").graph()).layers  # the first is the plan's
    for node in branches[1:]:
        then, otherwise = ([one.op_type for one in node.attributes[name].as_graph()] for name in BRANCHES)
        assert then.count("Attention") == 2
        assert otherwise == ["Gather", "Reshape", "Gather", "Reshape", "Attention"]


def test_the_given_graph_is_left_alone(exported: Callable[[str], Exported]) -> None:
    graph = exported("llama").graph()

    def described() -> list[object]:
        wires = [(node.op_type, [str(value) for value in node.inputs]) for node in graph.graph]
        return [wires, [str(value) for value in (*graph.graph.inputs, *graph.graph.outputs)], graph.ir_version]

    before = described()
    paged.convert(graph, CONTEXT)
    assert described() == before


def test_equal_graphs_have_equal_twins(exported: Callable[[str], Exported]) -> None:
    one, other = (ir.to_proto(paged.convert(exported("llama").graph(), CONTEXT)) for _ in range(2))
    assert one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)


# --- files -----------------------------------------------------------------------------------------------------------


def test_weights_lie_on_disk_once(exported: Callable[[str], Exported]) -> None:
    folder = exported("llama").path.parent
    paged.write(folder, CONTEXT)
    assert external_files(load_model(folder / PAGED_MODEL)) == external_files(load_model(folder / "model.onnx"))
    assert (folder / PAGED_MODEL).stat().st_size < (folder / "model.onnx.data").stat().st_size / 2
    config = json.loads((folder / PAGED_CONFIG).read_bytes())
    assert config["model"]["decoder"]["filename"] == PAGED_MODEL


def test_the_check_passes_on_the_twin_and_fails_on_one_spoiled_weight(
    exported: Callable[[str], Exported], tmp_path: Path
) -> None:
    model = exported("llama").graph()
    ir.save(model, tmp_path / "model.onnx", external_data="model.onnx.data")
    paged.write(tmp_path, CONTEXT)
    (found,) = check.measure(Subject(tmp_path / "model.onnx"), Paged())
    assert found.passed
    spoiled = load_model(tmp_path / PAGED_MODEL)
    weight = next(value for name, value in spoiled.graph.initializers.items() if name.endswith("k_proj.weight"))
    weight.const_value = ir.tensor(-weight.const_value.numpy(), name=weight.name)  # type: ignore[union-attr]
    ir.save(spoiled, tmp_path / PAGED_MODEL)
    (found,) = check.measure(Subject(tmp_path / "model.onnx"), Paged())
    assert not found.passed


def test_without_a_twin_nothing_is_measured(exported: Callable[[str], Exported], tmp_path: Path) -> None:
    ir.save(exported("llama").graph(), tmp_path / "model.onnx", external_data="model.onnx.data")
    assert check.measure(Subject(tmp_path / "model.onnx"), Paged()) == []


# --- codes of 8 bits -------------------------------------------------------------------------------------------------


def scales_of(graph: ir.Model) -> cache_scales.Scales:
    sizes = Exported.sizes(graph)
    session = DecoderSession(sizes, open_session(graph, "exact"))
    return cache_scales.measure(graph, sizes, cache_scales.caches(session, [sizes.feeds(tokens(4, 24))]))


def test_a_pool_of_codes_says_nearly_the_same(made: Exported) -> None:
    """Weights of these models are wild, so a 254th of a channel's reach shows: a tenth of the logits' spread at most
    in the mean square, where a wrong scale, channel or head moves them by half of it and more."""
    graph = fused(made.graph())
    twin = paged.convert(graph, CONTEXT, "cpu", scales_of(graph))
    session = PagedSession(twin, check.BLOCKS, check.BLOCK_SIZE, exact=True, fill=np.nan)
    text = tokens(4, 24)[0]
    found = [session.step([Row(text[:11].tolist(), 0, (9, 2, 14, 5, 7))])[0]]
    found += [session.step([Row([int(text[at])], at, (9, 2, 14, 5, 7))])[0] for at in range(11, 16)]
    expected = made.alone(text)[10:16]
    assert np.sqrt(np.square(np.array(found) - expected).mean()) < 0.1 * expected.std()


def test_the_pool_holds_the_codes_of_what_a_pool_of_floats_holds(exported: Callable[[str], Exported]) -> None:
    """In the first layer, whose keys and values no rounding has touched; a value between two codes may take either."""
    graph = fused(exported("llama").graph())
    scales, blocks = scales_of(graph), (2, 0, 3)
    pools = []
    for cache in (None, scales):
        session = PagedSession(paged.convert(graph, CONTEXT, "cpu", cache), 4, 4, exact=True)
        session.step([Row(tokens(4, 24)[0, :12].tolist(), 0, blocks)])
        pools.append([one.numpy()[list(blocks)] for one in session.binding.get_outputs()[:2]])
    for name, floats, codes in zip(scales, *pools, strict=False):
        assert codes.dtype == np.int8
        assert np.abs(floats / scales[name] - codes).max() <= 0.5 + 1e-3


def test_a_pool_of_codes_is_the_engines_too(exported: Callable[[str], Exported]) -> None:
    graph = fused(exported("llama").graph())
    twin = paged.convert(graph, CONTEXT, "cpu", scales_of(graph)).graph
    coded = [value.name for value in twin.inputs if value.dtype == ir.DataType.INT8]
    assert coded == Exported.sizes(graph).cache_names
    assert_written_in_place(twin)


# --- windows, and what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("architecture", "expected"), [("llama", 0), ("llama_23", 0), ("mistral", 4), ("gpt2", 0)])
def test_the_window_is_measured_on_the_mask(
    architecture: str, expected: int, exported: Callable[[str], Exported]
) -> None:
    graph = exported(architecture).graph()
    layers = attention.find(graph, Exported.sizes(graph))
    masks = sorted({str(layer.mask.name) for layer in layers if layer.mask is not None})
    assert set(window.measure(graph, masks, CONTEXT).values()) == {expected}


def changed(graph: ir.Model, op_type: str, change: Callable[[ir.Node], None]) -> ir.Model:
    """A graph after a change to its first Softmax's scores or the like."""
    change(next(node for node in graph.graph if node.op_type == op_type))
    return graph


def put_before(node: ir.Node, op_type: str, *others: ir.Value) -> None:
    value = node.inputs[0]
    assert value is not None
    between = ir.node(op_type, [value, *others])
    between.outputs[0].shape, between.outputs[0].type = value.shape, value.type
    node.graph.insert_before(node, between)  # type: ignore[union-attr]
    node.replace_input_with(0, between.outputs[0])


def test_what_would_be_lost_is_refused_by_its_name(exported: Callable[[str], Exported]) -> None:
    graph = changed(exported("llama").graph(), "Softmax", lambda node: put_before(node, "Abs"))
    with pytest.raises(RequestError, match="layer 0: no paged attention: Abs between scores and Softmax"):
        paged.convert(graph, CONTEXT)


def test_a_mask_that_holds_a_bias_is_refused(exported: Callable[[str], Exported]) -> None:
    """As ALiBi would: what is far counts less."""
    graph = exported("llama").graph()
    where = next(node for node in graph.graph if node.op_type == "Where")
    bias = ir.Value(name="bias", const_value=ir.tensor(np.float32(-0.5), name="bias"))
    graph.graph.register_initializer(bias)
    where.replace_input_with(1, bias)
    with pytest.raises(RequestError, match="holds a bias"):
        paged.convert(graph, CONTEXT)


def test_a_graph_without_positions_is_refused(exported: Callable[[str], Exported]) -> None:
    graph = exported("llama").graph()
    next(value for value in graph.graph.inputs if value.name == decoder.POSITIONS).name = "places"
    with pytest.raises(RequestError, match="position_ids"):
        paged.convert(graph, CONTEXT)


# --- CUDA: no device here, so the graph is held to the operator's own schema ------------------------------------------


def test_the_cuda_twin_is_one_paged_attention_a_layer(exported: Callable[[str], Exported]) -> None:
    from onnxruntime.capi import onnxruntime_pybind11_state as native

    graph = paged.convert(exported("mistral").graph(), CONTEXT, "cuda")
    nodes = [node for node in graph.graph if node.op_type == "PagedAttention"]
    schema = next(one for one in native.get_all_operator_schema() if one.name == "PagedAttention")
    sizes = Decoder.of(exported("mistral").graph())
    assert sizes is not None
    assert len(nodes) == sizes.layers
    names = [one.name for one in schema.inputs]
    for node in nodes:
        given = dict(zip(names, node.inputs, strict=False))
        assert given["cumulative_sequence_length"].name == "cumulative_sequence_lengths"  # type: ignore[union-attr]
        assert given["past_seqlens"].name == "past_sequence_lengths"  # type: ignore[union-attr]
        assert given["block_table"].name == "block_table"  # type: ignore[union-attr]
        assert set(node.attributes) <= set(schema.attributes)
        assert node.attributes["local_window_size"].as_int() == 4
        assert [node.inputs[at].dtype for at in (3, 4)] == [ir.DataType.FLOAT16] * 2  # type: ignore[union-attr]
    assert not any(node.op_type in ("Softmax", "Attention", "ScatterND") for node in graph.graph)


def test_codes_on_cuda_are_the_operators_own(exported: Callable[[str], Exported]) -> None:
    from onnxruntime.capi import onnxruntime_pybind11_state as native

    graph = exported("llama").graph()
    sizes, twin = Exported.sizes(graph), paged.convert(graph, CONTEXT, "cuda", scales_of(graph))
    schema = next(one for one in native.get_all_operator_schema() if one.name == "PagedAttention")
    names = [one.name for one in schema.inputs]
    for node in [node for node in twin.graph if node.op_type == "PagedAttention"]:
        given = {name: value for name, value in zip(names, node.inputs, strict=False) if value is not None}
        for cache, scale in (("key_cache", "k_scale"), ("value_cache", "v_scale")):
            assert given[cache].dtype == ir.DataType.INT8
            worth = given[scale].const_value
            assert worth is not None
            assert tuple(worth.shape) == (sizes.kv_heads, 1, sizes.head_size)
        assert {node.attributes[f"{side}_quant_type"].as_string() for side in "kv"} == {"PER_CHANNEL"}
        assert set(node.attributes) <= set(schema.attributes)


def test_the_inputs_of_a_call_by_hand() -> None:
    found = feeds([Row([7, 8, 9], 4, [2, 5]), Row([3], 0, [1])])
    assert found["input_ids"].tolist() == [7, 8, 9, 3]
    assert found["block_table"].tolist() == [[2, 5], [1, -1]]
    assert found["cumulative_sequence_lengths"].tolist() == [0, 3, 4]
    assert found["past_sequence_lengths"].tolist() == [4, 0]
