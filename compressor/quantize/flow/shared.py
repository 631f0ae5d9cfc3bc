"""What must be known of every input of a weight that several products read, before the first of them is rounded.

    y1 = x1 @ W    ...    y12 = x12 @ W          statistic of W  =  that of x1 joined with ... that of x12

The data flows through the float weights for it: x12 depends on what W was rounded to, and that on x12.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir
from torch import Tensor

from compressor.progress import Track
from compressor.quantize.flow.flow import Flow
from compressor.quantize.flow.linears import Input, Linear
from compressor.quantize.flow.segments import Segment, segments


def joined(
    model: ir.Model,
    linears: Sequence[Linear],
    begin: Callable[[], Flow],
    measure: Callable[[Flow, Segment], Tensor],
    join: Callable[[Tensor, Tensor], Tensor],
    track: Track,
) -> Mapping[tuple[Input, ...], Tensor]:
    """The statistic of each such weight, by its inputs; `measure` runs a segment of a flow and knows its x alone."""
    several = [linear for linear in linears if len(linear.inputs) > 1]
    found: dict[tuple[Input, ...], Tensor] = {}
    if not several:
        return found
    flow = begin()
    for segment in track(segments(model, several), "shared weights"):
        one = measure(flow, segment)
        for inputs in {linear.inputs: None for linear in several if segment.input in linear.inputs}:
            found[inputs] = join(found[inputs], one) if inputs in found else one
        flow.resume(segment, [linear.read() for linear in segment.linears])
    return found
