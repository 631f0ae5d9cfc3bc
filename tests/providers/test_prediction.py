"""A prediction is what ONNX Runtime then does: node for node and copy for copy, on the real partitioner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from compressor.errors import RequestError
from compressor.graph.session import save_model
from compressor.providers import kernels, prediction
from compressor.providers.prediction import Prediction
from tests import graphs
from tests.conftest import Outcome
from tests.decoders import Exported
from tests.providers import partitioner

ZOO = Path(__file__).parents[3] / "shared" / "eval" / "onnx-zoo"
FILES = sorted(ZOO.rglob("*.onnx"))
DIRECTIONS = {"to host": "MemcpyToHost", "from host": "MemcpyFromHost"}
# ONNX Runtime gives an If's output another type than the file states, and one Identity goes elsewhere on CUDA.
TYPES_DISAGREE = "optional_if_issue11717.onnx"
# The empty cuDNN cannot size the weights of an LSTM, and its session does not open.
NOT_OVER_STUBS = "real_byte_lstm_tract.onnx"


def counts(found: Prediction) -> tuple[Counter[tuple[str, str]], Counter[str]]:
    placed = Counter((str(one.provider), one.node.op_type) for one in found.placed)
    return placed, Counter(DIRECTIONS[one.direction] for one in found.copies)


def assert_as_placed(files: list[Path], target: str) -> int:
    """Every file that loads is placed as predicted; how many did."""
    compared = 0
    for file, answer in zip(files, partitioner.place(files, target), strict=True):
        if isinstance(answer, str):
            continue
        assert counts(prediction.predict(ir.load(file), target)) == answer, file.name
        compared += 1
    return compared


def saved(model: ir.Model, folder: Path, name: str = "model") -> Path:
    save_model(model, folder / f"{name}.onnx")
    return folder / f"{name}.onnx"


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_small_graphs_are_placed_as_predicted(target: str, tmp_path: Path) -> None:
    files = [saved(build(), tmp_path, name) for name, build in graphs.GRAPHS.items()]
    assert assert_as_placed(files, target) > len(files) // 2  # the others are made to be refused


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_a_decoder_is_placed_as_predicted(target: str, exported: Callable[[str], Exported]) -> None:
    """Shape arithmetic on the host, CastLike and other functions written out, sequences."""
    assert assert_as_placed([exported("gpt2").path], target) == 1


@pytest.mark.eval
@pytest.mark.skipif(not FILES, reason=f"{ZOO} is absent")
@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_the_zoo_is_placed_as_predicted(target: str) -> None:
    unlike = (TYPES_DISAGREE, NOT_OVER_STUBS) if target == "cuda" else ()
    files = [file for file in FILES if file.name not in unlike]
    assert assert_as_placed(files, target) == len(files) - 2  # one of opset 1, one whose weights lie in /etc


# --- what the facts page saw on the 1.31.1 partitioner ----------------------------------------------------------------

QUANTIZED = """(float[2,64] x) => (float[2,64] y) {
    q = QuantizeLinear(x, scale, zero)  d = DequantizeLinear(q, scale, zero)
    w = DequantizeLinear(codes, scale, weight_zero)
    m = MatMul(d, w)
    b = DequantizeLinear(bias, scale)
    y = Add(m, b)
}"""


def quantized(zero: np.generic, bias: np.ndarray) -> ir.Model:
    codes = np.ones((64, 64), np.int8)
    weights = {"scale": np.float32(0.1), "zero": zero, "weight_zero": np.int8(0), "codes": codes, "bias": bias}
    return graphs.build(QUANTIZED, 21, **weights)


def test_an_int32_bias_goes_to_the_cpu_and_costs_a_copy(tmp_path: Path) -> None:
    model = quantized(np.uint8(128), np.ones(64, np.int32))
    found = prediction.predict(model, "cuda")
    assert [one.name for one in found.fallbacks] == ["b"]
    assert [(one.value, one.direction, one.nbytes) for one in found.copies] == [("b", "from host", 64 * 4)]
    assert any(line.startswith("int8 Q/DQ on CUDA is float work") for line in found.advice)
    assert any(line.startswith("an int32 bias costs a copy a layer") for line in found.advice)
    assert assert_as_placed([saved(model, tmp_path)], "cuda") == 1


def test_dynamic_quantization_runs_on_the_cpu_of_a_cuda_machine(tmp_path: Path) -> None:
    model = graphs.build(
        """(float[2,64] x) => (int32[2,8] y) {
            h = Relu(x)  q, s, z = DynamicQuantizeLinear(h)  y = MatMulInteger(q, w, z)
        }""",
        w=np.ones((64, 8), np.int8),
    )
    found = prediction.predict(model, "cuda")
    assert {one.node.op_type for one in found.fallbacks} == {"DynamicQuantizeLinear", "MatMulInteger"}
    assert [one.value for one in found.copies] == ["h"]
    assert "integer-quantized graph has no CUDA kernels" in found.advice[0]
    assert assert_as_placed([saved(model, tmp_path)], "cuda") == 1


@pytest.mark.parametrize(("dtype", "provider"), [("float", kernels.CPU), ("float16", kernels.CUDA)])
def test_grouped_attention_on_cuda_is_float16(dtype: str, provider: str) -> None:
    found = prediction.predict(grouped_attention(dtype), "cuda")
    (attention,) = (one for one in found.placed if one.node.op_type == "GroupQueryAttention")
    assert attention.provider == provider
    assert any("GroupQueryAttention on CUDA" in line for line in found.advice) == (dtype == "float")


def grouped_attention(dtype: str) -> ir.Model:
    tensor = ir.DataType.FLOAT if dtype == "float" else ir.DataType.FLOAT16
    shapes = {"q": [1, 1, 64], "k": [1, 1, 32], "v": [1, 1, 32], "past_k": [1, 2, 8, 16], "past_v": [1, 2, 8, 16]}
    values = [ir.Value(name=n, shape=ir.Shape(shape), type=ir.TensorType(tensor)) for n, shape in shapes.items()]
    lengths = [ir.Value(name=n, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.INT32))
               for n, shape in {"seqlens": [1], "total": []}.items()]  # fmt: skip
    node = ir.node("GroupQueryAttention", [*values, *lengths], {"num_heads": 4, "kv_num_heads": 2},
                   domain="com.microsoft", num_outputs=3)  # fmt: skip
    relu = ir.node("Relu", [node.outputs[0]])
    opsets = {"": 21, "com.microsoft": 1}
    return ir.Model(
        ir.Graph([*values, *lengths], relu.outputs, nodes=[node, relu], opset_imports=opsets), ir_version=10
    )


def test_bfloat16_convolution_networks_have_no_batch_normalization_on_cuda() -> None:
    text = "(bfloat16[1,3,8,8] x) => (bfloat16[1,3,8,8] y) { y = BatchNormalization(x, s, s, s, s) }"
    found = prediction.predict(graphs.build(text, s=np.ones(3, np.float32)), "cuda")
    assert [one.op_type for one in (found.refused[0].node,)] == ["BatchNormalization"]
    assert found.verdict(strict=False).startswith("1 nodes cannot run, first BatchNormalization 'y'")


def test_on_the_cpu_float16_runs_between_casts() -> None:
    found = prediction.predict(graphs.build("(float16[2,2] x) => (float16[2,2] y) { y = Tanh(x) }"), "cpu")
    assert found.verdict(strict=True) == "runs"
    assert "float32 between casts" in found.placed[0].why
    assert found.advice[0].startswith("float16 on the CPU runs in float32")


# --- TensorRT ---------------------------------------------------------------------------------------------------------


def test_tensorrt_takes_symmetric_static_quantization() -> None:
    found = prediction.predict(quantized(np.int8(0), np.ones(64, np.int8)), "tensorrt")
    assert found.verdict(strict=True) == "runs"
    assert not found.copies


@pytest.mark.parametrize(
    ("model", "node", "reason"),
    [
        (quantized(np.int8(3), np.ones(64, np.int8)), "q", "every zero point 0"),
        (quantized(np.uint8(0), np.ones(64, np.int8)), "q", "unsigned"),
        (quantized(np.int8(0), np.ones(64, np.int32)), "b", "int32 bias"),
        (graphs.build("(int64[4] x) => (int64[N] y) { y = Unique(x) }"), "y", "parser has no Unique"),
        (graphs.build("(double[4] x) => (double[4] y) { y = Tanh(x) }"), "y", "no Tanh for double"),
        (graphs.build("(float[9999] x) => (float[K] y, int64[K] i) { y, i = TopK(x, k) }", k=np.array([4000])), "y",
         "K is at most 3840"),
    ],
)  # fmt: skip
def test_tensorrt_declines(model: ir.Model, node: str, reason: str) -> None:
    found = prediction.predict(model, "tensorrt")
    assert found.fallbacks[0].name == node
    assert reason in found.fallbacks[0].why
    assert node in found.verdict(strict=True)


def test_tensorrt_wants_a_profile_for_every_free_axis() -> None:
    found = prediction.predict(graphs.build("(float[N,2] x) => (float[N,2] y) { y = Tanh(x) }"), "tensorrt")
    assert any(line.startswith("free axes in x") for line in found.advice)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def fallen(tmp_path: Path) -> Path:
    """A network with one operator that CUDA has no kernel for, in its middle."""
    text = "(float[8,64] x) => (float[8,16] y) { h = MatMul(x, w)  a = Acos(h)  y = Tanh(a) }"
    return saved(graphs.build(text, w=graphs.normal(64, 16)), tmp_path)


def test_strict_names_the_node_the_copies_and_the_cost(fallen: Path, compress: Callable[..., Outcome]) -> None:
    assert compress("check", fallen, "--for", "cuda").code == 0
    ended = compress("check", fallen, "--for", "cuda", "--strict", "--json")
    assert ended.code == 1
    assert "first Acos 'a' to cpu: CUDA has no Acos kernel for this opset" in ended.err
    assert "2 copies of 1,024 bytes a run, 128 FLOPs" in ended.err
    said = ended.json()
    assert [one["value"] for one in said["copies"]] == ["a", "h"]
    assert said["providers"][0] == {"provider": "cuda", "nodes": 2, "weight bytes": 64 * 16 * 4,
                                    "FLOPs": 2 * 8 * 64 * 16 + 8 * 16}  # fmt: skip


def test_nodes_in_a_circle_are_refused() -> None:
    model = graphs.build("(float[2] x) => (float[2] y) { a = Add(x, b)  b = Add(x, a)  y = Neg(b) }")
    with pytest.raises(RequestError, match="its nodes form a circle"):
        prediction.predict(model, "cpu")


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(RequestError, match="there are cpu, cuda, tensorrt"):
        prediction.predict(graphs.build("(float[1] x) => (float[1] y) { y = Neg(x) }"), "rocm")


def test_the_tables_are_those_of_the_installed_wheel() -> None:
    """A table is made anew byte for byte."""
    onnxruntime = pytest.importorskip("onnxruntime")
    from compressor.providers import extract, stubs

    if reason := stubs.available():
        pytest.skip(reason)
    path = kernels.TABLES / kernels.file_name(onnxruntime.__version__)
    assert path.read_text(encoding="utf-8") == extract.text()


def test_the_newest_table_is_so_by_its_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("1.9.0", "1.31.1"):
        (tmp_path / kernels.file_name(version)).write_text(",".join(kernels.HEADER), encoding="utf-8")
    monkeypatch.setattr(kernels, "TABLES", tmp_path)
    assert kernels.newest.__wrapped__().version == "1.31.1"
