"""What a recipe can name, one line a part. Nothing is imported until it is asked for; a test resolves every line."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

TARGETS = ("generic", "cpu", "cuda", "tensorrt")
ANYWHERE = TARGETS
CONTRIB = ("cpu", "cuda")  # ONNX Runtime's own operators; generic and TensorRT run the standard ones alone


class GraphPass(NamedTuple):
    """Where a pass stands, the targets that want it, and why they do."""

    where: str
    targets: tuple[str, ...]
    why: str
    needs: str = ""  # operators without one of which it has nothing to do, and is not even loaded


# In the order they run: formulas are read as exporters write them, before the rest takes them apart.
PASSES = {
    "import-normalization": GraphPass(
        "passes.import_normalization:ImportNormalization", ANYWHERE, "one form for all that follows, and one that loads"
    ),
    "dropout-removal": GraphPass(
        "passes.dropout_removal:DropoutRemoval", ANYWHERE, "inference drops nothing; the node only copies"
    ),
    "constant-folding": GraphPass(
        "passes.constant_folding:ConstantFolding", ANYWHERE, "computed once here instead of at every call"
    ),
    "sequence-splitting": GraphPass(
        "passes.sequence_splitting:SequenceSplitting",
        ANYWHERE,
        "no provider but the CPU has sequences",
        needs="SplitToSequence",
    ),
    "gemm-unflattening": GraphPass(
        "passes.gemm_unflattening:GemmUnflattening",
        ANYWHERE,
        "rows are neither joined nor parted, and the bias goes on into what follows; before the fusions that take it",
        needs="Reshape",
    ),
    "truth-elimination": GraphPass(
        "passes.truth_elimination:TruthElimination",
        ANYWHERE,
        "a mask that hides nothing need not be computed",
        needs="Expand",
    ),
    "opset-raising": GraphPass(
        "passes.opset_raising:OpsetRaising", CONTRIB, "norms and rotations are operators from opset 23 on"
    ),
    "layer-normalization-fusion": GraphPass(
        "passes.layer_normalization_fusion:LayerNormalizationFusion",
        ANYWHERE,
        "one sweep over memory instead of nine; before RMSNormalization, which would take its second half",
        needs="Sqrt",
    ),
    "rms-normalization-fusion": GraphPass(
        "passes.rms_normalization_fusion:RmsNormalizationFusion",
        ANYWHERE,
        "one sweep over memory instead of six",
        needs="Sqrt",
    ),
    "rotary-embedding-fusion": GraphPass(
        "passes.rotary_embedding_fusion:RotaryEmbeddingFusion",
        ANYWHERE,
        "one sweep over memory instead of six",
        needs="Concat",
    ),
    "group-query-attention-fusion": GraphPass(
        "passes.group_query_attention_fusion:GroupQueryAttentionFusion",
        CONTRIB,
        "no repeated keys and no stored scores; tiled for long prompts on the CPU, flash on CUDA",
        needs="Attention Softmax",
    ),
    "multi-head-attention-fusion": GraphPass(
        "passes.multi_head_attention_fusion:MultiHeadAttentionFusion",
        CONTRIB,
        "heads are neither split nor copied",
        needs="Attention Softmax",
    ),
    "attention-fusion": GraphPass(
        "passes.attention_fusion:AttentionFusion",
        ("generic",),
        "one operator instead of eight; TensorRT's parser has it from 10.14 on only, and fuses the written-out form",
        needs="Attention Softmax",
    ),
    "gelu-fusion": GraphPass(
        "passes.gelu_fusion:GeluFusion",
        ("generic", *CONTRIB),
        "one sweep instead of five; TensorRT fuses the written-out form itself",
        needs="Erf Tanh",
    ),
    "attention-bias-fusion": GraphPass(
        "passes.attention_bias_fusion:AttentionBiasFusion",
        CONTRIB,
        "biases are added while heads are moved: 0.96 of the time at 128 tokens, three nodes fewer",
    ),
    "bias-gelu-fusion": GraphPass(
        "passes.bias_gelu_fusion:BiasGeluFusion",
        CONTRIB,
        "one sweep instead of two, of the widest value of a layer",
        needs="Gelu",
    ),
    "quick-gelu-fusion": GraphPass(
        "passes.quick_gelu_fusion:QuickGeluFusion", CONTRIB, "one sweep instead of three", needs="Sigmoid"
    ),
    "noop-elimination": GraphPass(
        "passes.noop_elimination:NoopElimination", ANYWHERE, "what returns its input only costs a call"
    ),
    "initial-state-removal": GraphPass(
        "passes.initial_state_removal:InitialStateRemoval",
        ANYWHERE,
        "zeros for every batch need not be made at every call",
        needs="GRU LSTM RNN",
    ),
    "shape-arithmetic": GraphPass(
        "passes.shape_arithmetic:ShapeArithmetic", ANYWHERE, "known shapes need no nodes; TensorRT needs them known"
    ),
    "reshape-merging": GraphPass(
        "passes.reshape_merging:ReshapeMerging",
        ANYWHERE,
        "one change of shape instead of several",
        needs="Flatten Reshape Squeeze Unsqueeze",
    ),
    "concat-merging": GraphPass(
        "passes.concat_merging:ConcatMerging", ANYWHERE, "every piece is copied once instead of twice", needs="Concat"
    ),
    "grid-slicing": GraphPass(
        "passes.grid_slicing:GridSlicing",
        ANYWHERE,
        "one cut instead of indices for each entry, and ten nodes fewer",
        needs="GatherND",
    ),
    "gather-simplification": GraphPass(
        "passes.gather_simplification:GatherSimplification",
        ANYWHERE,
        "rows are copied whole, not entry by entry",
        needs="GatherND",
    ),
    "slice-splitting": GraphPass(
        "passes.slice_splitting:SliceSplitting",
        ANYWHERE,
        "one walk over the value instead of one for each piece",
        needs="Slice",
    ),
    "slice-merging": GraphPass(
        "passes.slice_merging:SliceMerging", ANYWHERE, "what is cut away is never copied", needs="Slice"
    ),
    "cast-merging": GraphPass(
        "passes.cast_merging:CastMerging", ANYWHERE, "one change of type instead of several", needs="Cast CastLike"
    ),
    "transpose-merging": GraphPass(
        "passes.transpose_merging:TransposeMerging",
        ANYWHERE,
        "a Transpose moves every byte; two may undo each other",
    ),
    "requantization-removal": GraphPass(
        "passes.requantization_removal:RequantizationRemoval",
        ANYWHERE,
        "codes that come back unchanged need no float between",
        needs="QuantizeLinear",
    ),
    "transpose-cancelling": GraphPass(
        "passes.transpose_cancelling:TransposeCancelling",
        ANYWHERE,
        "two walks over memory less; what is constant between them is moved here",
        needs="Transpose",
    ),
    "transpose-recovery": GraphPass(
        "passes.transpose_recovery:TransposeRecovery", ANYWHERE, "one Transpose instead of one between two Reshapes"
    ),
    "expand-elimination": GraphPass(
        "passes.expand_elimination:ExpandElimination",
        ANYWHERE,
        "the operator behind it broadcasts, and nothing is copied",
    ),
    "branch-folding": GraphPass(
        "passes.branch_folding:BranchFolding",
        ANYWHERE,
        "an If that always goes one way hides its nodes",
        needs="If Loop",
    ),
    "pad-fusion": GraphPass(
        "passes.pad_fusion:PadFusion",
        ANYWHERE,
        "a Pad copies the whole tensor to add a border",
        needs="AveragePool Conv MaxPool",
    ),
    "batchnorm-fusion": GraphPass(
        "passes.batchnorm_fusion:BatchNormFusion",
        ANYWHERE,
        "one product instead of a product and a sweep",
        needs="BatchNormalization",
    ),
    "affine-fusion": GraphPass(
        "passes.affine_fusion:AffineFusion",
        ANYWHERE,
        "a factor or summand for each channel is free in a weight",
    ),
    "factor-merging": GraphPass(
        "passes.factor_merging:FactorMerging",
        ANYWHERE,
        "one sweep instead of two; what no weight has taken in by now",
        needs="Div Mul",
    ),
    "gemm-fusion": GraphPass(
        "passes.gemm_fusion:GemmFusion", ANYWHERE, "product and bias in one call", needs="Add Gemm"
    ),
    "activation-merging": GraphPass(
        "passes.activation_merging:ActivationMerging",
        ANYWHERE,
        "one limit instead of two sweeps",
        needs="Clip Max Min Relu",
    ),
    "initializer-sharing": GraphPass(
        "passes.initializer_sharing:InitializerSharing", ANYWHERE, "equal weights are stored and cached once"
    ),
    "common-subexpression-elimination": GraphPass(
        "passes.common_subexpression_elimination:CommonSubexpressionElimination",
        ANYWHERE,
        "what is computed twice is computed once",
    ),
    "skip-normalization-fusion": GraphPass(
        "passes.skip_normalization_fusion:SkipNormalizationFusion",
        ("cuda",),
        "sum and norm in one sweep; on the CPU, at 128 tokens, the two apart take 0.15 to 0.9 of its time",
        needs="LayerNormalization RMSNormalization",
    ),
    "norm-separation": GraphPass(
        "passes.norm_separation:NormSeparation",
        ("cpu",),
        "keeps ONNX Runtime from joining sum and norm, which on the CPU takes up to six times as long",
        needs="LayerNormalization",
    ),
    "constant-outputs": GraphPass(
        "passes.constant_outputs:ConstantOutputs", ANYWHERE, "an output that never changes needs no node"
    ),
    "dead-node-elimination": GraphPass(
        "passes.dead_node_elimination:DeadNodeElimination", ANYWHERE, "what nobody reads is not computed"
    ),
}

# What others fuse and these passes leave; ONNX Runtime 1.31, one thread of the CPU (tests/bench/results/README.md):
#   q, k and v, or gate and up, as one float product    0.88 to 1.26 of the time, mostly above 1; it is done for int8
#                       activations, after quantization (PACKING)
#   the projections inside com.microsoft.Attention    0.96 to 0.98 of the time; no weight could be rounded any more
#   EmbedLayerNormalization    saves half a millisecond a call of 128 x 768; no table could be rounded any more
#   rotation inside GroupQueryAttention    wants a table of all positions, which a graph that computes angles has not
#   MoE and QMoE    experts are batched products here, each matrix read once (compressor/export/experts.py)
#   logits of the last token alone    would change what the graph answers

SOLVERS = ("rtn", "gptq")  # methods that put each weight on a grid


class Format(NamedTuple):
    """Where a package format stands, the targets that run it, what it can hold, and what it is for."""

    where: str
    targets: tuple[str, ...]
    cells: Mapping[int, int]  # bits of a code -> bits it is stored in
    groups: tuple[int | str, ...]
    why: str
    half_scales: bool = False  # scales are stored, and therefore fitted, as float16
    checkpoint: bool = False  # safetensors under the checkpoint's names instead of a graph


GROUPS = (-1, 16, 32, 64, 128, 256)  # rows that share a scale; -1 per channel

FORMATS = {
    "matmulnbits": Format(
        "compressor.package.matmulnbits:replace_linears",
        ("generic", *CONTRIB),
        {8: 8, 4: 4, 3: 4, 2: 2},
        (*GROUPS, "tensor"),
        "ONNX Runtime's weight-only product",
    ),
    "qdq": Format(
        "compressor.package.qdq:replace_linears",
        ANYWHERE,
        {8: 8, 4: 4, 3: 4, 2: 4},  # int2 begins with opset 25, which few engines read
        (*GROUPS, "tensor"),
        "DequantizeLinear and MatMul: standard operators for any engine",
    ),
    "gptq": Format(
        "compressor.package.gptq:LAYOUT",
        ("generic", *CONTRIB),
        {8: 8, 4: 4, 2: 2},
        GROUPS,
        "safetensors for transformers, vLLM and onnxruntime-genai's builder; GPTQModel takes absmax alone",
        half_scales=True,
        checkpoint=True,
    ),
    "compressed_tensors": Format(
        "compressor.package.compressed_tensors:LAYOUT",
        ("generic", *CONTRIB),
        {8: 8, 4: 4},
        GROUPS,
        "safetensors for transformers and vLLM",
        checkpoint=True,
    ),
}

# The format of a target whose recipe names none.
FORMAT_OF = {"generic": "qdq", "cpu": "matmulnbits", "cuda": "matmulnbits", "tensorrt": "qdq"}

# Kind of source, or the exporter that its task names.
EXPORTERS = {
    "causal-lm": "compressor.export.causal_lm:prepare",
    "causal-lm-without-past": "compressor.export.causal_lm:without_past",
    "encoder": "compressor.export.encoder:prepare",
    "seq2seq": "compressor.export.seq2seq:prepare",
    "torch-module": "compressor.export.torch_module:prepare",
    "torch-program": "compressor.export.program_file:prepare",
    "onnx-file": "compressor.export.onnx_file:prepare",
}

FACTORIES = "compressor.export.torch_module:find"  # torch:package.module:factory

# Methods that write a quantized graph themselves, instead of a QTensor for each weight.
REWRITERS = {
    "none": "compressor.quantize.rewriters.keep:quantize",
    "static_qdq": "compressor.quantize.rewriters.static_qdq:quantize",
}
OWN_FORMAT = ("dynamic", "llm_int8", "nf4", "fp4")  # methods whose tensors one operator alone computes with

# What is done to the float graph before its weights are rounded, in this order -> the methods it serves, and the one
# that follows where none is named.
PREPARATIONS = {
    "rotations": ("rtn", "gptq", "dynamic", "static_qdq"),
    "awq": ("rtn", "gptq"),
    "smoothquant": ("static_qdq", "dynamic"),
}

PACKING = "passes.projection_packing:ProjectionPacking"  # after quantization, which works projection by projection
# Formats that hold tables of embeddings.
TABLES = {
    "matmulnbits": "compressor.package.embeddings:replace_tables",
    "qdq": "compressor.package.qdq_embeddings:replace_tables",
}

METHODS = (*SOLVERS, *OWN_FORMAT, *REWRITERS)
CALIBRATED = ("gptq", "llm_int8", "static_qdq")  # methods that look at data

MODELS = {
    "builtin:tiny-lm": "compressor.builtin:TINY_LM",
}


def passes_for(target: str) -> tuple[str, ...]:
    """The passes that a target wants, in the order they run."""
    return tuple(name for name, entry in PASSES.items() if target in entry.targets)


def resolve(target: str) -> Any:
    """`module:name` -> the object."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
