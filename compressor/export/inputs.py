"""The inputs of a model by its configuration: names, axes, samples with padding in them, and sizes to check at.

    input_ids, attention_mask, token_type_ids [batch_size, sequence_length]
    pixel_values [batch_size, 3, height, width]     input_values [batch_size, sequence_length]: raw sound

An all-ones mask would disappear from the graph: every sample of two rows and more is padded, left and right.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compressor.export.tracing import BATCH, SEQUENCE, Input

Shape = tuple[int | str, ...]
Sizes = Mapping[str, int]
TEXT = ("input_ids", "attention_mask", "token_type_ids")
BESIDE = {"input_ids": TEXT} | {name: (name, "attention_mask") for name in ("input_values", "input_features")}
TEXT_BATCH, IMAGE_BATCH, HEIGHT, WIDTH = "text_batch_size", "image_batch_size", "height", "width"  # as Optimum has them

# Convolutions whose padding does not look at the image, or positions made for the image at hand: any height and width
# will do. MobileNet pads as TensorFlow did, by the remainder of the size, and a trace knows one remainder alone.
ANY_SIZE = frozenset({"convnext", "convnextv2", "poolformer", "regnet", "resnet", "segformer"})
WITHOUT_MASK = frozenset({"siglip", "siglip2"})  # trained on padding that is read; their processors give no mask
SOUND: Mapping[str, Callable[[Any], Shape]] = {
    "audio-spectrogram-transformer": lambda config: (BATCH, config.max_length, config.num_mel_bins),
    "whisper": lambda config: (BATCH, config.num_mel_bins, 2 * config.max_source_positions),
    "wav2vec2-bert": lambda config: (BATCH, SEQUENCE, config.feature_projection_input_dim),
}
RAW_SOUND: Shape = (BATCH, SEQUENCE)

# Odd lengths, one row and three, a single token: none of them is traced. Sound: the first layers want 400 samples.
TRACED = {BATCH: 2, TEXT_BATCH: 2, IMAGE_BATCH: 3, SEQUENCE: 7, HEIGHT: 64, WIDTH: 96}
CHECKED: Mapping[str, Sizes] = {
    "batch 1": {BATCH: 1, TEXT_BATCH: 1, IMAGE_BATCH: 1, SEQUENCE: 5, HEIGHT: 97, WIDTH: 65},
    "batch 3, padded rows": {BATCH: 3, TEXT_BATCH: 3, IMAGE_BATCH: 2, SEQUENCE: 11, HEIGHT: 64, WIDTH: 130},
    "one token": {BATCH: 1, TEXT_BATCH: 2, IMAGE_BATCH: 1, SEQUENCE: 1, HEIGHT: 96, WIDTH: 64},
}
SAMPLES_PER_TOKEN = 571  # raw sound is as many times longer


def find(model: nn.Module, named: Iterable[str] = ()) -> dict[str, Input]:
    """The inputs that a model of transformers takes, of those named or of those beside its main input."""
    main = str(getattr(model, "main_input_name", "input_ids"))
    config: Any = model.config
    taken = inspect.signature(model.forward).parameters
    wanted = [name for name in named or BESIDE.get(main, (main,)) if name in taken and _is_read(name, config, main)]
    batch = (TEXT_BATCH, IMAGE_BATCH) if "pixel_values" in wanted and len(wanted) > 1 else (BATCH, BATCH)
    made = {
        "input_ids": lambda: Input((batch[0], SEQUENCE), tokens(_vocabulary(config))),
        "attention_mask": lambda: Input((batch[0], SEQUENCE), padded_mask),
        "token_type_ids": lambda: Input((BATCH, SEQUENCE), tokens(config.type_vocab_size)),
        "pixel_values": lambda: Input((batch[1], *_image(config)), noise(model)),
        "input_values": lambda: Input(_sound(config), noise(model)),
        "input_features": lambda: Input(_sound(config), noise(model)),
    }
    return {name: made[name]() for name in wanted}


def sizes(inputs: Mapping[str, Input], cases: Mapping[str, Sizes]) -> dict[str, dict[str, int]]:
    """The sizes of the free axes that these inputs have, longer where they are sound; equal cases once."""
    free = {size for one in inputs.values() for size in one.free.values()}
    raw = any(one.shape == RAW_SOUND and name == "input_values" for name, one in inputs.items())
    found: dict[str, dict[str, int]] = {}
    for name, case in cases.items():
        own = {axis: size for axis, size in case.items() if axis in free}
        if raw:
            own[SEQUENCE] = max(own[SEQUENCE], 2) * SAMPLES_PER_TOKEN
        if own not in found.values():
            found[name] = own
    return found


def padded_mask(shape: tuple[int, ...]) -> Tensor:
    """Ones, and zeros where padding is: left in the first row of several, right in the second."""
    mask = torch.ones(shape, dtype=torch.int64)
    if shape[0] > 1:
        mask[0, : shape[1] // 3], mask[1, shape[1] - shape[1] // 4 :] = 0, 0
    return mask


def _is_read(name: str, config: Any, main: str) -> bool:
    """Whether a model of this configuration was trained with an input that its class takes."""
    if name == "token_type_ids":
        return bool(getattr(config, "type_vocab_size", 0) > 1)
    if name != "attention_mask":
        return True
    if main == "input_values":  # Wav2Vec2FeatureExtractor: models with group norm were trained without a mask
        return bool(getattr(config, "feat_extract_norm", "group") == "layer")
    return config.model_type not in WITHOUT_MASK | SOUND.keys() - {"wav2vec2-bert"}


def _vocabulary(config: Any) -> int:
    return int(getattr(config, "text_config", config).vocab_size)


def _image(config: Any) -> Shape:
    """Channels, height and width."""
    seen = getattr(config, "vision_config", config)
    size = getattr(seen, "image_size", None)
    if size is None or seen.model_type in ANY_SIZE:
        return seen.num_channels, HEIGHT, WIDTH
    return (seen.num_channels, *(size if isinstance(size, (list, tuple)) else (size, size)))


def _sound(config: Any) -> Shape:
    return SOUND[config.model_type](config) if config.model_type in SOUND else RAW_SOUND


def tokens(vocabulary: int) -> Callable[[tuple[int, ...]], Tensor]:
    """Fills a shape with any of so many tokens."""
    return lambda shape: torch.randint(0, vocabulary, shape)


def noise(model: nn.Module) -> Callable[[tuple[int, ...]], Tensor]:
    """Fills a shape with normal noise in the model's own type."""
    dtype = next((one.dtype for one in model.parameters() if one.is_floating_point()), torch.float32)
    return lambda shape: torch.randn(shape).to(dtype)
