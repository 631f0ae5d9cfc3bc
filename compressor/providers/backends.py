"""A target becomes a backend: its provider with the options that its graph asks for.

cpu       nothing to say
cuda      float32 products in float32 (TF32 rounds their inputs to 10 bits of mantissa, and agreement is measured)
tensorrt  precisions that the graph's own types name, engine and timing cache beside the artifact, a shape profile
          for every input with a free axis; what TensorRT declines goes to CUDA

find("tensorrt", path, engines=Path("artifacts/a.engines"), profiles={"batch": (1, 1, 8)})
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from compressor.errors import RequestError
from compressor.graph.session import ON_CPU, Backend, load_model
from compressor.providers import libraries
from compressor.providers.kernels import CUDA, PROVIDERS, TENSORRT

Profiles = Mapping[str, Mapping[str, Sequence[int]]]  # input -> its least, best and largest shape: min, opt, max
# TensorRT's builder follows flags, not the graph's types: a precision that is in the graph has to be allowed.
PRECISIONS = {
    "trt_fp16_enable": (ir.DataType.FLOAT16,),
    "trt_bf16_enable": (ir.DataType.BFLOAT16,),
    "trt_int8_enable": (ir.DataType.INT8, ir.DataType.INT4),
}
CUDA_OPTIONS = {"use_tf32": "0"}


def at_hand(target: str) -> tuple[str, tuple[str, ...]]:
    """Where an artifact for a target is validated on this machine: there, or on the CPU with a line that says why."""
    wanted = home(target)
    reason = None if wanted == "cpu" else libraries.obstacle(PROVIDERS[wanted])
    if reason is None:
        return wanted, ()
    return "cpu", (f"validated on the CPU, placement on {wanted} predicted: {reason}",)


def home(target: str) -> str:
    """The provider of a target; a generic artifact is at home on the CPU."""
    return "cpu" if target == "generic" else target


def find(target: str, path: Path, *, engines: Path, profiles: Profiles) -> Backend:
    """The backend of a target for one graph, ready to open sessions on.

    Raises: MachineError when a library is missing; RequestError when an input with a free axis has no profile.
    """
    if target == "cpu":
        return ON_CPU
    libraries.require(target)
    on_cuda = (CUDA, CUDA_OPTIONS)
    if target == "cuda":
        return Backend((on_cuda,))
    return Backend(((TENSORRT, tensorrt_options(load_model(path), engines, profiles)), on_cuda))


def engines_beside(directory: Path) -> Path:
    """`artifacts/a` keeps its engines in `artifacts/a.engines`; deleting them costs nothing but their building."""
    return directory.with_name(f"{directory.name}.engines")


def tensorrt_options(model: ir.Model, engines: Path, profiles: Profiles) -> dict[str, str]:
    """Options of the TensorRT provider, 10.x names, for one graph."""
    engines.mkdir(parents=True, exist_ok=True)
    own = {value.dtype for value in _values(model)}
    flags = {name: str(int(any(one in own for one in types))) for name, types in PRECISIONS.items()}
    if lacking := [str(one.name) for one in model.graph.inputs if _is_free(one) and one.name not in profiles]:
        raise RequestError(
            f"TensorRT wants a shape profile for {', '.join(lacking)}; export the model with compress, which writes "
            "profiles into its manifest, or make the axes static"
        )
    shapes = {f"trt_profile_{which}_shapes": _profile(profiles, which) for which in ("min", "opt", "max")}
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(engines),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(engines),
        **flags,
        **{name: text for name, text in shapes.items() if text},
    }


def _is_free(value: ir.Value) -> bool:
    return any(not isinstance(size, int) for size in value.shape or ())


def _profile(profiles: Profiles, which: str) -> str:
    """`ids:1x8,mask:1x8`: all inputs with a free axis, for TensorRT wants them together."""
    return ",".join(f"{name}:{'x'.join(map(str, shapes[which]))}" for name, shapes in profiles.items())


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in model.graphs():
        yield from (*graph.inputs, *graph.initializers.values())
        yield from (output for node in graph for output in node.outputs)
