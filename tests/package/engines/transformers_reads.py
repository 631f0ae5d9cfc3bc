"""transformers reads a compressed-tensors checkpoint and says what each weight is:

    transformers_reads.py FOLDER OUTPUT.npz        weights [out, in], logits of a fixed prompt

Run with a python that has the package compressed-tensors.
"""

import sys

import numpy as np
import torch
from transformers import AutoModelForCausalLM, CompressedTensorsConfig


def main(folder: str, output: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=CompressedTensorsConfig(run_compressed=False)
    ).eval()
    ids = torch.arange(3, 35)[None]
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0]
    weights = {f"{name}.weight": one.weight.detach() for name, one in model.named_modules() if hasattr(one, "weight")}
    np.savez(output, logits=logits.numpy(), **{name: weight.float().numpy() for name, weight in weights.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
