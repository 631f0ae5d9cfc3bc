"""The peers of the GPTQ benchmark, one row each, every one in a virtual environment of its own.

    python = environment(PEERS["gptqmodel"])      # made once (minutes, ~1.6 GB), found from then on
    [python, peer.runner, MODEL, CALIBRATION, OUTPUT] with peer.variables in its environment
    ->  the last line of standard output is the JSON document of laps.py

Pins are whole where the result could move; torch 2.13.0 is the CPU wheel that pip finds on these machines.
"""

import subprocess
import sys
import venv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

BENCH = Path(__file__).resolve().parent
INSTALLED = "installed.txt"  # written last, holds the requirements: a broken or outdated environment is made anew

# Alike for all: two threads, no network, no progress bars. PASSIVE: beside other jobs, threads that spin at a
# barrier wait for the one that lost its core (llm-compressor: 417 s spinning, 88 to 171 s asleep, loads not the same).
COMMON = {
    "OMP_NUM_THREADS": "2",
    "OMP_WAIT_POLICY": "PASSIVE",
    "HF_HUB_OFFLINE": "1",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTHONWARNINGS": "ignore",
}


@dataclass(frozen=True)
class Peer:
    """One contestant: what to install, what to run, and what it wants to see in its environment."""

    name: str
    requirements: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def runner(self) -> Path:
        return BENCH / f"peer_{self.name}.py"


PEERS = {
    "gptqmodel": Peer(
        "gptqmodel",
        ("gptqmodel==7.6.0", "torch==2.13.0", "transformers==5.23.0", "torchao==0.18.0", "defuser==0.0.28"),
        # Its default, half the cores, is one worker here, and its loader's pool of two then refuses to start.
        COMMON | {"GPTQMODEL_CPU_WORKERS": "2", "LOGBAR_ANIMATION": "0", "LOGBAR_PROGRESS_OUTPUT_INTERVAL": "100000"},
    ),
    "llmcompressor": Peer(
        "llmcompressor",
        ("llmcompressor==0.14.0.1", "compressed-tensors==0.19.0", "torch==2.13.0", "transformers==5.17.0"),
        # Not LLM_COMPRESSOR_LOG_DISABLED: 0.14.0.1 then stops with "Level 'METRIC' does not exist".
        COMMON | {"LLM_COMPRESSOR_LOG_LEVEL": "ERROR", "COMPRESSED_TENSORS_LOG_LEVEL": "ERROR"},
    ),
}


# Asked for values, not for seconds: what the tests compare with where it is installed (`python -m tests.bench.peers`).
ORACLES = {"bitsandbytes": Peer("bitsandbytes", ("bitsandbytes==0.50.2", "torch==2.13.0", "numpy==2.4.6"))}

# Another server (its name on PyPI: llama-cpp-python is source alone), and those that put a load on ours.
SERVERS = {"llamacpp": Peer("llamacpp", ("xllamacpp==2026.10.11549", "gguf==0.19.0", "safetensors==0.8.0"))}
CLIENTS = {"openai": Peer("openai", ("openai==3.54.0",))}


def installed(name: str) -> Path | None:
    """The python of a peer or an oracle, where its environment was made to the end."""
    folder = BENCH / ".venvs" / name
    return folder / "bin" / "python" if (folder / INSTALLED).is_file() else None


def environment(peer: Peer) -> Path:
    """The peer's python; installs the peer if its requirements are not those already there.

    Raises `subprocess.CalledProcessError` where pip does; its output is on standard error.
    """
    folder = BENCH / ".venvs" / peer.name
    python, marker = folder / "bin" / "python", folder / INSTALLED
    requirements = "\n".join(peer.requirements) + "\n"
    if marker.is_file() and marker.read_text() == requirements:
        return python
    venv.create(folder, clear=True, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *peer.requirements], check=True, stdout=sys.stderr)
    marker.write_text(requirements)
    return python


if __name__ == "__main__":
    for each in (*PEERS.values(), *ORACLES.values(), *SERVERS.values(), *CLIENTS.values()):
        print(each.name, environment(each))
