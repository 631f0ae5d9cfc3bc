"""llama.cpp's server on the same weights at the same bits: `peer_llamacpp.py MODEL WORK.json`, in its own environment.

    WORK: {"threads": 1, "batch": 8, "rounds": 3, "requests": [[[token, ..], wanted], ..]}
    ->  the last line: {"tokens/s": .., "tokens/processor second": .., "versions": ..}

MODEL is a Hugging Face folder of a Llama. Its projections become Q4_0 (blocks of 32 with one scale), its embedding
stays float32, as in our artifact. Its slots are its batch, filled as they become free: continuous batching.
"""

import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import xllamacpp
from safetensors.numpy import load_file

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
BYTES = 3 + 256  # of its vocabulary: unknown, begin, end, and each byte


def convert(folder: Path, output: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(output, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(config["head_dim"])
    add_vocabulary(writer, config["vocab_size"])
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for name, array in load_file(folder / "model.safetensors").items():
        add(writer, name, array, heads)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    """Made up: prompts are token numbers, and nobody reads the answers."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL, *[gguf.TokenType.BYTE] * 256]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*tokens, *(f"w{number}" for number in range(BYTES, size))])
    writer.add_token_types([*kinds, *[gguf.TokenType.NORMAL] * (size - BYTES)])
    writer.add_token_scores([0.0] * size)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def add(writer: gguf.GGUFWriter, name: str, array: np.ndarray, heads: dict[str, int]) -> None:
    outside = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if name in outside:
        writer.add_tensor(outside[name], array.astype(np.float32))
        return
    number, rest = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
    ours = NAMES[rest]
    if ours in heads:  # llama.cpp turns neighbours, Hugging Face halves
        array = array.reshape(heads[ours], 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
    full = f"blk.{number}.{ours}.weight"
    if array.ndim == 1:
        writer.add_tensor(full, array.astype(np.float32))
    else:
        kind = gguf.GGMLQuantizationType.Q4_0
        writer.add_tensor(full, gguf.quants.quantize(np.ascontiguousarray(array, np.float32), kind), raw_dtype=kind)


def serve(model: Path, work: dict[str, Any]) -> xllamacpp.Server:
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_parallel = work["batch"]
    params.n_ctx = work["batch"] * 1024
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = work["threads"]
    params.cont_batching, params.cache_prompt, params.warmup = True, False, False
    params.fit_params, params.verbosity = False, 0
    return xllamacpp.Server(params)


def measure(server: xllamacpp.Server, work: dict[str, Any]) -> dict[str, float]:
    """The best of the rounds, by the clock and by the processor."""

    def one(request: list[Any]) -> int:
        prompt, wanted = request
        form = {"prompt": prompt, "n_predict": wanted, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        answer = server.handle_completions(form)
        assert answer["usage"]["completion_tokens"] == wanted, answer
        return int(wanted)

    best = [0.0, 0.0]
    for _ in range(work["rounds"]):
        begin, used = time.perf_counter(), time.process_time()
        with ThreadPoolExecutor(len(work["requests"])) as pool:
            tokens = sum(pool.map(one, work["requests"]))
        laps = (time.perf_counter() - begin, time.process_time() - used)
        best = [max(known, tokens / lap) for known, lap in zip(best, laps, strict=True)]
    return {"tokens/s": round(best[0], 1), "tokens/processor second": round(best[1], 1)}


def main(folder: Path, work: Path) -> None:
    wanted = json.loads(work.read_text())
    with tempfile.TemporaryDirectory() as place:
        convert(folder, Path(place) / "model.gguf")
        found = measure(serve(Path(place) / "model.gguf", wanted), wanted)
    print(json.dumps(found | {"versions": {"xllamacpp": version("xllamacpp")}}), flush=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
