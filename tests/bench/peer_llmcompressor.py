"""llm-compressor on the benchmark's model, run with the peer's own python.

    peer_llmcompressor.py MODEL CALIBRATION OUTPUT [BITS GROUP [defaults]]
    ->   OUTPUT as `pack-quantized`, one line of JSON (laps.py)

4 bits and groups of 128 unless told otherwise, symmetric; damping (0.01) and sequential targets (one decoder layer) at
their defaults. `defaults`: its act-order (static) too; without, none, which is faster.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from laps import Laps
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer


def recipe(bits: int, group_size: int, how: str) -> GPTQModifier:
    span = {"strategy": "channel"} if group_size < 0 else {"strategy": "group", "group_size": group_size}
    weights = {"num_bits": bits, "type": "int", "symmetric": True, "dynamic": False, **span}
    group = {"targets": ["Linear"], "weights": weights}
    order = {} if how == "defaults" else {"actorder": None}
    return GPTQModifier(ignore=["lm_head"], config_groups={"group_0": group}, **order)


def main(
    model: Path, calibration: Path, output: Path, bits: str = "4", group_size: str = "128", how: str = "fastest"
) -> None:
    laps = Laps()
    with laps("load"):
        network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(model)
    rows = torch.from_numpy(np.load(calibration))  # [samples, tokens]
    samples = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in rows]
    with laps("quantize"):
        # Neither batches of 8 nor `batched_quantization` of equal shapes is faster on two cores.
        oneshot(
            model=network,
            tokenizer=tokenizer,
            recipe=recipe(int(bits), int(group_size), how),
            dataset=DataLoader(samples, batch_size=1),
        )
    with laps("save"):
        network.save_pretrained(output, save_compressed=True)
        tokenizer.save_pretrained(output)
    laps.report("llmcompressor", "compressed-tensors", "torch", "transformers")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), *sys.argv[4:])
