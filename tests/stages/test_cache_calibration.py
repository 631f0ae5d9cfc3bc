"""When what is packaged depends on the calibration text: with a pool of codes, and only then."""

from __future__ import annotations

from pathlib import Path

import pytest

from compressor.recipe import recipe
from compressor.recipe.recipe import Recipe
from compressor.stages import cache_calibration, keys


def wish(cache: str | None, *, samples: int = 4, paged: bool = True) -> Recipe:
    package = {"kv_cache": cache} if paged else {"paged": False}
    calibration = {"source": "builtin", "samples": samples}
    return recipe.build({"model": "x", "target": "cpu", "package": package, "calibration": calibration})


@pytest.mark.parametrize(("cache", "depends"), [("int8", True), ("float16", False), (None, False)])
def test_the_key_of_a_package_depends_on_text_where_the_pool_holds_codes(cache: str | None, depends: bool) -> None:
    one, other = (keys.package("optimized", "quantized", wish(cache, samples=count))[0] for count in (4, 5))
    assert (one != other) == depends


@pytest.mark.parametrize("cache", [None, "float32", "float16"])
def test_no_text_is_read_for_a_pool_of_floats(cache: str | None, tmp_path: Path) -> None:
    """Nothing lies in the folder: whoever opened a graph there would fail."""
    assert cache_calibration.read(tmp_path, wish(cache)) is None
    assert cache_calibration.kept(tmp_path, wish(cache), None) == cache


def test_without_a_twin_there_is_no_text(tmp_path: Path) -> None:
    assert cache_calibration.read(tmp_path, wish(None, paged=False)) is None
