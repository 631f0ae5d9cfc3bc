"""What a package for int8 activations is beside one without packed projections: the same, in fewer products."""

from __future__ import annotations

import numpy as np
import pytest

from compressor import catalog, inspection, pipeline, sources
from compressor.artifact import Artifact
from compressor.graph.decoder import Decoder
from compressor.graph.paged_decoder import PAGED_MODEL, PagedSession, Row
from compressor.graph.session import external_files, load_model, open_session
from compressor.recipe import recipe
from compressor.shelf import Shelf

PRODUCTS = {"unpacked": 7, "packed": 5}  # of each layer: queries, keys and values; gate and up stay two


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """The built-in model for int8 activations, as it is packaged and as it was before."""
    model, shelf = "builtin:tiny-lm", Shelf(tmp_path_factory.mktemp("stages"))
    options = recipe.build(
        {"model": model, "target": "cpu", "quantize": {"rtn": {"bits": 4}}, "package": {"accuracy_level": 4}}
    )
    optimized = pipeline.optimize(pipeline.export(sources.find(model), options, shelf), options, shelf)
    quantized, found = pipeline.quantize(optimized, options, shelf), {}
    for name in PRODUCTS:
        with pytest.MonkeyPatch.context() as patch:
            if name == "unpacked":
                patch.setattr(catalog, "PACKING", catalog.PASSES["dropout-removal"].where)
            found[name] = pipeline.package(optimized, quantized, options, Shelf(tmp_path_factory.mktemp(name)))
    return found


def test_projections_of_an_attention_are_one_product(made: dict[str, Artifact]) -> None:
    for name, each in PRODUCTS.items():
        graph = load_model(made[name].model)
        sizes = Decoder.of(graph)
        assert sizes is not None
        assert sum(node.op_type == "MatMulNBits" for node in graph.graph) == each * sizes.layers


def test_every_output_is_equal_bit_for_bit(made: dict[str, Artifact]) -> None:
    sizes = Decoder.of(load_model(made["packed"].model))
    assert sizes is not None
    for feeds in sizes.probes():
        one, other = (open_session(made[name].model, "served").run(None, feeds) for name in PRODUCTS)
        assert all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


def test_the_paged_twins_say_the_same(made: dict[str, Artifact]) -> None:
    rows = [Row([5, 6, 7], 0, [0]), Row([8], 0, [1])]
    one, other = (PagedSession(made[name].directory / PAGED_MODEL, 2, 16).step(rows) for name in PRODUCTS)
    assert np.array_equal(one, other)


def test_weights_lie_on_disk_once_and_are_counted_alike(made: dict[str, Artifact]) -> None:
    data, graph = (made["packed"].directory / name for name in ("model.onnx.data", PAGED_MODEL))
    assert external_files(load_model(graph)) == {data.name}
    assert data.stat().st_size <= (made["unpacked"].directory / data.name).stat().st_size
    shares = [inspection.inspect(made[name])["quantized share of weight entries"] for name in PRODUCTS]
    assert shares[0] == shares[1]
    assert made["packed"].facts["weight_bytes"] == made["unpacked"].facts["weight_bytes"]
