"""A backend's options say what the graph says: its precisions, its free axes, and where its engines are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compressor.errors import RequestError
from compressor.graph.session import ON_CPU
from compressor.providers import backends
from tests import graphs

PROFILE = {"x": {"min": [1, 3], "opt": [1, 3], "max": [8, 3]}}
QDQ = "(float[N,3] x) => (float[N,3] y) { q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }"


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("(float[2,3] x) => (float[2,3] y) { y = Neg(x) }", "000"),
        ("(float16[2,3] x) => (float16[2,3] y) { y = Neg(x) }", "100"),
        ("(bfloat16[2,3] x) => (bfloat16[2,3] y) { y = Neg(x) }", "010"),
        (QDQ, "001"),
    ],
)
def test_the_builder_may_use_the_precisions_of_the_graph_and_no_other(text: str, flags: str, tmp_path: Path) -> None:
    model = graphs.build(text, s=np.float32(0.1), z=np.int8(0)) if text is QDQ else graphs.build(text)
    options = backends.tensorrt_options(model, tmp_path / "engines", PROFILE)
    assert "".join(options[f"trt_{name}_enable"] for name in ("fp16", "bf16", "int8")) == flags


def test_engines_and_profiles_are_kept(tmp_path: Path) -> None:
    model = graphs.build("(float[N,3] x) => (float[N,3] y) { y = Neg(x) }")
    options = backends.tensorrt_options(model, backends.engines_beside(tmp_path / "a"), PROFILE)
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == str(tmp_path / "a.engines")
    assert (tmp_path / "a.engines").is_dir()
    shapes = [options[f"trt_profile_{which}_shapes"] for which in ("min", "opt", "max")]
    assert shapes == ["x:1x3", "x:1x3", "x:8x3"]


def test_a_free_axis_without_a_profile_is_refused(tmp_path: Path) -> None:
    model = graphs.build("(float[N,3] x, float[2] w) => (float[N,3] y) { y = Neg(x) }")
    with pytest.raises(RequestError, match="shape profile for x; "):
        backends.tensorrt_options(model, tmp_path, {})


def test_an_artifact_for_anywhere_is_at_home_on_the_cpu(tmp_path: Path) -> None:
    assert backends.at_hand("generic") == ("cpu", ())
    assert backends.find("cpu", tmp_path / "any.onnx", engines=tmp_path, profiles={}) == ON_CPU
