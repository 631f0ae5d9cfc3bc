"""Remake `tiny-lm/` from this package alone: grammar -> tokenizer -> model -> rounding table.

    python -m compressor.builtin.train

Everything is seeded. The text and the tokenizer come out the same on every machine; the weights do so on the same
machine and version of PyTorch, elsewhere they differ as the order of float additions does.
"""

import copy
import logging
import math
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn import Linear
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from compressor.builtin import CALIBRATION, HELDOUT, TINY_LM
from compressor.builtin.grammar import documents

BOS, EOS = "<s>", "</s>"
TRAINING_SEED, CALIBRATION_SEED, HELDOUT_SEED = 1, 2, 3
TRAINING_DOCUMENTS = 36_000  # 6.4 million tokens, each seen once
TOKENIZER_DOCUMENTS = 10_000
SPLIT_DOCUMENTS = 480  # in calibration, and as many held out: about 84,000 tokens each
CONTEXT = 512
BATCH = 4  # windows of CONTEXT tokens: a model this small learns more from many small steps
WARMUP_STEPS = 100
PEAK_LEARNING_RATE = 4e-3
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

log = logging.getLogger(__name__)


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(2)
    start = time.monotonic()

    calibration = list(fresh(CALIBRATION_SEED, SPLIT_DOCUMENTS, seen=set()))
    heldout = list(fresh(HELDOUT_SEED, SPLIT_DOCUMENTS, seen=set(calibration)))
    training = list(fresh(TRAINING_SEED, TRAINING_DOCUMENTS, seen={*calibration, *heldout}))
    tokenizer = train_tokenizer(training[:TOKENIZER_DOCUMENTS])
    model = train_model(pack(tokenizer, training))
    minutes = (time.monotonic() - start) / 60

    TINY_LM.mkdir(exist_ok=True)
    CALIBRATION.write_text("".join(f"{line}\n" for line in calibration))
    HELDOUT.write_text("".join(f"{line}\n" for line in heldout))
    tokenizer.save_pretrained(TINY_LM)
    model.half().save_pretrained(TINY_LM)
    (TINY_LM / "model.safetensors").chmod(0o644)  # safetensors writes 0600; an installed package is for everybody
    (TINY_LM / "README.md").write_text(readme(minutes))


# --- text ---------------------------------------------------------------------------------------------------------


def fresh(seed: int, count: int, seen: set[str]) -> Iterator[str]:
    """The documents of `seed` without those already `seen` elsewhere."""
    return (line for line in documents(seed, count) if line not in seen)


