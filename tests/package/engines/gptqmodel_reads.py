"""GPTQModel reads a checkpoint and says what each weight is: `gptqmodel_reads.py FOLDER OUTPUT.npz`, weights [out, in].

Run with the peer's own python. float16: its plain kernel knows no other type.
"""

import sys

import numpy as np
import torch
from gptqmodel import BACKEND, GPTQModel


def main(folder: str, output: str) -> None:
    model = GPTQModel.load(folder, device="cpu", dtype=torch.float16, backend=BACKEND.TORCH).model
    modules = {name: module for name, module in model.named_modules() if hasattr(module, "dequantize_weight")}
    weights = {f"{name}.weight": module.dequantize_weight().T.contiguous() for name, module in modules.items()}
    np.savez(output, **{name: weight.numpy() for name, weight in weights.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
