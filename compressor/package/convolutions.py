"""A convolution keeps its node; its kernel comes from a DequantizeLinear, for no engine multiplies 4-bit kernels.

    y = Conv(x, W, b)   ->   y = Conv(x, Reshape(DequantizeLinear(codes, scales)), b)       codes [out, in]

Per channel and per tensor need no Reshape: the codes have the kernel's four axes. It saves bytes, not time.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from compressor.graph.editing import drop_unread
from compressor.package import dequantized, products
from compressor.quantize.flow.linears import Linear
from compressor.quantize.qtensor import QTensor


def replace(model: ir.Model, convolution: Linear, tensor: QTensor) -> int:
    """Let a convolution read its kernel from the QTensor, in place; returns the bytes of codes and scales."""
    before = convolution.weight
    assert before.const_value is not None  # held by find_linears
    shape = np.array(before.const_value.shape.numpy(), np.int64)
    arrays = dequantized.constants(tensor, outputs_first=True)
    blocked = tensor.group_size > 0
    if not blocked:
        arrays["codes"] = arrays["codes"].reshape(shape)
    inputs = [products.initializer(model, f"{convolution.name}.{part}", array) for part, array in arrays.items()]
    attributes = dequantized.attributes(tensor, outputs_first=True)
    nodes = [ir.node("DequantizeLinear", inputs, attributes, name=f"{convolution.name}.dequantized")]
    if blocked:
        sizes = products.initializer(model, f"{convolution.name}.shape", shape)
        nodes.append(ir.node("Reshape", [nodes[0].outputs[0], sizes], name=f"{convolution.name}.reshaped"))
    model.graph.insert_before(convolution.node, nodes)
    kernel = nodes[-1].outputs[0]
    kernel.type, kernel.shape = before.type, ir.Shape(before.const_value.shape.numpy())
    for one in convolution.everywhere:
        one.node.replace_input_with(1, kernel)
    drop_unread(model.graph, before)
    return sum(one.const_value.nbytes for one in inputs if one.const_value is not None)
