"""A graph is cut where its linears read, and nothing is carried beyond its last reader."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from compressor.quantize.flow.linears import find_linears
from compressor.quantize.flow.segments import segments
from tests.decoders import Exported
from tests.segment_graphs import TEXTS, small_graph


def test_linears_of_one_input_are_one_group(exported: Callable[[str], Exported]) -> None:
    model = exported("llama").graph()
    plan = segments(model, find_linears(model, ["lm_head"])[0])
    assert [len(segment.linears) for segment in plan] == [3, 1, 2, 1] * 2  # q k v, o, gate up, down
    assert all(linear.x is segment.x for segment in plan for linear in segment.linears)


@pytest.mark.parametrize("name", TEXTS)
def test_nothing_is_carried_beyond_its_last_reader(name: str) -> None:
    model = small_graph(name)
    plan = segments(model, find_linears(model)[0])
    fed = {value.name for value in model.graph.inputs}  # the caller's, and kept
    carried = {value for segment in plan for value in segment.outputs}
    assert carried <= {value for segment in plan for value in segment.last_used}
    for at, segment in enumerate(plan):
        later = {value for other in plan[at + 1 :] for value in (*other.inputs, other.x.name)}
        assert not segment.last_used & later - fed
