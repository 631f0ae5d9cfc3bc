"""An artifact of ours in Optimum's ORTModelForCausalLM, unchanged: the same greedy tokens as transformers.

    python -m tests.bench.generate_in_optimum

Optimum lives in an environment of its own, for it pins transformers below 4.58. Writes results/generate_in_optimum.json
and ends with 1 where a token differs.
"""

import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from tests.bench import peers

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).resolve().parent / "results" / "generate_in_optimum.json"
OPTIMUM = peers.Peer(
    "optimum", ("optimum-onnx[onnxruntime]==0.1.0", "torch==2.13.0", "transformers==4.57.6"), peers.COMMON
)
PROMPT, NEW_TOKENS = [53, 88, 80, 381, 84], 24  # "Two cats"
THEIRS = """
import json, sys, torch
from optimum.onnxruntime import ORTModelForCausalLM
ids = torch.tensor([json.loads(sys.argv[2])])
model = ORTModelForCausalLM.from_pretrained(sys.argv[1])
mask, count = torch.ones_like(ids), int(sys.argv[3])
made = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=count, do_sample=False)
print(json.dumps(made[0].tolist()))
"""


def main() -> None:
    python = peers.environment(OPTIMUM)
    with tempfile.TemporaryDirectory(prefix="compress-bench-") as folder:
        place = Path(folder) / "artifact"
        export = [sys.executable, "-m", "cli", "export", "builtin:tiny-lm", "-o", place]
        subprocess.run(export, check=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=sys.stderr)
        command = [python, "-c", THEIRS, place, json.dumps(PROMPT), str(NEW_TOKENS)]
        run = subprocess.run(
            command, check=True, capture_output=True, text=True, env=os.environ | dict(OPTIMUM.variables)
        )
    found, expected = json.loads(run.stdout.strip().splitlines()[-1]), in_transformers()
    result = {
        "command": "python -m tests.bench.generate_in_optimum",
        "optimum": list(OPTIMUM.requirements),
        "transformers_of_ours": version("transformers"),
        "tokens": found,
        "same_as_transformers": found == expected,
    }
    RESULTS.write_text(json.dumps(result) + "\n", encoding="utf-8")
    print(json.dumps(result))
    sys.exit(found != expected)


def in_transformers() -> list[int]:
    """The same prompt, the same number of tokens, the model that the artifact came from."""
    import torch
    import transformers

    from compressor.builtin import TINY_LM

    model = transformers.AutoModelForCausalLM.from_pretrained(TINY_LM)
    ids = torch.tensor([PROMPT])
    made = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False
    )
    tokens: list[int] = made[0].tolist()
    return tokens


if __name__ == "__main__":
    main()
