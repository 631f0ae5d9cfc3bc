"""A model on a target that cannot run it, told before the model is loaded: the recipe and config.json suffice.

What the recipe alone decides (a method or a format on a target) is refused where it is read, with its line; these rows
need to know what the model is. Their claims are kernel-table facts, and a test holds each row to the tables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from compressor.errors import RequestError


class Wanted(NamedTuple):
    """What a recipe asks for, and what the model's configuration says it is."""

    target: str
    dtype: str
    passes: tuple[str, ...]
    task: str
    model_type: str


class Rule(NamedTuple):
    """`place` is the field to change; `why` ends with what to change it to."""

    target: str
    applies: Callable[[Wanted], bool]
    place: str
    why: str


# Model types whose convolutions are normalized by BatchNorm2d, in transformers' own modelling files.
WITH_BATCH_NORMALIZATION = ("resnet", "regnet", "mobilenet_v1", "mobilenet_v2", "efficientnet", "mobilevit",
                            "mobilevitv2", "levit", "cvt", "swiftformer", "van", "segformer")  # fmt: skip
GROUP_QUERY = "group-query-attention-fusion"
RULES = (
    Rule(
        "cuda",
        lambda wanted: wanted.dtype == "bfloat16" and wanted.model_type in WITH_BATCH_NORMALIZATION,
        "export.dtype",
        "CUDA has no bfloat16 kernels for BatchNormalization, MaxPool and GlobalAveragePool, and neither has the CPU; "
        "use float16",
    ),
    Rule(
        "cuda",
        lambda wanted: (
            wanted.dtype == "float32" and wanted.task == "text-generation-with-past" and GROUP_QUERY in wanted.passes
        ),
        "export.dtype",
        "GroupQueryAttention on CUDA is float16 or bfloat16; in float32 it runs on the CPU, its cache copied both ways "
        f"at every token; use float16, or name optimize.passes without {GROUP_QUERY}",
    ),
)


def refuse(wanted: Wanted) -> None:
    """Raises: RequestError with every rule that a request breaks."""
    broken = [one for one in RULES if one.target == wanted.target and one.applies(wanted)]
    if broken:
        raise RequestError("\n".join(f"{one.place}: {wanted.dtype} on {wanted.target}: {one.why}" for one in broken))
