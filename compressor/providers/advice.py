"""What hurts on a provider, in words: one row a habit of a graph that costs time there, and what to do instead.

Sources as in `rules.py`; "[probe]": the row's claim was seen in ONNX Runtime 1.31.1's own partitioning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import onnx_ir as ir

from compressor.providers import tensorrt
from compressor.providers.graph_types import dims, type_of
from compressor.providers.kernels import CPU
from compressor.providers.placement import Placed


class Habit(NamedTuple):
    """Something that costs on these targets; `nodes` are counted and the first is named."""

    targets: tuple[str, ...]
    applies: Callable[[Placed], bool]
    says: str
    source: str


FAST_CUDA_BLOCK = 32
INTEGER = ("DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat",
           "DynamicQuantizeLSTM")  # fmt: skip


def _is(*operators: str) -> Callable[[Placed], bool]:
    return lambda placed: placed.node.op_type in operators


def _activation_codes(placed: Placed) -> bool:
    node = placed.node
    return node.op_type == "QuantizeLinear" and node.inputs[0] is not None and node.inputs[0].const_value is None


def _integer_operator(placed: Placed) -> bool:
    return placed.node.op_type in INTEGER or placed.node.op_type.startswith("QLinear")


def _bias_codes(placed: Placed) -> bool:
    return placed.node.op_type == "DequantizeLinear" and type_of(placed.node.inputs[0]) == "int32"


def _float32_attention(placed: Placed) -> bool:
    return placed.node.op_type == "GroupQueryAttention" and type_of(placed.node.inputs[0]) == "float"


def _slow_packing(placed: Placed) -> bool:
    node = placed.node
    zero_points = len(node.inputs) > 3 and node.inputs[3] is not None
    return node.op_type == "MatMulNBits" and (
        node.attributes.get_int("block_size", 0) != FAST_CUDA_BLOCK or zero_points
    )


def _weight_dequantized_each_run(placed: Placed) -> bool:
    """A weight's DequantizeLinear whose reader is not one MatMul alone: no fusion to MatMulNBits."""
    node = placed.node
    if node.op_type != "DequantizeLinear" or node.inputs[0] is None or node.inputs[0].const_value is None:
        return False
    if len(dims(node.inputs[0]) or ()) != 2:
        return False
    readers = [one.op_type for one in node.outputs[0].consumers()]
    return readers != ["MatMul"] and any(one in ("MatMul", "Gemm", "Transpose") for one in readers)


def _contributed(placed: Placed) -> bool:
    return bool(placed.node.domain)


def _cast_around(placed: Placed) -> bool:
    return placed.provider == CPU and "between casts" in placed.why


INTEGER_ON_CUDA = (
    "the integer-quantized graph has no CUDA kernels and runs on the CPU; use weight-only int4 (MatMulNBits) on CUDA, "
    "static Q/DQ on tensorrt, or serve it on a CPU"
)
FLOAT_WORK = (
    "int8 Q/DQ on CUDA is float work between conversions: no speed-up; use tensorrt for int8, or weight-only int4"
)
FLOAT32_CACHE = (
    "GroupQueryAttention on CUDA is float16 or bfloat16; in float32 it runs on the CPU and its cache is "
    "copied both ways: export in float16"
)
SLOW_BLOCKS = "the fused CUDA kernels take symmetric blocks of 32; a prefill dequantizes others at every run"
NOT_FUSED = (
    "a weight that does not go from DequantizeLinear straight into one MatMul is dequantized at every run; store it "
    "[in, out] with its blocks on axis 0"
)
HABITS = (
    Habit(("cuda",), _activation_codes, FLOAT_WORK, "[probe]"),
    Habit(("cuda",), _integer_operator, INTEGER_ON_CUDA, "[probe]"),
    Habit(("cuda", "tensorrt"), _bias_codes, "an int32 bias costs a copy a layer; keep the biases float", "[probe]"),
    Habit(("cuda",), _float32_attention, FLOAT32_CACHE, "[probe]"),
    Habit(("cuda",), _slow_packing, SLOW_BLOCKS, "[ort] contrib_ops/cuda/matmul_nbits.md"),
    Habit(("cuda", "cpu"), _weight_dequantized_each_run, NOT_FUSED, "[probe]"),
    Habit(("cpu",), _cast_around, "float16 on the CPU runs in float32 between casts; it is for cuda", "[ort]"),
    Habit(("tensorrt",), _contributed, "contributed operators split the engine; keep to standard ones", "[trt]"),
    Habit(("tensorrt",), _is("DynamicQuantizeLinear"), "dynamic quantization: use static symmetric Q/DQ", "[nv]"),
)


def on(target: str, placed: Sequence[Placed], model: ir.Model) -> list[str]:
    """Every habit of this graph that hurts, the widest first; then what the target needs to be told."""
    found = []
    for habit in HABITS:
        nodes = [one for one in placed if target in habit.targets and habit.applies(one)]
        if nodes:
            found.append((len(nodes), f"{habit.says} ({len(nodes)} nodes, first {nodes[0].name}) {habit.source}"))
    lines = [text for _, text in sorted(found, key=lambda one: -one[0])]
    return [*lines, *_tensorrt_needs(model)] if target == "tensorrt" else lines


def _tensorrt_needs(model: ir.Model) -> list[str]:
    lines = []
    opset = model.opset_imports.get("", 1)
    if not tensorrt.FIRST_OPSET <= opset <= tensorrt.LAST_OPSET:
        lines.append(f"opset {opset}: TensorRT 10 parses {tensorrt.FIRST_OPSET} to {tensorrt.LAST_OPSET}; export at 21")
    free = [str(value.name) for value in model.graph.inputs if None in (dims(value) or [])]
    if free:
        named = ", ".join(free[:4]) + (f" and {len(free) - 4} more" if len(free) > 4 else "")
        lines.append(
            f"free axes in {named}: an engine is built for a range of shapes of {len(free)} inputs; "
            "export.static makes it one shape"
        )
    return lines
