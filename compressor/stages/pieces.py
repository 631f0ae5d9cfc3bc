"""Where the weights of a graph lie in a checkpoint: under their own names, under others, or, of experts, in pieces.

    model.layers.0.self_attn.q_proj.weight     ->  the same
    model.layers.0.mlp.experts.gate_up_proj.3  ->  model.layers.0.block_sparse_moe.experts.3.w1.weight and ...w3.weight

By the rules that transformers loads the checkpoint by, asked only where a name is not the checkpoint's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.errors import RequestError
from compressor.package.checkpoint import WEIGHT, Piece, Places
from compressor.package.shards import read_header
from compressor.quantize.qtensor import Choice
from compressor.recipe import formats

if TYPE_CHECKING:
    from compressor.export.weights import Origins


def find(folder: Path, weights: Iterable[str]) -> Places:
    """For each weight of a graph its pieces, side by side; none where the checkpoint has no tensor for it alone."""
    shapes = {
        name: one.shape for path in sorted(folder.glob("*.safetensors")) for name, one in read_header(path).items()
    }
    wanted = list(weights)
    origins = {} if all(name in shapes for name in wanted) else _origins(folder)
    names = {name: (name,) if name in shapes else _names(name, origins) for name in wanted}
    return {name: tuple(Piece(one, shapes[one][-1], shapes[one][0]) for one in held) for name, held in names.items()}


def refuse_unheld(source: Path, form: str, places: Places, choices: Mapping[str, Choice], *, symmetric: bool) -> None:
    """Say what the checkpoint has no place for, and what no engine would read right.

    Raises: RequestError.
    """
    held = {name for name, pieces in places.items() if pieces and all(one.name.endswith(WEIGHT) for one in pieces)}
    if unheld := [name for name in places if name not in held]:
        raise RequestError(
            f"{source}: no tensor for {unheld[0]} alone, which the graph has; a checkpoint package holds weights under "
            "the checkpoint's names. Choose package.format matmulnbits or qdq, or exclude it"
        )
    for name, pieces in places.items():
        for one in pieces:
            if reason := formats.misfit("generic", form, (one.rows, one.columns), *choices[name]):
                raise RequestError(f"{one.name}: {reason}; choose another group_size or exclude it")
    experts = any("experts" in name.split(".") for name in places)
    if experts and not symmetric:
        raise RequestError(f"engines read experts from {form} without zero points; choose scheme: absmax")
    if experts and len(set(choices.values())) > 1:
        raise RequestError(f"engines read experts from {form} with the bits and group of all; leave the budget out")


def _origins(folder: Path) -> Origins:
    """Parameters of the model and what they come from; none of a model that is no decoder."""
    import torch

    from compressor.export import unloaded

    try:
        return unloaded.load(folder, "eager", torch.float32).origins
    except RequestError:
        return {}


def _names(weight: str, origins: Origins) -> tuple[str, ...]:
    """The checkpoint's tensors for a weight; `stack.3` is the fourth matrix of a stack, in as many pieces as it has."""
    if weight in origins:
        return origins[weight].names if len(origins[weight].names) == 1 else ()
    stack, _, at = weight.rpartition(".")
    if stack not in origins:
        return ()
    names, count = origins[stack].names, origins[stack].shape[0]
    return names[int(at) :: count] if len(names) % count == 0 else ()
