"""GPTQModel on the benchmark's model, run with the peer's own python.

    peer_gptqmodel.py MODEL CALIBRATION OUTPUT [BITS GROUP [defaults]]   ->   OUTPUT as `gptq`, a line of JSON (laps.py)

4 bits and groups of 128 unless told otherwise, symmetric. `defaults`: what else it chooses itself, which is what it is
most accurate with (act-order inside and between groups, true sequential); without, its fastest setting on a CPU.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from gptqmodel import GPTQModel
from gptqmodel.quantization.config import GPTQConfig
from laps import Laps
from logbar import LogBar

OPTIONS = dict(
    sym=True,
    desc_act=False,
    act_group_aware=False,  # on by default: an act-order inside and between groups
    true_sequential=False,  # one forward a layer instead of four: a quarter less processor time, llm-compressor's way
    offload_to_disk=False,  # on by default: saves memory for models a hundred times as large
)


def main(
    model: Path, calibration: Path, output: Path, bits: str = "4", group_size: str = "128", how: str = "fastest"
) -> None:
    options = {"sym": True, "offload_to_disk": False} if how == "defaults" else OPTIONS
    if int(group_size) < 0:
        options = options | {"act_group_aware": False}  # it refuses its default where there are no groups
    config = GPTQConfig(bits=int(bits), group_size=int(group_size), **options)
    LogBar.shared().setLevel("ERROR")
    laps = Laps()
    with laps("load"):
        # float32 must be said: on a CPU its "auto" is bfloat16, whatever the checkpoint holds.
        quantizer = GPTQModel.load(str(model), config, device="cpu", dtype=torch.float32)
    rows = torch.from_numpy(np.load(calibration)).unsqueeze(1)  # [samples, 1, tokens]
    samples = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in rows]
    with laps("quantize"):
        quantizer.quantize(samples, batch_size=1)
    with laps("save"):
        quantizer.save(str(output))
    laps.report("gptqmodel", "torch", "transformers")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), *sys.argv[4:])
