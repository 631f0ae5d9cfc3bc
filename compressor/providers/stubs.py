"""Empty CUDA libraries, so that ONNX Runtime's real CUDA provider loads and places nodes where there is no GPU.

    CUDA provider -> libcudart, libcublas, libcudnn ...: every function it names, doing nothing and reporting success

The provider's own code runs: its kernel table, its fallbacks, its partitioning of a graph. Memory is the host's,
"copied" by memcpy; kernels launch nothing, so no number that such a session computes means anything. The names of the
functions are read off the installed wheel (`nm`), the libraries made of them by the C compiler.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from compressor.errors import MachineError

PROVIDERS = ("libonnxruntime_providers_cuda.so", "libonnxruntime_providers_tensorrt.so")
# The provider asks for these by name at run time, or the wheel's symbol table does not say whose they are.
UNVERSIONED = {"cuTensor": "libcuda.so.1", "curand": "libcurand.so.10", "createInfer": "libnvinfer.so.10",
               "getInfer": "libnvinfer.so.10", "getPlugin": "libnvinfer.so.10",
               "createNvOnnx": "libnvonnxparser.so.10"}  # fmt: skip
CUDNN = "libcudnn.so.9"

NOTHING = "int {name}(void) {{ return 0; }}"
HANDLE = "int {name}(void **handle) {{ static char object[4096]; if (handle) *handle = object; return 0; }}"
ALLOCATE = "int {name}(void **p, size_t n) {{ *p = calloc(1, n ? n : 1); return 0; }}"
RELEASE = "int {name}(void *p) {{ free(p); return 0; }}"
COPY = "int {name}(void *to, const void *from, size_t n) {{ memcpy(to, from, n); return 0; }}"
TEXT = 'const char *{name}(int code) {{ return "stub"; }}'
# What the provider asks before it places a node; cudaDeviceProp has the same offsets in CUDA 12 and 13.
ANSWERS = {
    "cudaGetDevice": "int {name}(int *device) {{ *device = 0; return 0; }}",
    "cudaGetDeviceCount": "int {name}(int *count) {{ *count = 1; return 0; }}",
    "cudaGetDeviceProperties": (
        'int {name}(char *p) {{ memset(p, 0, 400); strcpy(p, "stub"); *(size_t *)(p + 288) = 1ul << 34;'
        " *(int *)(p + 308) = 32; *(int *)(p + 320) = 1024; *(int *)(p + 360) = 8; return 0; }}"
    ),  # name, total memory, warp size, threads a block, compute capability 8.0
    "cudaDeviceGetAttribute": "int {name}(int *value, int which) {{ *value = which == 75 ? 8 : 0; return 0; }}",
    "cudaMemGetInfo": "int {name}(size_t *free, size_t *total) {{ *free = *total = 1ul << 34; return 0; }}",
    "cudaRuntimeGetVersion": "int {name}(int *version) {{ *version = 13000; return 0; }}",
    "cudaDriverGetVersion": "int {name}(int *version) {{ *version = 13000; return 0; }}",
    "__cudaRegisterFatBinary": "void *{name}(void *binary) {{ static void *handle[4]; return handle; }}",
    "getInferLibVersion": "int {name}(void) {{ return 101600; }}",
    "cudnnDropoutGetStatesSize": "int {name}(void *handle, size_t *size) {{ *size = 16; return 0; }}",
    "cudnnGetRNNWeightSpaceSize": "int {name}(void *handle, void *rnn, size_t *size) {{ *size = 1 << 24; return 0; }}",
    "cudnnGetRNNWeightParams": (
        "int {name}(void *h, void *r, int l, size_t n, void *w, int i, void *a, void **x, void *b, void **y)"
        " {{ *x = *y = 0; return 0; }}"
    ),
    "cudnnGetVersion": "size_t {name}(void) {{ return 91000; }}",
    **dict.fromkeys(("cudaMalloc", "cudaMallocHost", "cudaHostAlloc"), ALLOCATE),
    **dict.fromkeys(("cudaFree", "cudaFreeHost"), RELEASE),
    **dict.fromkeys(("cudaMemcpy", "cudaMemcpyAsync"), COPY),
}
ERROR_TEXTS = ("GetErrorString", "GetErrorName", "GetStatusName", "GetStatusString")


def available() -> str | None:
    """Why stubs cannot be made here; None when they can."""
    missing = [tool for tool in ("cc", "nm") if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not installed; a C compiler and binutils make the empty CUDA libraries"
    if not (_wheel() / PROVIDERS[0]).is_file():
        return "this onnxruntime is the CPU wheel; onnxruntime-gpu carries the CUDA provider"
    return None


def build(folder: Path) -> dict[str, str]:
    """Compile the libraries into a folder; the environment variables under which a process finds them.

    Raises: MachineError without a compiler or without the GPU wheel.
    """
    if reason := available():
        raise MachineError(reason)
    folder.mkdir(parents=True, exist_ok=True)
    for library, names in _libraries().items():
        _compile(folder, library, names)
    return {"LD_LIBRARY_PATH": str(folder)}


def _wheel() -> Path:
    import onnxruntime

    return Path(onnxruntime.__file__).parent / "capi"


def _libraries() -> dict[str, set[str]]:
    """Library -> the functions that the providers need of it."""
    found: dict[str, set[str]] = defaultdict(set)
    for provider in PROVIDERS:
        listing = subprocess.run(["nm", "-D", "--undefined-only", _wheel() / provider], capture_output=True, check=True)
        for line in listing.stdout.decode().splitlines():
            name, _, library = line.split()[-1].partition("@")
            library = library or next((lib for prefix, lib in UNVERSIONED.items() if name.startswith(prefix)), "")
            if library.startswith(("libcu", "libnv")):
                found[library].add(name)
    loaded_later = re.findall(rb"cudnn[A-Z]\w+", (_wheel() / PROVIDERS[0]).read_bytes())
    found[CUDNN] |= {name.decode() for name in loaded_later} | {name for name in ANSWERS if name.startswith("cudnn")}
    for library in UNVERSIONED.values():
        found[library] |= set()  # needed to load, whether a function of it is called or not
    return found


def _compile(folder: Path, library: str, names: Iterable[str]) -> None:
    """One shared library; its functions carry its name as their version, as the linker of the wheel wants it."""
    source, versions = folder / f"{library}.c", folder / f"{library}.map"
    source.write_text("\n".join(["#include <stdlib.h>", "#include <string.h>", *map(_function, sorted(names))]) + "\n")
    versions.write_text(f"{library} {{ global: *; }};\n")
    link = [f"-Wl,-soname,{library}", f"-Wl,--version-script={versions}"]
    subprocess.run(["cc", "-w", "-shared", "-fPIC", source, "-o", folder / library, *link], check=True)


def _function(name: str) -> str:
    if name.endswith(ERROR_TEXTS):
        return TEXT.format(name=name)
    return ANSWERS.get(name, HANDLE if "Create" in name else NOTHING).format(name=name)