def train_tokenizer(lines: Sequence[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE of 512 tokens: <s> is 0, </s> is 1, then 256 bytes, then merges. It adds nothing by itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=[BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=EOS, model_max_length=CONTEXT
    )


def pack(tokenizer: PreTrainedTokenizerFast, lines: Sequence[str]) -> Tensor:
    """<s> document </s> <s> document </s> ... cut into windows  # [windows, CONTEXT]"""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    tokens = list(chain.from_iterable([bos, *ids, eos] for ids in tokenizer(list(lines))["input_ids"]))
    return torch.tensor(tokens[: len(tokens) // CONTEXT * CONTEXT]).view(-1, CONTEXT)


# --- model --------------------------------------------------------------------------------------------------------


def train_model(windows: Tensor) -> LlamaForCausalLM:
    """One pass over `windows` in a seeded order."""
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=512,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=5,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=CONTEXT,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
    # No weight decay: nothing is seen twice, and weights left to grow feel rounding as a real model's do.
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    batches = torch.split(windows[torch.randperm(len(windows))], BATCH)
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, len(batches))
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            log.info("step %d of %d: loss %.4f", step, len(batches), loss.item())
    return model


def learning_rate(step: int, steps: int) -> float:
    """Up in a line, down along half a cosine, to zero."""
    if step < WARMUP_STEPS:
        return PEAK_LEARNING_RATE * (step + 1) / WARMUP_STEPS
    return PEAK_LEARNING_RATE * (1 + math.cos(math.pi * (step - WARMUP_STEPS) / (steps - WARMUP_STEPS))) / 2


# --- what rounding costs ------------------------------------------------------------------------------------------


@torch.inference_mode()
def perplexity(model: LlamaForCausalLM, windows: Sequence[Tensor]) -> float:
    """exp(total negative log likelihood / total predicted tokens), each window from its BOS on its own."""
    nll, predicted = 0.0, 0
    for window in windows:
        logits = model(input_ids=window[None], use_cache=False).logits[0, :-1]
        nll += cross_entropy(logits.double(), window[1:], reduction="sum").item()
        predicted += len(window) - 1
    return math.exp(nll / predicted)


def rounded(weight: Tensor, bits: int, group: int) -> Tensor:
    """Symmetric rounding along the input: scale = max|w| / (2^(bits-1) - 1) for every `group` weights of a row."""
    grouped = weight.view(len(weight), -1, group)  # [out, groups, group]
    scale = grouped.abs().amax(dim=-1, keepdim=True) / (2.0 ** (bits - 1) - 1)
    return ((grouped / scale).round() * scale).view_as(weight)


def with_rounded_projections(model: LlamaForCausalLM, bits: int, group: int | None) -> LlamaForCausalLM:
    """A copy with the seven projections of every layer rounded; without `group`, one scale a channel."""
    spoiled = copy.deepcopy(model)
    for name, module in spoiled.named_modules():
        if isinstance(module, Linear) and name.endswith(PROJECTIONS):
            module.weight.data = rounded(module.weight.data, bits, group or module.in_features)
    return spoiled


# --- README -------------------------------------------------------------------------------------------------------


def readme(minutes: float) -> str:
    """Measured on the files as they lie on disk."""
    tokenizer = AutoTokenizer.from_pretrained(TINY_LM)
    model = AutoModelForCausalLM.from_pretrained(TINY_LM, dtype=torch.float32)
    lines = HELDOUT.read_text().splitlines()
    windows = [torch.tensor([tokenizer.bos_token_id, *tokenizer.encode(line)][:CONTEXT]) for line in lines]
    rows = [
        (bits, *(perplexity(with_rounded_projections(model, bits, group), windows) for group in (32, None)))
        for bits in (8, 4, 3)
    ]
    table = "\n".join(f"| {bits} | {grouped:.4f} | {channel:.4f} |" for bits, grouped, channel in rows)
    return README.format(
        parameters=model.num_parameters(),
        weights_mb=(TINY_LM / "model.safetensors").stat().st_size / 1e6,
        calibration=describe(tokenizer, CALIBRATION),
        heldout=describe(tokenizer, HELDOUT),
        predicted=sum(len(window) - 1 for window in windows),
        perplexity=perplexity(model, windows),
        table=table,
        minutes=minutes,
    )


def describe(tokenizer: PreTrainedTokenizerFast, path: Path) -> str:
    lines = path.read_text().splitlines()
    tokens = sum(map(len, tokenizer(lines)["input_ids"]))
    return f"{len(lines)} documents, {path.stat().st_size / 1e3:.0f} KB, {tokens:,} tokens"


README = """\
# tiny-lm

A language model of {parameters:,} parameters, trained on text that `compressor/builtin/grammar/` writes: short
English-like documents with agreement, nesting, counting, and people and things that recur. Text and weights are ours;
nothing in here was copied or downloaded. It is `builtin:tiny-lm`, the model that every command can take without a
network.

`make model` (`python -m compressor.builtin.train`) remakes this directory, this file included; the last time took
{minutes:.0f} minutes on two cores. Text and tokenizer come out the same everywhere, the weights on the same machine.

| what | is |
|---|---|
| architecture | Llama: 5 layers, hidden 128, 4 heads of 32, 2 key-value heads, MLP 384, context 512, tied embeddings |
| tokenizer | byte-level BPE, vocabulary 512, `<s>` is 0, `</s>` is 1; BOS is not added by itself |
| `model.safetensors` | float16, {weights_mb:.2f} MB |
| `calibration.txt` | {calibration} |
| `heldout.txt` | {heldout} |

A document is a line. The two files share none, and the training text contains none of either.

## What rounding does to it

Perplexity on `heldout.txt` in float32: **{perplexity:.4f}**. Each line is one window, BOS prepended, at most 512
tokens, EOS not included; total negative log likelihood over {predicted:,} predicted tokens.

The seven projections of every layer rounded, symmetric, scale = max|w| / (2^(bits-1) - 1) along the input:

| bits | groups of 32 | per channel |
|---|---|---|
{table}
"""


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    main()
