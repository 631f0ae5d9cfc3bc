"""Open an ONNX Runtime session, from a file or from a graph in memory, with the settings that keep numbers honest.

Two settings exist: `exact` runs the graph as written (the numeric reference), `served` runs it as users will.
"""

from __future__ import annotations

import mmap
import os
import re
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import onnx_ir as ir

from compressor.errors import MachineError, RequestError, in_a_line
from compressor.graph import maps, scratch
from compressor.graph.reading import embed_attributes, external_tensors, read, read_from_nowhere

if TYPE_CHECKING:
    import onnxruntime as ort
    from numpy.typing import NDArray

Mode = Literal["exact", "served"]
CPU = "CPUExecutionProvider"


@dataclass(frozen=True)
class Backend:
    """The providers a session asks in turn, each with its options; the first is the one that is meant."""

    providers: tuple[tuple[str, Mapping[str, str]], ...] = ((CPU, {}),)

    @property
    def name(self) -> str:
        return self.providers[0][0]


ON_CPU = Backend()


def open_session(
    model: Path | ir.Model,
    mode: Mode,
    *,
    backend: Backend = ON_CPU,
    spinning: bool = True,
    lean: bool = False,
    tiled: bool = True,
    threads: int = 0,
) -> ort.InferenceSession:
    """A session on a backend.

    A model in memory may hold tensors that lie in a file: they stay there and are mapped. `spinning=False` lets idle
    threads sleep, for work that alternates between ONNX Runtime and torch. `lean=True` keeps no copy of a weight and
    no memory between calls: slower, for models that hardly fit. `tiled=False` stores the scores of
    GroupQueryAttention instead of going over them in tiles: faster for short rows, and [heads, tokens, tokens] of
    memory. `threads`: that compute; 0: one for each core.

    Raises: RequestError when ONNX Runtime refuses the graph; MachineError when the provider is missing.
    """
    options = session_options(mode, spinning=spinning, lean=lean, threads=threads)
    with _environment({} if tiled else {"ORT_GQA_DISABLE_FLASH_ATTENTION": "1"}):
        return start(load_model(model) if lean and isinstance(model, Path) else model, options, backend, lean=lean)


def compute(model: ir.Model) -> list[NDArray[Any]]:
    """The outputs of a graph without inputs. Raises: ValueError where ONNX Runtime cannot tell them."""
    try:
        return list(open_session(model, "exact", threads=1).run(None, {}))
    except Exception as error:  # ONNX Runtime's own share no base class
        raise ValueError(_reason(error)) from error


def session_options(mode: Mode, *, spinning: bool = True, lean: bool = False, threads: int = 0) -> ort.SessionOptions:
    """The settings of a mode, for those who add their own before the session starts."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4  # what fails raises; said once is enough
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_DISABLE_ALL if mode == "exact" else level.ORT_ENABLE_ALL
    # Without this a weight DequantizeLinear + MatMul computes in int8 activations: 0.6 % off before we measure.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    if lean:
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    return options


def start(
    model: Path | ir.Model, options: ort.SessionOptions, backend: Backend = ON_CPU, *, lean: bool = False
) -> ort.InferenceSession:
    """A session with these options on the backend's first provider; it falls back to no other.

    Raises: as `open_session`.
    """
    import onnxruntime as ort

    if backend.name not in ort.get_available_providers():
        raise MachineError(
            f"{backend.name} is not in this onnxruntime {ort.__version__}; `compress doctor` says what is"
        )
    providers = [(name, dict(given)) for name, given in backend.providers]
    try:
        with _given(model, options, lean=lean) as (content, mapped):
            session = ort.InferenceSession(content, options, providers=providers)
        weakref.finalize(session, dict.clear, mapped)  # it reads them as long as it lives
    except Exception as error:  # ONNX Runtime's own exceptions share no base class
        name = model if isinstance(model, Path) else model.graph.name or "graph"
        raise RequestError(f"{name}: ONNX Runtime cannot load it: {_reason(error)}") from error
    if session.get_providers()[0] != backend.name:
        raise MachineError(f"{backend.name} did not load and ONNX Runtime took the CPU; `compress doctor` says why")
    return session


# The place in ONNX Runtime's sources that a message names before it says what is wrong.
_PLACE = re.compile(r"/\S+\.(?:cc|h):\d+ [^()]*\([^()]*(?:\([^()]*\)[^()]*)*\)(?: const)?(?: \[with [^]]*\])? ")


def _reason(error: Exception) -> str:
    return _PLACE.sub("", " ".join(str(error).split()))[:300]


def load_model(path: Path) -> ir.Model:
    """Read a graph; its external tensors stay in their files, mapped.

    Raises: RequestError when the file is missing, is no ONNX, or names data outside its own folder.
    """
    if not path.is_file():
        raise RequestError(f"{path}: no such file")
    try:
        model = read(path)
    except Exception as error:  # protobuf and onnx_ir raise what they like on bytes that are no model
        raise RequestError(f"{path}: not a readable ONNX model ({in_a_line(error)})") from error
    if not model.graph.outputs:  # an empty file is a valid protobuf
        raise RequestError(f"{path}: not a readable ONNX model (its graph has no output)")
    if (name := read_from_nowhere(model)) is not None:
        raise RequestError(f"{path}: not a readable ONNX model (nothing in it makes '{name}', which is read)")
    for tensor in external_tensors(model) if may_be_external(path) else ():
        _check_external(tensor, path)
    return model


def save_model(model: ir.Model, path: Path, at_once: int = 1) -> None:
    """Write a graph and, beside it, `<name>.data` with every tensor above 256 bytes, streamed, so many at a time."""
    ir.save(model, path, external_data=f"{path.name}.data", max_workers=at_once)
    maps.put_back_into(path, model)


def graph_nbytes(path: Path) -> int:
    """Bytes of a graph and its external data."""
    folder = path.parent
    parts = {path, *(folder / str(one.location) for one in external_tensors(load_model(path)))}
    return sum(part.stat().st_size for part in parts)


def may_be_external(path: Path) -> bool:
    """Whether a file has the word with which every tensor says where its data lies: most have not, and need no look."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(b"location") >= 0


