"""What an artifact holds is told line by line: many entries of a cache in one, and two inputs never in one."""

from __future__ import annotations

import onnx_ir as ir

from compressor import inspection


def test_a_cache_is_a_line_and_numbered_inputs_are_lines_of_their_own() -> None:
    names = ("past_key_values.0.key", "past_key_values.11.key", "present.3.encoder.value", "input.1", "input.2", "495")
    values = [ir.Value(name=name, shape=ir.Shape([1])) for name in names]
    told = ["past_key_values.N.key", "present.N.encoder.value", "input.1", "input.2", "495"]
    assert list(inspection.interface(values)) == told


def test_a_free_axis_names_the_cache_once() -> None:
    names = ("past_key_values.0.key", "past_key_values.1.key", "x")
    values = [ir.Value(name=name, shape=ir.Shape(["batch", 2])) for name in names]
    assert inspection._dynamic_axes(values) == {"batch": "past_key_values.N.key[0], x[0]"}
