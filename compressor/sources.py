"""Where a model comes from, and by which bytes it is known.

    builtin:tiny-lm   ./folder   owner/name          a checkpoint: configuration and weights
    ./model.onnx   ./program.pt2                     a graph; a program that torch.export saved
    torch:package.module:factory                     a module that a function of yours makes

Weights are read from safetensors, or from a pickle by torch's weights_only. No code of a model is run unless it is
asked for by name: `torch:`, or export.trust_remote_code.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compressor import artifact, catalog
from compressor.artifact import Artifact
from compressor.disk import digest, fingerprint
from compressor.errors import MachineError, RequestError, in_a_line

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
# What a model's folder holds beside its weights, and an artifact carries along byte for byte.
CARRIED = (
    CONFIG,
    "generation_config.json",
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "chat_template.jinja",
)
DOWNLOADED = ("*.safetensors", "*.safetensors.index.json", *CARRIED)
PICKLES = ("pytorch_model*.bin", "pytorch_model.bin.index.json")  # where a model has no safetensors
CODE = ("*.py",)  # where it was asked for
CHECKPOINT, MODULE = "checkpoint", "torch-module"
CONTEXTS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")  # the longest sequence, by its names
UNNAMED_CONTEXT = 2048
TORCH = "torch:"
FILES = {".onnx": "onnx-file", ".pt2": "torch-program"}  # suffix -> kind of source


@dataclass(frozen=True)
class Source:
    """A model, known by the bytes of the files that an export reads."""

    name: str
    folder: Path  # of a factory: the file that it stands in, for nothing beside it belongs to it
    files: Mapping[str, str] = field(repr=False)  # name -> SHA-256
    kind: str = CHECKPOINT
    entry: str = ""  # the one file of a graph or a program

    @property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(dict(self.files), sort_keys=True).encode()).hexdigest()

    @property
    def provenance(self) -> dict[str, Any]:
        return {"model": self.name, "files": dict(self.files)}

    @property
    def weights(self) -> list[Path]:
        return sorted(self.folder.glob("*.safetensors"))

    @property
    def nbytes(self) -> int:
        """Bytes of the files that hold weights."""
        files = [self.folder / name for name in self.files if name not in CARRIED]
        return sum(path.stat().st_size for path in files if path.is_file())


def find(name: str, *, remote_code: bool = False) -> Source:
    """Resolve the name of a model. Raises: RequestError when there is none, MachineError without network."""
    folder = catalog.resolve(catalog.MODELS[name]) if name in catalog.MODELS else Path(name)
    if name.startswith("builtin:") and name not in catalog.MODELS:
        raise RequestError(f"{name}: no such built-in model; there is {', '.join(catalog.MODELS)}")
    if name.startswith(TORCH):
        source: Source = catalog.resolve(catalog.FACTORIES)(name)
        return source
    if folder.is_file():
        return _lone_file(name, folder)
    if not folder.is_dir():
        folder = _download(name, remote_code)
    if not (folder / CONFIG).is_file():
        raise RequestError(f"{name}: no {CONFIG} in {folder}; is it a Hugging Face model folder?")
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob(PICKLES[0]))
    if not weights:
        raise RequestError(f"{name}: no weights in {folder}; put model.safetensors or pytorch_model.bin there")
    code = sorted(folder.glob(CODE[0])) if remote_code else []
    used = [*weights, *code, *_beside(folder).values()]
    return Source(name, folder, {path.name: digest(path) for path in used})


def open_input(path: Path, meanwhile: Callable[[int], None] | None = None) -> Artifact:
    """INPUT of a command: an artifact's folder or a bare `.onnx` file. Raises: RequestError.

    meanwhile: what is done, given how many there are, while the bytes of a bare file are hashed.
    """
    if path.is_dir():
        found = artifact.open_artifact(path)
        weights = [name for name in found.manifest["files"] if name.endswith(".safetensors")]
        if weights and not any(name.endswith(".onnx") for name in found.manifest["files"]):
            raise RequestError(f"{path}: holds {weights[0]} and no graph; name an .onnx or an artifact with one")
        return found
    if path.suffix == ".onnx" and path.is_file():
        files = graph_files(path) | _beside(path.parent)
        with ThreadPoolExecutor(1) as pool:
            opened = pool.submit(_bare_file, path, files)
            if meanwhile is not None:
                meanwhile(sum(file.stat().st_size for file in files.values()))
            return opened.result()
    raise RequestError(f"{path}: {'not an .onnx file' if path.is_file() else 'no such file or folder'}")


def config(folder: Path) -> dict[str, Any]:
    """The model's configuration, that of its text part where it has several; empty when there is none."""
    whole = whole_config(folder)
    return {**whole, **whole.get("text_config", {})}