def external_files(model: ir.Model) -> set[str]:
    """Locations of a graph's external data, relative to its folder."""
    return {str(one.location) for one in external_tensors(model)}


def _check_external(tensor: ir.ExternalTensor, path: Path) -> None:
    """Refuse data that lies outside the model's folder, or does not lie there at all."""
    folder, location = path.parent.resolve(), str(tensor.location)
    try:
        target = (folder / location).resolve()
        size = target.stat().st_size if target.is_file() else None
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{path}: tensor '{tensor.name}' names no file that there can be ({_reason(error)})"
        ) from None
    if Path(location).is_absolute() or ".." in Path(location).parts or not target.is_relative_to(folder):
        raise RequestError(
            f"{path}: tensor '{tensor.name}' points outside the model's folder ({location}); refused. "
            "Move the data beside the model and correct its location"
        )
    if size is None:
        raise RequestError(f"{path}: its data file {location} is missing; put it beside the model")
    if (tensor.offset or 0) + (tensor.length or tensor.nbytes) > size:
        raise RequestError(f"{path}: its data file {location} is too short for tensor '{tensor.name}'; copy it again")


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """What ONNX Runtime reads only while a session is made, and leaves as it was."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _given(
    model: Path | ir.Model, options: ort.SessionOptions, *, lean: bool
) -> Iterator[tuple[str | bytes, dict[str, ort.OrtValue]]]:
    """What ONNX Runtime is given: a path, or a graph in bytes, with options that say where its weights lie.

    Tensors of a file stay there. Lean: those that are computed when they are read lie in a file too, and are mapped.
    """
    if isinstance(model, Path):
        yield str(model), {}
        return
    embed_attributes(model)
    external = external_tensors(model)
    folders = {Path(os.path.abspath(one.base_dir)) for one in external}
    if len(folders) > 1:
        raise RequestError(f"graph '{model.graph.name}' takes its weights from several folders: {sorted(folders)}")
    folder, location = next(iter(folders), None), next((str(one.location) for one in external), "")
    with scratch.computed(model, folder, location) if lean else nullcontext(scratch.Computed(folder, {})) as found:
        for name, value in found.mapped.items():
            options.add_initializer(name, value)
        if found.folder is not None:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(found.folder))
        proto: Any = ir.to_proto(model)
        maps.put_back(proto, model)
        if lean:
            _weights_when_read(proto.graph)
        yield proto.SerializeToString(), found.mapped


def _weights_when_read(graph: Any) -> None:
    """Put the nodes that work on weights alone (Transpose, Cast) first, so that each runs right before its reader.

    ONNX Runtime orders nodes by a depth-first search from the outputs, which goes to the later input first: where
    they stand before their readers, the weights of all layers are transposed before the first layer runs.
    """
    known = {one.name for one in graph.initializer} | {""}
    early: list[Any] = []
    others: list[Any] = []
    for node in graph.node:
        alone = (
            bool(node.input) and known.issuperset(node.input) and not any(one.HasField("g") for one in node.attribute)
        )
        (early if alone else others).append(node)
        known |= set(node.output) if alone else set()
    del graph.node[:]
    graph.node.extend([*early, *others])
