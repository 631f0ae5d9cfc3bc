"""Small ONNX graphs, each with one thing about it that has broken an optimizer somewhere.

    graphs.conv_batchnorm(training_mode=1)      a builder, with its trap as an argument
    graphs.GRAPHS["batchnorm_trains"]()         the same from the catalog, which the laws walk through

Written in the text form of the standard (onnx.parser), so that a graph can be read. Opset and IR version are always
set: the defaults of the onnx package are newer than what ONNX Runtime loads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

from passes.import_normalization import ImportNormalization


def build(text: str, opset: int = 17, ir_version: int = 10, **weights: np.ndarray) -> ir.Model:
    """Parse `text`; the keyword arguments become initializers of the main graph."""
    proto = onnx.parser.parse_model(f'<ir_version: {ir_version}, opset_import: ["": {opset}]> g {text}')
    tensors = [ir.tensor(np.asarray(array), name=name) for name, array in weights.items()]
    proto.graph.initializer.extend(ir.to_proto(tensor) for tensor in tensors)
    return ir.from_proto(proto)


def typed(text: str, opset: int = 17, **weights: np.ndarray) -> ir.Model:
    """`build`, with the types and shapes that follow, as all passes but the first find them."""
    model = build(text, opset, **weights)
    ImportNormalization()(model)
    return model


def inferred(text: str, opset: int, **weights: np.ndarray) -> ir.Model:
    """`build`, with the shapes that follow, as an exporter states them; behind ONNX Runtime's operators none do."""
    model = build(text, opset, **weights)
    if "com.microsoft" in text:
        model.opset_imports["com.microsoft"] = 1
    proto = onnx.shape_inference.infer_shapes(ir.to_proto(model), check_type=True, strict_mode=True, data_prop=True)
    return ir.from_proto(proto)


