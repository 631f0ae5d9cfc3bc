"""A model that is known by its configuration alone: built, and no weight of it ever touched.

Its parameters are allocated and not written, so that the machine gives them no memory; its buffers are computed, as
transformers does when it builds a model. What the parameters are is said by `origins`, to be read when it is needed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from compressor.errors import MachineError, RequestError, in_a_line
from compressor.export import experts, weights
from compressor.export.shards import Shards
from compressor.export.tracing import quiet

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

NAMED = 3  # names that a list shows before it says how many more there are


@dataclass(frozen=True)
class Unloaded:
    """A model without values, and where its values lie."""

    folder: Path
    model: PreTrainedModel = field(repr=False)
    attention: str
    origins: weights.Origins = field(repr=False)
    facts: dict[str, Any]

    def build(self, config: PretrainedConfig) -> PreTrainedModel:
        """Another such model of the same family, tied as this one is."""
        made = build(config, self.attention, self.model.dtype)
        untie(made, self.origins)
        return made


def load(folder: Path, attention: str, dtype: torch.dtype) -> Unloaded:
    """Raises: RequestError when it is no decoder, quantized already, or its files are broken or incomplete."""
    config = read_config(folder)
    shards = Shards.of(folder)
    model = build(config, attention, dtype)
    facts: dict[str, Any] = {"fallbacks": []}
    try:
        origins: weights.Origins = weights.mapping(model, shards)
    except weights.ConversionError as error:
        facts["fallbacks"] = [f"export: the whole checkpoint was held in memory, for {error}"]
        held = load_whole(folder, attention, dtype)
        origins = {name: weights.of_tensor(name, tensor) for name, tensor in held.state_dict().items()}
    else:
        used = {name for origin in origins.values() for name in origin.names}
        if unused := sorted(shards.handles.keys() - used):
            facts["unused_in_checkpoint"] = [
                *unused[:NAMED],
                *([f"{len(unused)} in all"] if len(unused) > NAMED else []),
            ]
    untie(model, origins)
    return Unloaded(folder, model, attention, origins, facts)


def read_config(folder: Path) -> PretrainedConfig:
    """The configuration of a decoder in floating point. Raises: RequestError."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    try:
        with quiet():
            config: PretrainedConfig = AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise _no_decoder(folder, error) from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise RequestError(f"{folder}: transformers cannot load it as a decoder: {config.model_type} is none")
    if quantized := getattr(config, "quantization_config", None):
        method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized.quant_method
        raise RequestError(f"{folder}: is quantized already ({method}); export the checkpoint it was made from")
    return config


def build(
    config: PretrainedConfig, attention: str, dtype: torch.dtype, auto: str = "AutoModelForCausalLM"
) -> PreTrainedModel:
    """The model of a configuration in evaluation mode; its parameters are memory that nobody touched."""
    import transformers
    from transformers import initialization

    try:
        with quiet(), initialization.no_init_weights():
            model: PreTrainedModel = getattr(transformers, auto).from_config(
                config, attn_implementation=attention, dtype=dtype
            )
    except (MemoryError, RuntimeError) as error:
        raise MachineError(
            f"no room for a {config.model_type} of this size, not even untouched: {in_a_line(error)}"
        ) from error
    except (ValueError, KeyError, ImportError, AttributeError, TypeError) as error:
        raise RequestError(f"transformers cannot build a {config.model_type}: {in_a_line(error)}") from error
    experts.make_dense(model)
    model.tie_weights()
    _keep_wide(model, dtype)
    return model.eval()


def _keep_wide(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """The few parameters that transformers keeps in float32 when it loads a model in a half type."""
    kept = set(model._keep_in_fp32_modules_strict or ()) if dtype != torch.float32 else set()
    kept |= set(model._keep_in_fp32_modules or ()) if dtype == torch.float16 else set()
    for name, parameter in model.named_parameters():
        if kept & set(name.split(".")):
            parameter.data = torch.empty_like(parameter, dtype=torch.float32)


def load_whole(folder: Path, attention: str, dtype: torch.dtype) -> PreTrainedModel:
    """The model as transformers loads it, from safetensors only. Raises: RequestError."""
    from transformers import AutoModelForCausalLM

    try:
        with quiet():
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                attn_implementation=attention,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise _no_decoder(folder, error) from error
    return model.eval()


def _no_decoder(folder: Path, error: Exception) -> RequestError:
    return RequestError(f"{folder}: transformers cannot load it as a decoder: {in_a_line(error)}")


def untie(model: PreTrainedModel, origins: weights.Origins) -> None:
    """Parameters that the configuration ties and the checkpoint has twice, unlike each other, are two."""
    for target, source in list(model.all_tied_weights_keys.items()):
        pair = [origins.get(target), origins.get(source)]
        if pair[0] is None or pair[1] is None or pair[0].names == pair[1].names:
            continue
        if not torch.equal(pair[0].read(), pair[1].read()):
            module, _, name = target.rpartition(".")
            parameter = model.get_parameter(target)
            setattr(model.get_submodule(module), name, nn.Parameter(torch.empty_like(parameter)))
