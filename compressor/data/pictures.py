"""Pictures become a graph's input: uint8 height x width x channels -> (value / 255 - mean) / deviation.

A file is decoded to RGB (or grey where the graph has one channel) and resized to the input's height and width; a
folder for each class gives labels, in the order of their names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compressor.errors import MachineError, RequestError, in_a_line
from compressor.recipe.recipe import Images

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
Array = NDArray[np.generic]


def folder(path: Path, inputs: Mapping[str, ir.Value], images: Images) -> tuple[dict[str, Array], str]:
    """Every picture below a folder, in the order of their paths, with labels where classes have folders.

    Raises: RequestError when there is none, one cannot be decoded, or the graph has more inputs than one.
    """
    files = sorted(one for one in path.rglob("*") if one.suffix.lower() in SUFFIXES)
    if not files:
        raise RequestError(f"{path}: holds no picture ({', '.join(SUFFIXES)})")
    if len(inputs) != 1:
        raise RequestError(f"{path}: pictures are one input, and the graph has {', '.join(inputs)}")
    (value,) = inputs.values()
    sha256 = hashlib.sha256()
    for file in files:
        sha256.update(file.read_bytes())
    size = images.size or _size(value, images)
    arrays: dict[str, Array] = {str(value.name): np.stack([_decode(file, size, images) for file in files])}
    classes = sorted({file.parent.name for file in files if file.parent != path})
    if classes and all(file.parent.parent == path for file in files):
        arrays["labels"] = np.array([classes.index(file.parent.name) for file in files])
    return arrays, sha256.hexdigest()


def ready(pixels: NDArray[Any], value: ir.Value, images: Images) -> NDArray[np.float32]:
    """uint8 [n, height, width, channels] -> float32 as the input has its axes."""
    channels = pixels.shape[-1]
    if channels != len(images.mean):
        raise RequestError(f"'{value.name}': pictures of {channels} channels, and images.mean has {len(images.mean)}")
    mean, deviation = (np.array(one, np.float32) for one in (images.mean, images.deviation))
    scaled = ((pixels.astype(np.float32) / 255 - mean) / deviation).astype(np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)) if images.layout == "nchw" else scaled


def _size(value: ir.Value, images: Images) -> tuple[int, int]:
    shape = list(value.shape or ())
    height, width = (shape[2:4] if images.layout == "nchw" else shape[1:3]) if len(shape) == 4 else (None, None)
    if not (isinstance(height, int) and isinstance(width, int)):
        raise RequestError(f"'{value.name}': its graph does not fix height and width; say them in images.size")
    return height, width


def _decode(file: Path, size: tuple[int, int], images: Images) -> NDArray[np.uint8]:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise MachineError("pictures are decoded by Pillow, which is missing: pip install pillow") from None
    try:
        with Image.open(file) as picture:
            grey = len(images.mean) == 1
            pixels = picture.convert("L" if grey else "RGB").resize(size[::-1], Image.Resampling.BILINEAR)
    except (OSError, UnidentifiedImageError) as error:
        raise RequestError(f"{file}: not a picture that can be decoded ({in_a_line(error)})") from None
    array = np.asarray(pixels, np.uint8)
    return array[..., None] if grey else array
