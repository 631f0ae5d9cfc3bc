"""Where statistics, graph and ranks meet: the second moment of one input, gathered while the data flows."""

from __future__ import annotations

import torch
from torch import Tensor

from compressor.quantize.flow.flow import Flow
from compressor.quantize.flow.segments import Segment
from compressor.quantize.machine import ranks
from compressor.quantize.machine.memory import return_free_memory
from compressor.quantize.machine.threads import a_batch_each
from compressor.quantize.statistics import SecondMoment


def gather(flow: Flow, segment: Segment, device: torch.device) -> Tensor:
    """Run a segment; the second moment of its x over the batches of all ranks, float32 [in, in].

    Alone a batch is added as soon as it is there. Several ranks finish their forward first, then take turns at the
    panels; the order of the sums, and with it their bits, is the same.
    """
    moment, one_of_several = SecondMoment(segment.width, device), ranks.count() > 1
    with a_batch_each() as pool:
        each = map if device.type == "cuda" else pool.map
        for x in flow.run(segment, pool):
            if not one_of_several:
                moment.add(x, each)

    def add(panel: int) -> None:
        for x in flow.again(segment):
            moment.add_to(panel, x)

    if one_of_several:
        ranks.in_turn(moment.panels, add)
    return_free_memory()
    return moment.value()


def drift(flow: Flow, exact: Flow, segment: Segment, device: torch.device) -> Tensor:
    """X~^T (X - X~) of a segment that `flow` has run, X from a flow through the float weights, float32 [in, in]."""
    for _ in exact.run(segment):
        pass
    total = torch.zeros(segment.width, segment.width, device=device)

    def add(part: int) -> None:
        del part
        for rounded, given in zip(flow.again(segment), exact.again(segment), strict=True):
            total.addmm_(rounded.T.float(), given.float() - rounded.float())

    ranks.in_turn([total], add)
    return total
