"""What decides placement beside the kernel tables, one row a rule; where a row comes from stands in it.

    HOST_INPUTS    inputs that a CUDA kernel reads from the host's memory: a value computed there needs no copy
    FALLBACKS      nodes that CUDA has a kernel for and still hands to the CPU

[ort]: ONNX Runtime's `cuda_execution_provider.cc` and kernels, checked against the partitioner of the 1.31.1 wheel
(tests/providers/test_prediction.py). TensorRT's rules stand in `tensorrt.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import onnx_ir as ir

from compressor.providers.graph_types import type_of

HOST_INPUTS: dict[tuple[str, str], tuple[int, ...]] = {
    ("", "Reshape"): (1,), ("", "Expand"): (1,), ("", "Tile"): (1,), ("", "Slice"): (1, 2, 3, 4),
    ("", "Squeeze"): (1,), ("", "Unsqueeze"): (1,), ("", "Pad"): (1, 2, 3), ("", "Resize"): (1, 2, 3),
    ("", "Upsample"): (1,), ("", "OneHot"): (1,), ("", "TopK"): (1,), ("", "Range"): (0, 1, 2),
    ("", "ConstantOfShape"): (0,), ("", "CumSum"): (1,), ("", "Split"): (1,), ("", "Trilu"): (1,),
    ("", "Dropout"): (1, 2), ("", "If"): (0,), ("", "Loop"): (0, 1), ("", "NonMaxSuppression"): (2, 3, 4),
    ("", "Clip"): (1, 2), ("", "SequenceAt"): (1,), ("", "SequenceErase"): (1,), ("", "SequenceInsert"): (2,),
    **{("", f"Reduce{kind}"): (1,) for kind in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum",
                                                "LogSumExp", "SumSquare")},
    ("com.microsoft", "GroupQueryAttention"): (6,), ("com.microsoft", "PagedAttention"): (15,),
}  # fmt: skip
HOST_OUTPUTS: dict[tuple[str, str], tuple[int, ...]] = {
    ("", "Shape"): (0,), ("", "Size"): (0,), ("", "SequenceLength"): (0,),
}  # fmt: skip


class Rule(NamedTuple):
    """A provider declines these operators' nodes when `applies`; why, and who says so."""

    operators: tuple[str, ...]
    applies: Callable[[ir.Node], bool]
    why: str
    source: str


RECURRENT = {
    "LSTM": ("sigmoid", "tanh", "tanh", "sigmoid", "tanh", "tanh"),
    "GRU": ("sigmoid", "tanh", "sigmoid", "tanh"),
    "RNN": ("tanh", "tanh"),
}


def _other_activations(node: ir.Node) -> bool:
    named = node.attributes.get_strings("activations", ())
    return any(one.lower() != own for one, own in zip(named, RECURRENT[node.op_type], strict=False))


def _has(*names: str) -> Callable[[ir.Node], bool]:
    return lambda node: any(name in node.attributes for name in names)


def _is_not(name: str, value: int) -> Callable[[ir.Node], bool]:
    """An attribute that is absent is 0, which is the default of each of these."""
    return lambda node: node.attributes.get_int(name, 0) != value


def _uneven_padding(node: ir.Node) -> bool:
    pads = node.attributes.get_ints("pads", ())
    return list(pads[: len(pads) // 2]) != list(pads[len(pads) // 2 :])


def _peephole(node: ir.Node) -> bool:
    return len(node.inputs) == 8 and node.inputs[7] is not None


def _text(node: ir.Node) -> bool:
    return "string" in (type_of(node.inputs[0]), type_of(node.outputs[0]))


FALLBACKS = (
    Rule(("LSTM", "GRU", "RNN"), _has("activation_alpha", "activation_beta", "clip"), "cuDNN has no clipping", "[ort]"),
    Rule(("LSTM", "GRU", "RNN"), _other_activations, "cuDNN has the standard activations only", "[ort]"),
    Rule(("LSTM",), _is_not("input_forget", 0), "cuDNN does not couple input and forget gates", "[ort]"),
    Rule(("LSTM",), _peephole, "cuDNN has no peepholes", "[ort]"),
    Rule(("GRU",), _is_not("linear_before_reset", 1), "cuDNN wants linear_before_reset=1", "[ort]"),
    Rule(("ConvTranspose",), _uneven_padding, "cuDNN pads both sides alike", "[ort]"),
    Rule(("ArgMax", "ArgMin"), _is_not("select_last_index", 0), "the kernel returns the first index only", "[ort]"),
    Rule(("Cast",), _text, "text is cast on the host", "[ort]"),
)