def normal(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(dtype)


# --- Dropout ---------------------------------------------------------------------------------------------------------


def dropout(opset: int, mask_is_read: bool = False, attributes: str = "", inputs: str = "h") -> ir.Model:
    """`inputs` may name: zero, half (ratios), yes, no (training modes)."""
    mask_type = "float" if opset < 10 else "bool"
    return build(
        f"""(float[N,3] x) => (float[N,3] y {f", {mask_type}[N,3] mask" if mask_is_read else ""}) {{
            h = Neg(x)
            d {", mask" if mask_is_read else ""} = Dropout{attributes}({inputs})
            y = Exp(d)
        }}""",
        opset,
        zero=np.float32(0),
        half=np.float32(0.5),
        yes=np.array(True),
        no=np.array(False),
    )


def dropout_mode_is_an_input() -> ir.Model:
    return build(
        "(float[N,3] x, bool train) => (float[N,3] y) { d = Dropout<seed = 1>(x, half, train)  y = Neg(d) }",
        half=np.float32(0.5),
    )


def dropout_is_all() -> ir.Model:
    """From a graph input straight to a graph output: one of the two would lose its name."""
    return build("(float[N,3] x) => (float[N,3] y) { y = Dropout(x) }")


def dropout_between_outputs() -> ir.Model:
    return build("(float[N,3] x) => (float[N,3] h, float[N,3] y, bool[N,3] m) { h = Neg(x)  y, m = Dropout(h) }")


def dropout_in_branch() -> ir.Model:
    """The branch's output is the Dropout of a captured value, which no branch may output directly."""
    return build(
        """(float[N,3] x, bool c) => (float[N,3] y) {
            h = Neg(x)
            y = If (c) <then_branch = t () => (float[N,3] a) { a = Dropout(h) },
                        else_branch = e () => (float[N,3] b) { d = Dropout(h)  b = Exp(d) }>
        }"""
    )


# --- Conv + BatchNormalization ---------------------------------------------------------------------------------------

BATCHNORM = "y = BatchNormalization(c, gamma, beta, mean, variance)"


def batchnorm_weights(channels: int = 4, dtype: type = np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(channels)
    gamma, beta, mean = rng.normal(size=(3, channels)).astype(dtype)
    return {"gamma": gamma, "beta": beta, "mean": mean, "variance": rng.uniform(0.5, 2, channels).astype(dtype)}


def build_batchnorm(text: str, opset: int = 17, ir_version: int = 10, **weights: np.ndarray) -> ir.Model:
    """`build`, with a convolution of 4 channels from 2 and its parameters; keyword arguments replace single weights."""
    every = {"w": normal(4, 2, 3, 3), "b": normal(4), **batchnorm_weights(), **weights}
    return build(text.replace("BATCHNORM", BATCHNORM), opset, ir_version, **every)


def conv_batchnorm(
    opset: int = 17, conv: str = "Conv(x, w, b)", attributes: str = "", ir_version: int = 10, **weights: np.ndarray
) -> ir.Model:
    text = f"(float[N,2,5,5] x) => (float[N,4,3,3] y) {{ c = {conv}  BATCHNORM }}"
    text = text.replace("BATCHNORM", BATCHNORM.replace("(", f"{attributes}(", 1))
    return build_batchnorm(text, opset, ir_version, **weights)


def conv_transpose_batchnorm_grouped() -> ir.Model:
    """W is [C, M/g, kH, kW] with C = 4, g = 2, M = 6: its output channels do not lie on one axis."""
    text = "(float[N,4,3,3] x) => (float[N,6,4,4] y) { c = ConvTranspose<group = 2>(x, w, b)  BATCHNORM }"
    return build_batchnorm(text, w=normal(4, 3, 2, 2), b=normal(6), **batchnorm_weights(6))


def conv_batchnorm_grouped() -> ir.Model:
    return conv_batchnorm(conv="Conv<group = 2>(x, w, b)", w=normal(4, 1, 3, 3))


def conv_batchnorm_mixed_types() -> ir.Model:
    """float16 data, float32 parameters: legal since opset 15."""
    text = "(float16[N,2,5,5] x) => (float16[N,4,3,3] y) { c = Conv(x, w)  BATCHNORM }"
    return build_batchnorm(text, w=normal(4, 2, 3, 3, dtype=np.float16))


def conv_batchnorm_overflow() -> ir.Model:
    """Scales a float16 weight to 1e6, past its largest number."""
    text = "(float16[N,2,5,5] x) => (float16[N,4,3,3] y) { c = Conv(x, w)  BATCHNORM }"
    weights = {**batchnorm_weights(dtype=np.float16), "gamma": np.full(4, 1e4, np.float16)}
    return build_batchnorm(text, w=normal(4, 2, 3, 3, dtype=np.float16) * 100, **weights)


def conv_batchnorm_weight_is_an_input() -> ir.Model:
    """The weight has a default, and the caller may pass another."""
    return build_batchnorm("(float[N,2,5,5] x, float[4,2,3,3] w) => (float[N,4,3,3] y) { c = Conv(x, w)  BATCHNORM }")


def conv_batchnorm_trains() -> ir.Model:
    """Only Y is read, and it is computed from the batch all the same."""
    return build_batchnorm(
        """(float[N,2,5,5] x) => (float[N,4,3,3] y) {
            c = Conv(x, w)  y, m, v = BatchNormalization<training_mode = 1>(c, gamma, beta, mean, variance)
        }"""
    )


def conv_batchnorm_statistics_are_read() -> ir.Model:
    """Before opset 14 the outputs after the first say that it trains; ONNX Runtime does not care, and computes Y."""
    return build_batchnorm(
        """(float[N,2,5,5] x) => (float[N,4,3,3] y) {
            c = Conv(x, w)  y, m, v, sm, sv = BatchNormalization(c, gamma, beta, mean, variance)
        }""",
        opset=9,
    )


def conv_result_is_an_output() -> ir.Model:
    return build_batchnorm("(float[N,2,5,5] x) => (float[N,4,3,3] y, float[N,4,3,3] c) { c = Conv(x, w)  BATCHNORM }")


def conv_result_is_captured() -> ir.Model:
    """A branch reads the convolution's result: a second reader that no list of node inputs shows."""
    return build_batchnorm(
        """(float[N,2,5,5] x, bool c0) => (float[N,4,3,3] y, float[N,4,3,3] z) {
            c = Conv(x, w)
            BATCHNORM
            z = If (c0) <then_branch = t () => (float[N,4,3,3] n) { n = Neg(c) },
                         else_branch = e () => (float[N,4,3,3] k) { k = Exp(y) }>
        }"""
    )


def batchnorm_in_branch() -> ir.Model:
    """The Conv stands outside, and only one branch normalizes."""
    return build_batchnorm(
        """(float[N,2,5,5] x, bool c0) => (float[N,4,3,3] z) {
            c = Conv(x, w)
            z = If (c0) <then_branch = t () => (float[N,4,3,3] y) { BATCHNORM },
                         else_branch = e () => (float[N,4,3,3] k) { k = Expand(zero, shape) }>
        }""",
        zero=np.float32(0),
        shape=np.array([1, 4, 3, 3]),
    )


def convs_share_weight() -> ir.Model:
    """One weight, two convolutions, one BatchNormalization: the other convolution must not feel it."""
    return build_batchnorm(
        "(float[N,2,5,5] x) => (float[N,4,3,3] y, float[N,4,3,3] z) { c = Conv(x, w, b)  BATCHNORM  z = Conv(x, w, b) }"
    )


def conv_weight_is_dequantized() -> ir.Model:
    text = "(float[N,2,5,5] x) => (float[N,4,3,3] y) { v = DequantizeLinear(q, step)  c = Conv(x, v)  BATCHNORM }"
    return build_batchnorm(text, q=np.arange(72, dtype=np.int8).reshape(4, 2, 3, 3), step=np.float32(0.01))


# --- constants -------------------------------------------------------------------------------------------------------


def shape_from_constants() -> ir.Model:
    return build(
        "(float[2,6] x) => (float[2,3,2] y) { s = Concat<axis = 0>(a, b)  y = Reshape(x, s) }",
        a=np.array([2, 3]),
        b=np.array([-1]),
    )


def shape_of_static_input() -> ir.Model:
    return build(
        """(float[2,6] x) => (float[12] y) {
            s = Shape(x)  n = ReduceProd<keepdims = 1>(s)  y = Reshape(x, n)
        }"""
    )


def shape_of_dynamic_input() -> ir.Model:
    return build("(float[N,6] x) => (float[M] y) { s = Shape(x)  n = ReduceProd<keepdims = 1>(s)  y = Reshape(x, n) }")


def expand_to_a_weight() -> ir.Model:
    """4 bytes become 4 MB."""
    text = "(float[N,1024] x) => (float[N,1024] y) { w = Expand(one, shape)  y = MatMul(x, w) }"
    return build(text, one=np.float32(0.01).reshape(1, 1), shape=np.array([1024, 1024]))


def random_draws() -> ir.Model:
    """Constant inputs, and a result that is not; the seeds make the runs comparable."""
    return build(
        """(float[2,3] x) => (float[2,3] y) {
            b = Bernoulli<seed = 1.0>(p)  u = RandomUniform<shape = [2,3], seed = 2.0>()  s = Add(b, u)  y = Add(x, s)
        }""",
        p=np.full((2, 3), 0.5, np.float32),
    )


def quantized_weight() -> ir.Model:
    """Folding the DequantizeLinear would undo the quantization; its constant weight is four times as large."""
    return build(
        """(float[N,8] x) => (float[N,4] y) {
            d = DequantizeLinear<axis = 0>(q, step)  t = Transpose(d)  y = MatMul(x, t)
        }""",
        q=np.arange(32, dtype=np.int8).reshape(4, 8),
        step=normal(4),
    )


def int4_weight() -> ir.Model:
    """Two entries a byte; the Transpose belongs into the file."""
    return build(
        """(float[N,8] x) => (float[N,4] y) {
            t = Transpose(q)  d = DequantizeLinear<axis = 1>(t, step)  y = MatMul(x, d)
        }""",
        opset=21,
        q=(np.arange(32).reshape(4, 8) % 16 - 8).astype(ml_dtypes.int4),
        step=normal(4),
    )


def tied_embedding() -> ir.Model:
    """The head is the embedding transposed: one tensor of 32 KiB, and two once the Transpose is folded."""
    return build(
        "(int64[N] ids) => (float[N,128] y) { e = Gather(table, ids)  t = Transpose(table)  y = MatMul(e, t) }",
        table=normal(128, 64),
    )


def transposed_weight() -> ir.Model:
    """As PyTorch exports a Linear without optimization."""
    return build(
        "(float[N,64] x) => (float[N,128] y) { t = Transpose(weight)  y = MatMul(x, t) }", weight=normal(128, 64)
    )


def lstm_gates() -> ir.Model:
    """As PyTorch exports an LSTM: its gates cut out of the weight and put together in the order of ONNX."""
    return build(
        """(float[N,64] x) => (float[N,128] y) {
            i = Slice(weight, n0, n1, axis)  fc = Slice(weight, n1, n3, axis)  o = Slice(weight, n3, n4, axis)
            w = Concat<axis = 1>(i, o, fc)  y = MatMul(x, w)
        }""",
        weight=normal(64, 128),
        axis=np.array([1]),
        **{f"n{gate}": np.array([32 * gate]) for gate in (0, 1, 3, 4)},
    )


def weight_and_its_shape() -> ir.Model:
    """The Transpose is a second copy for as long as the Shape, a node later, reads the weight too."""
    return build(
        """(float[N,64] x) => (float[N,128] y, int64[2] z) {
            t = Transpose(weight)  y = MatMul(x, t)  s = Shape(weight)  r = Shape(y)  z = Add(r, s)
        }""",
        weight=normal(128, 64),
    )


def default_may_be_overridden() -> ir.Model:
    return build("(float[3] x, float[3] a) => (float[3] y) { s = Add(a, b)  y = Mul(x, s) }", a=normal(3), b=normal(3))


def infinity_from_finite() -> ir.Model:
    return build("(float[2] x) => (float[2] y) { l = Log(zero)  y = Max(x, l) }", zero=np.zeros(2, np.float32))


def masked_with_infinity() -> ir.Model:
    """An infinity that was there before may move."""
    return build(
        "(float[2,2] x) => (float[2,2] y) { m = Unsqueeze(mask, axis)  y = Add(x, m) }",
        mask=np.array([0, -np.inf], np.float32),
        axis=np.array([0]),
    )


def constants_in_branches() -> ir.Model:
    """Two branches with an initializer of the same name, and a constant captured from outside."""
    return build(
        """(float[2] x, bool c) => (float[2] y) {
            y = If (c) <then_branch = t () => (float[2] a) <float[2] k = {1, 2}> { s = Mul(k, outer)  a = Add(x, s) },
                        else_branch = e () => (float[2] b) <float[2] k = {3, 4}> { u = Neg(k)  b = Add(x, u) }>
        }""",
        outer=np.array([10, 20], np.float32),
    )


def constant_in_loop() -> ir.Model:
    return build(
        """(float[2] x) => (float[2] y) {
            y = Loop (trips, yes, x) <body = l (int64 i, bool go, float[2] s) => (bool on, float[2] r) {
                on = Identity(go)  step = Mul(k, k)  r = Add(s, step)
            }>
        }""",
        trips=np.array(3),
        yes=np.array(True),
        k=np.array([1, 2], np.float32),
    )


def constant_is_the_output() -> ir.Model:
    return build("(float[2] x) => (float[2] y, float[2] k) { k = Neg(a)  y = Add(x, k) }", a=normal(2))


def strings() -> ir.Model:
    text = """(bool[2] x) => (bool[2] y) {
        a = Constant<value_strings = ["p", "q"]>()  b = Constant<value_strings = ["p", "r"]>()
        e = Equal(a, b)  y = And(x, e)
    }"""
    return build(text, opset=19)


def constants_before_ir_4() -> ir.Model:
    """IR version 3 wants every initializer among the graph inputs, so a new one has nowhere to be."""
    text = """(float[2] x) => (float[2] y) {
        a = Constant<value = float[2] {1, 2}>()  b = Neg(a)  y = Add(x, b)
    }"""
    return build(text, opset=9, ir_version=3)


# --- dead code -------------------------------------------------------------------------------------------------------


def dead_chain() -> ir.Model:
    """An unread input stays, an unread default stays with its input; the rest of what nobody reads goes."""
    return build(
        """(float[2] x, float[2] unread, float[2] optional) => (float[2] y) {
            a = Neg(x)  b = Add(a, k)  c = Exp(b)  y = Abs(x)
        }""",
        k=normal(2),
        unused=normal(2),
        optional=normal(2),
    )


def dead_branches() -> ir.Model:
    """Nobody reads the If, so nobody reads what its branches capture; the other If has an unread initializer."""
    return build(
        """(float[2] x, bool c) => (float[2] y) {
            n = Neg(x)
            z = If (c) <then_branch = t () => (float[2] a) { a = Exp(n) },
                        else_branch = e () => (float[2] b) { b = Abs(n) }>
            y = If (c) <then_branch = t2 () => (float[2] a2) <float[2] k = {1, 2}> { dead = Neg(x)  a2 = Exp(x) },
                        else_branch = e2 () => (float[2] b2) { b2 = Abs(x) }>
        }"""
    )


def optional_outputs() -> ir.Model:
    return build(
        """(float[1,1,4,4] x, float[3,1,2] s) => (float[1,1,2,2] y, float[1,1,3] h) {
            y, indices = MaxPool<kernel_shape = [2,2], strides = [2,2]>(x)
            all, h, cell = LSTM<hidden_size = 3>(s, w, r)
        }""",
        w=normal(1, 12, 2),
        r=normal(1, 12, 3),
    )


GRAPHS: dict[str, Callable[[], ir.Model]] = {
    "batchnorm_dequantized_weight": conv_weight_is_dequantized,
    "batchnorm_empty_bias": partial(conv_batchnorm, conv='Conv(x, w, "")'),
    "batchnorm_grouped": conv_batchnorm_grouped,
    "batchnorm_grouped_transpose": conv_transpose_batchnorm_grouped,
    "batchnorm_in_branch": batchnorm_in_branch,
    "batchnorm_mixed_types": conv_batchnorm_mixed_types,
    "batchnorm_negative_variance": partial(conv_batchnorm, variance=np.array([1, 1, 0, 1], np.float32) - 1e-5),
    "batchnorm_no_bias": partial(conv_batchnorm, conv="Conv(x, w)"),
    "batchnorm_opset_6": partial(conv_batchnorm, opset=6, attributes="<is_test = 1>"),
    "batchnorm_opset_6_trains": partial(conv_batchnorm, opset=6),
    "batchnorm_opset_7": partial(conv_batchnorm, opset=7),
    "batchnorm_opset_9": partial(conv_batchnorm, opset=9),
    "batchnorm_overflow": conv_batchnorm_overflow,
    "batchnorm_plain": conv_batchnorm,
    "batchnorm_shared_weight": convs_share_weight,
    "batchnorm_statistics_are_read": conv_batchnorm_statistics_are_read,
    "batchnorm_trains": conv_batchnorm_trains,
    "batchnorm_weight_is_an_input": conv_batchnorm_weight_is_an_input,
    "constant_in_loop": constant_in_loop,
    "constant_is_the_output": constant_is_the_output,
    "constants_before_ir_4": constants_before_ir_4,
    "constants_in_branches": constants_in_branches,
    "conv_result_is_an_output": conv_result_is_an_output,
    "conv_result_is_captured": conv_result_is_captured,
    "dead_branches": dead_branches,
    "dead_chain": dead_chain,
    "default_may_be_overridden": default_may_be_overridden,
    "dropout_between_outputs": dropout_between_outputs,
    "dropout_in_branch": dropout_in_branch,
    "dropout_is_all": dropout_is_all,
    "dropout_mode_is_an_input": dropout_mode_is_an_input,
    "dropout_opset_6": partial(dropout, 6, attributes="<is_test = 1>"),
    "dropout_opset_6_trains": partial(dropout, 6),
    "dropout_opset_7": partial(dropout, 7),
    "dropout_opset_10": partial(dropout, 10, attributes="<ratio = 0.9>"),
    "dropout_opset_10_mask": partial(dropout, 10, mask_is_read=True),
    "dropout_opset_12": partial(dropout, 12, inputs="h, half, no"),
    "dropout_opset_13_mask": partial(dropout, 13, mask_is_read=True, inputs="h, half"),
    "dropout_opset_17_ratio_zero": partial(dropout, 17, mask_is_read=True, inputs="h, zero, yes"),
    "dropout_opset_17_trains": partial(dropout, 17, attributes="<seed = 1>", inputs="h, half, yes"),
    "expand_to_a_weight": expand_to_a_weight,
    "infinity_from_finite": infinity_from_finite,
    "int4_weight": int4_weight,
    "lstm_gates": lstm_gates,
    "masked_with_infinity": masked_with_infinity,
    "optional_outputs": optional_outputs,
    "quantized_weight": quantized_weight,
    "random_draws": random_draws,
    "shape_from_constants": shape_from_constants,
    "shape_of_dynamic_input": shape_of_dynamic_input,
    "shape_of_static_input": shape_of_static_input,
    "strings": strings,
    "tied_embedding": tied_embedding,
    "transposed_weight": transposed_weight,
    "weight_and_its_shape": weight_and_its_shape,
}