def whole_config(folder: Path) -> dict[str, Any]:
    """`config.json` as it stands; empty when there is none."""
    path = folder / CONFIG
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise RequestError(f"{path}: not JSON: {error}") from None


def context(folder: Path) -> int | None:
    """The longest sequence that the model was made for; None where its configuration names none, as with ALiBi."""
    known = config(folder)
    return next((int(known[name]) for name in CONTEXTS if known.get(name)), None)


def served_context(folder: Path) -> tuple[int, list[str]]:
    """The longest sequence that engines are told of; and, where the model names none, that this one is ours."""
    if known := context(folder):
        return known, []
    return UNNAMED_CONTEXT, [f"{CONFIG} names no longest sequence ({', '.join(CONTEXTS)}): taken as {UNNAMED_CONTEXT}"]


def has_tokenizer(folder: Path) -> bool:
    return (folder / TOKENIZER).is_file() and (folder / CONFIG).is_file()


def carry(source: Path, target: Path) -> None:
    """Take configuration and tokenizer along, byte for byte."""
    for name in CARRIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def graph_files(path: Path) -> dict[str, Path]:
    """A lone `.onnx` and its external data. Raises: RequestError when that lies elsewhere."""
    from compressor.graph.session import external_files, load_model, may_be_external

    external = sorted(external_files(load_model(path))) if may_be_external(path) else []
    return {name: path.parent / name for name in (path.name, *external)}


def _lone_file(name: str, path: Path) -> Source:
    """A file as a source: the graph or the program, and what lies beside it and belongs to it."""
    if path.suffix not in FILES:
        raise RequestError(
            f"{name}: is a file; a model is a folder with {CONFIG} and safetensors, a Hugging Face id, or a file "
            f"that ends in {' or '.join(FILES)}"
        )
    own = graph_files(path) if path.suffix == ".onnx" else {path.name: path}
    digests = {one: digest(file) for one, file in (own | _beside(path.parent)).items()}
    return Source(name, path.parent, digests, FILES[path.suffix], path.name)


def _beside(folder: Path) -> dict[str, Path]:
    return {name: folder / name for name in CARRIED if (folder / name).is_file()}


def _bare_file(path: Path, files: Mapping[str, Path]) -> Artifact:
    """A lone `.onnx` as an artifact; its key is the bytes of its files."""
    entries = {name: {"bytes": one.stat().st_size} for name, one in files.items()}
    key = artifact.key("file", {name: fingerprint(one) for name, one in files.items()})
    return Artifact(path.parent, "file", key, {"files": entries, "facts": {}}, model_name=path.name)


def _download(name: str, remote_code: bool) -> Path:
    """A snapshot of a hub model, from the local cache where it lies there. Raises: RequestError, MachineError."""
    import huggingface_hub
    from huggingface_hub import errors

    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise RequestError(f"{name}: no such folder")
    wanted = [*DOWNLOADED, *(CODE if remote_code else ())]
    try:
        folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=wanted))
        if not any(folder.glob(DOWNLOADED[0])):
            folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=[*wanted, *PICKLES]))
        return folder
    except errors.GatedRepoError as error:
        raise RequestError(
            f"{name}: its owner lets nobody in without asking; accept the terms on the hub and run `hf auth login` "
            f"({in_a_line(error)})"
        ) from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise RequestError(f"{name}: neither a folder nor a model on the hub ({in_a_line(error)})") from None
    except (errors.LocalEntryNotFoundError, OSError, RuntimeError) as error:
        raise MachineError(
            f"{name}: no such folder, and the hub cannot be asked for it ({in_a_line(error)}); "
            "name a local folder or builtin:tiny-lm"
        ) from None
