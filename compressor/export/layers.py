"""Which layers of a model are alike, and the shallow model that has two of each kind.

    kinds     layers with the same modules, options, shapes and buffers, the layer's own number left out:
              S S S S S F S S S S S F  ->  shallow S S F F
    shallow   the same configuration with fewer layers; its layers must again be of those very kinds

Two of a kind are traced so that the trace itself can show that they are the same (`replication`); what no module shows
and no trace of two layers shows is found by the proof, which runs the whole model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

Build = Callable[["PretrainedConfig"], "PreTrainedModel"]
Kind = Hashable
OWN_NUMBER = frozenset({"layer_idx", "layer_id", "layer_number", "layer_index"})
TRACED_OF_A_KIND = 2
PLAIN = (bool, int, float, str, torch.dtype, type(None))


@dataclass(frozen=True)
class Shallow:
    """A model with few layers, and for each layer of the whole model the one that stands for it."""

    model: PreTrainedModel
    path: str  # of the list of layers, `model.layers`
    stands_for: tuple[int, ...]  # layer of the whole model -> layer of this one

    @property
    def traced(self) -> int:
        return max(self.stands_for) + 1


@dataclass(frozen=True)
class Whole:
    """The model itself, traced with all of its layers, and why."""

    model: PreTrainedModel
    reason: str


def shallow(model: PreTrainedModel, build: Build) -> Shallow | Whole:
    """The shallow model of a deep one, or the model itself and the reason why there is none."""
    path = layer_list(model)
    if path is None:
        return Whole(model, "no list of layers")
    kinds = kinds_of(model, path)
    kept = [at for at, kind in enumerate(kinds) if kinds[:at].count(kind) < TRACED_OF_A_KIND]
    if len(kept) == len(kinds):
        return Whole(model, "no kind of layer repeats more than twice")
    try:
        small = build(with_layers(model.config, kept))
    except Exception as error:  # a configuration checks itself in ways of its own
        return Whole(model, f"its configuration does not take fewer layers ({type(error).__name__})")
    chosen = [kinds[at] for at in kept]
    if kinds_of(small, path) != chosen:
        return Whole(model, "layers change when there are fewer of them")
    return Shallow(small, path, tuple(_last(chosen, kind, at) for at, kind in enumerate(kinds)))


def layer_list(model: PreTrainedModel) -> str | None:
    """The path of the module that holds the layers."""
    depth = model.config.get_text_config().num_hidden_layers
    lists = (name for name, one in model.named_modules() if isinstance(one, nn.ModuleList) and len(one) == depth)
    return next(lists, None)


def kinds_of(model: PreTrainedModel, path: str) -> list[Kind]:
    """What each layer is, but for its number and its weights' values."""
    config = model.config.get_text_config()
    lists = {name: list(value) for name, value in vars(config).items() if _is_per_layer(config, value)}
    layers = model.get_submodule(path)
    return [
        (tuple((name, repr(values[at])) for name, values in lists.items()), _kind(layer))
        for at, layer in enumerate(layers.children())
    ]


def with_layers(config: PretrainedConfig, kept: Sequence[int]) -> PretrainedConfig:
    """The configuration of a model that has these layers alone."""
    made = copy.deepcopy(config)
    text = made.get_text_config()
    for name, value in list(vars(text).items()):
        if _is_per_layer(text, value):
            setattr(text, name, [value[at] for at in kept])
    text.num_hidden_layers = len(kept)
    return made


def _last(chosen: Sequence[Kind], kind: Kind, at: int) -> int:
    """The first layer stands for itself, every other for the last that was traced of its kind."""
    same = [index for index, one in enumerate(chosen) if one == kind]
    return same[0] if at == 0 else same[-1]


def _is_per_layer(config: PretrainedConfig, value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == config.num_hidden_layers > 1


def _kind(layer: nn.Module) -> Kind:
    return tuple((name, _own(module)) for name, module in layer.named_modules())


def _own(module: nn.Module) -> Kind:
    options = tuple(
        (name, repr(value))
        for name, value in sorted(vars(module).items())
        if name not in OWN_NUMBER and not name.startswith("_") and _is_plain(value)
    )
    parameters = tuple((n, tuple(one.shape), one.dtype) for n, one in module.named_parameters(recurse=False))
    buffers = tuple((n, one.numpy().tobytes()) for n, one in module.named_buffers(recurse=False))
    return type(module), options, parameters, buffers


def _is_plain(value: Any) -> bool:
    return isinstance(value, PLAIN) or (isinstance(value, (list, tuple)) and all(map(_is_plain, value)))
