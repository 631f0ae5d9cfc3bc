"""Where statistics, graph and ranks meet: the second moment of one input, gathered while the data flows."""

from __future__ import annotations

import torch
from torch import Tensor

from compressor.quantize import ranks
from compressor.quantize.graph import Flow, Segment
from compressor.quantize.statistics import SecondMoment


def gather(flow: Flow, segment: Segment, device: torch.device) -> Tensor:
    """Run a segment; the second moment of its x over the batches of all ranks, float32 [in, in].

    Alone a batch is added as soon as it is there. Several ranks finish their forward first, then take turns at the
    panels; the order of the sums, and with it their bits, is the same.
    """
    moment, one_of_several = SecondMoment(segment.width, device), ranks.count() > 1
    for x in flow.run(segment):
        if not one_of_several:
            moment.add(x)

    def add(panel: int) -> None:
        for x in flow.again(segment):
            moment.add_to(panel, x)

    if one_of_several:
        ranks.in_turn(moment.panels, add)
    return moment.value()
