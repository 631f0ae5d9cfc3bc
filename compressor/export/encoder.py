"""Anything with one forward call - text, image, sound, or text and image - becomes one graph.

    BertForMaskedLM(input_ids, attention_mask, token_type_ids)  ->  logits [batch_size, sequence_length, 99]

Optional outputs are there when the checkpoint has what they need.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from compressor import sources
from compressor.export import checkpoint, inputs, tasks
from compressor.export.exporters import Exported, of_call
from compressor.export.flat import Flat
from compressor.export.tasks import Task
from compressor.export.tracing import Call, quiet
from compressor.recipe.recipe import Export
from compressor.sources import Source

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def prepare(source: Source, task: Task, options: Export) -> Exported:
    """A checkpoint and its task -> one graph."""
    loaded = checkpoint.load(source.folder, task, options)
    remedy = tasks.choices(sources.whole_config(source.folder))
    made = replace(call(loaded.model, task, loaded.lacking, loaded.answering), remedy=remedy)
    return of_call(made, options, lambda: loaded.trace(made, options.opset), loaded.facts)


def call(
    model: PreTrainedModel,
    task: Task,
    lacking: frozenset[str] = frozenset(),
    answering: PreTrainedModel | None = None,
) -> Call:
    """The forward call of a task. Outputs that a checkpoint may do without are there when it lacks nothing."""
    found = inputs.find(model, task.inputs)
    traced = inputs.sizes(found, {"traced": inputs.TRACED})["traced"]
    outputs = task.outputs
    if task.optional and not lacking:
        with torch.no_grad(), quiet():
            given = model(**{name: one.sample(traced) for name, one in found.items()})
        outputs += tuple(name for name in task.optional if given.get(name) is not None)
    remembers = "use_cache" in inspect.signature(model.forward).parameters
    options = {"use_cache": False} if remembers else {}
    flat = Flat(model, tuple(found), options, outputs)
    return Call(
        name=type(model).__name__,
        module=flat,
        inputs=found,
        outputs=outputs,
        traced=traced,
        checked=inputs.sizes(found, inputs.CHECKED),
        lacking=lacking,
        answering=None if answering is None else Flat(answering, tuple(found), options, outputs),
    )
