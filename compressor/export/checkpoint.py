"""A checkpoint's folder becomes a model of transformers: evaluation mode, one dtype, every weight from the files.

    stored as it is wanted     transformers maps the shards: nothing is held
    small                      loaded in the type that is wanted
    large, of another type     loaded as it is stored, which maps the shards, for torch's side of the proof; what is
                               traced was never touched (`unloaded`) and takes its weights from there when it is written

Attention is traced in the form that the opset says best: from 23 on sdpa is one Attention operator; below it would need
a repair of NaN in every layer, which the additive mask of eager attention does without.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import torch

from compressor import estimate
from compressor.errors import RequestError, in_a_line
from compressor.export import reference, tracing, unloaded, weights
from compressor.export.shards import Shards
from compressor.export.tasks import Task
from compressor.export.tracing import FIRST_OPSET_WITH_ATTENTION, Call, quiet
from compressor.recipe.recipe import Export

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SAFE, PICKLED = "*.safetensors", "*.bin"
HELD = "export: the whole checkpoint was held in memory, for {}"


@dataclass(frozen=True)
class Loaded:
    """A model to trace; weights that its checkpoint lacks hold random numbers and must reach no output."""

    model: PreTrainedModel
    lacking: frozenset[str]
    answering: PreTrainedModel | None = None  # computes in float32, where the model to trace has no values
    origins: weights.Origins = field(default_factory=dict, repr=False)
    facts: dict[str, Any] = field(default_factory=dict)

    def trace(self, call: Call, opset: int) -> ir.Model:
        """The graph of a call of this model, its weights read when they are written."""
        graph_model = tracing.trace(call, opset)
        if self.answering is not None:
            weights.attach(graph_model.graph, self.model, self.origins)
        return graph_model


def load(folder: Path, task: Task, wanted: Export) -> Loaded:
    """Raises: RequestError when transformers cannot load it, or its files are broken."""
    dtype = DTYPES[wanted.dtype]
    stored, why = _storage(folder, dtype)
    if stored != dtype and not wanted.trust_remote_code:
        try:
            return _streamed(folder, task, wanted, stored)
        except weights.ConversionError as error:
            why = str(error)
    model, lacking = _from_files(folder, task, wanted, dtype)
    return Loaded(model, lacking, facts={"fallbacks": [HELD.format(why)]} if why else {})


def _streamed(folder: Path, task: Task, wanted: Export, stored: torch.dtype) -> Loaded:
    """Raises: ConversionError when it cannot be told which weights the checkpoint has."""
    answering, lacking = _from_files(folder, task, wanted, stored)
    config, form = answering.config, str(answering.config._attn_implementation)
    origins = {name: weights.of_tensor(name, tensor) for name, tensor in answering.state_dict().items()}
    model = unloaded.build(config, form, DTYPES[wanted.dtype], task.auto)
    unloaded.untie(model, origins)
    if stored != torch.float32:
        exact = unloaded.build(config, form, torch.float32, task.auto)
        for name, tensor in _computed(exact, answering, Shards.of(folder)).items():
            origins[name] = weights.of_tensor(name, tensor)
            answering.get_parameter(name).data = tensor
        reference.compute_in_float32(answering, exact)
    return Loaded(model, lacking, answering, origins)


def _computed(exact: PreTrainedModel, loaded: PreTrainedModel, shards: Shards) -> dict[str, torch.Tensor]:
    """Parameters that the model computes and no checkpoint holds, such as positions as sines; not yet rounded."""
    known, parameters = weights.mapping(exact, shards), dict(exact.named_parameters(remove_duplicate=False))
    aliases = weights.aliases_of(parameters)
    found = {}
    for name, parameter in parameters.items():
        if known.keys().isdisjoint(aliases[name]):
            exact._init_weights(exact.get_submodule(name.rpartition(".")[0]))
            rounded = loaded.get_parameter(name)
            if torch.equal(parameter.to(rounded.dtype), rounded):  # else it was drawn
                found[name] = parameter.data
    return found


def _storage(folder: Path, wanted: torch.dtype) -> tuple[torch.dtype, str]:
    """The type to load a checkpoint in, so that no memory grows with it; where that cannot be, why."""
    if not any(folder.glob(SAFE)):
        large = sum(path.stat().st_size for path in folder.glob(PICKLED)) > estimate.HELD_BELOW_BYTES
        return wanted, "its weights are pickled" if large else ""
    stored = Shards.of(folder).stored_dtypes
    if 4 * sum(nbytes // one.itemsize for one, nbytes in stored.items()) < estimate.HELD_BELOW_BYTES:
        return wanted, ""
    if len(stored) > 1:
        return wanted, "its weights are of several types"
    return next(iter(stored)), ""


def _from_files(folder: Path, task: Task, wanted: Export, dtype: torch.dtype) -> tuple[PreTrainedModel, frozenset[str]]:
    import transformers

    auto = getattr(transformers, task.auto)
    options: dict[str, Any] = {
        "dtype": dtype,
        "use_safetensors": any(folder.glob(SAFE)),  # a pickle is read by torch with weights_only
        "local_files_only": True,
        "trust_remote_code": wanted.trust_remote_code,
        "output_loading_info": True,
    }
    with quiet():
        try:
            model, info = auto.from_pretrained(folder, attn_implementation=attention(wanted.opset), **options)
        except Exception as error:  # transformers' own kinds; a model that has no sdpa computes the same in eager form
            if "attn_implementation" not in str(error) and "scaled_dot_product" not in str(error):
                raise RequestError(
                    f"{folder}: transformers cannot load it for {task.name}: {in_a_line(error)}"
                ) from error
            model, info = auto.from_pretrained(folder, attn_implementation="eager", **options)
    return model.eval(), frozenset(info["missing_keys"])


def attention(opset: int) -> str:
    """The form of attention that an opset says best."""
    return "sdpa" if opset >= FIRST_OPSET_WITH_ATTENTION else "eager"
