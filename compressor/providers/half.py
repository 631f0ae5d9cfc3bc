"""Which nodes a target computes in float16 or bfloat16, and the refusal where it computes nothing that matters so.

cuda        by its kernel table: a kernel for the node as it is, with every float replaced
tensorrt    by its parser's table
generic     by the operators' definitions, for nobody knows the engine
cpu         has kernels for norms and attention, and none for products and convolutions
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from compressor.errors import RequestError
from compressor.providers import kernels, rules, tensorrt
from compressor.providers.graph_types import types_of
from compressor.providers.kernels import CUDA, PROVIDERS, KernelTable

TYPES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
PRODUCT = "MatMul"  # a target that has none in a type gains nothing by it


def require(target: str, dtype: str) -> None:
    """Raises: RequestError where the target has no products in the type."""
    if target == "cpu":
        raise RequestError(
            f"optimize.dtype: {dtype}: ONNX Runtime's CPU provider has no {PRODUCT}, Gemm or Conv in it; "
            "leave it out for the CPU, or name --for cuda, tensorrt or generic"
        )


def kernels_in(dtype: str, target: str, opsets: Mapping[str, int]) -> Callable[[ir.Node], bool]:
    """Says of a node whether the target runs it with its floats in that type."""
    if target == "tensorrt":
        return lambda node: tensorrt.refusal(node) is None and dtype in tensorrt.parsed().get(node.op_type, ())
    if target == "generic":
        return lambda node: _is_defined(node, dtype, opsets)
    table = kernels.newest()
    return lambda node: _has_kernel(node, dtype, PROVIDERS[target], opsets, table)


def _types(node: ir.Node, dtype: str, opsets: Mapping[str, int]) -> tuple[int, dict[str, str | None]] | None:
    schema = kernels.schema(node.domain, node.op_type, opsets.get(node.domain, 1))
    if schema is None:
        return None
    types = types_of(node, schema)
    return int(schema.since_version), {name: dtype if one == "float" else one for name, one in types.items()}


def _has_kernel(node: ir.Node, dtype: str, provider: str, opsets: Mapping[str, int], table: KernelTable) -> bool:
    known = _types(node, dtype, opsets)
    if known is None or table.find(provider, node.domain, node.op_type, *known) is None:
        return False
    return provider != CUDA or not any(node.op_type in one.operators and one.applies(node) for one in rules.FALLBACKS)


def _is_defined(node: ir.Node, dtype: str, opsets: Mapping[str, int]) -> bool:
    """The operator's definition takes the type wherever the node has floats."""
    schema = kernels.schema(node.domain, node.op_type, opsets.get(node.domain, 1))
    if schema is None:
        return False
    pairs = [*zip(node.inputs, schema.inputs, strict=False), *zip(node.outputs, schema.outputs, strict=False)]
    floats = [formal for value, formal in pairs if value is not None and value.dtype == ir.DataType.FLOAT]
    return all(f"tensor({dtype})" in formal.types for formal in floats)
