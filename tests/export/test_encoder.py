"""Models of one forward call: the graph against torch reading each row alone, without its padding."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
import transformers

from compressor import artifact, pipeline, sources
from compressor.artifact import Artifact
from compressor.errors import LimitMissedError, RequestError
from compressor.export import encoder, exporters, proof, tasks, tracing
from compressor.graph.session import graph_nbytes, load_model, open_session, save_model
from compressor.recipe import recipe
from compressor.shelf import Shelf
from tests import architectures
from tests.conftest import Outcome

# Two layers of sums of at most 172 products of float32, in another order: 4e-6 was seen on values of up to 4.
CLOSE = {"rtol": 0, "atol": 5e-5}
NAMES = ("bert", "roberta", "resnet", "clip")


class Exported:
    """A checkpoint and the artifact it became."""

    def __init__(self, name: str, folder: Path) -> None:
        self.checkpoint = architectures.write(name, folder / "checkpoint")
        self.made = export(self.checkpoint, folder / "made")
        self.session = open_session(self.made.model, "exact")
        self.outputs = [one.name for one in self.session.get_outputs()]

    @cached_property
    def torch_model(self) -> torch.nn.Module:
        config = transformers.AutoConfig.from_pretrained(self.checkpoint)
        model_class = getattr(transformers, config.architectures[0])
        return model_class.from_pretrained(self.checkpoint).eval()  # sdpa where there is one

    def run(self, **feeds: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(self.outputs, self.session.run(self.outputs, feeds), strict=True))

    def alone(self, **feeds: np.ndarray) -> dict[str, np.ndarray]:
        with torch.no_grad():
            result = self.torch_model(**{name: torch.from_numpy(value) for name, value in feeds.items()})
        return {name: result[name].numpy() for name in self.outputs}


def export(checkpoint: Path, place: Path, **options: object) -> Artifact:
    request = recipe.build({"model": str(checkpoint), "export": options})
    return pipeline.export(sources.find(str(checkpoint)), request, Shelf(place, exact=True))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    return cache(lambda name: Exported(name, tmp_path_factory.mktemp(name)))


def tokens(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(5, architectures.VOCABULARY, shape)


def shape_of(value: ir.Value) -> list[int | str]:
    return [size if isinstance(size, int) else str(size) for size in value.shape]


# --- agreement -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 2), (1, 13), (4, 9)])
def test_tokens_at_sizes_that_were_not_traced(exported: Callable[[str], Exported], batch: int, length: int) -> None:
    bert, ids = exported("bert"), tokens(batch, length)
    mask, kinds = np.ones_like(ids), ids % 2
    logits = bert.run(input_ids=ids, attention_mask=mask, token_type_ids=kinds)["logits"]
    for row in range(batch):
        expected = bert.alone(input_ids=ids[row : row + 1], token_type_ids=kinds[row : row + 1])["logits"]
        np.testing.assert_allclose(logits[row : row + 1], expected, **CLOSE)


def test_padding_on_the_right_is_not_read(exported: Callable[[str], Exported]) -> None:
    """Each row as if it were alone and whole; what stands in the padding does not matter."""
    roberta, ids = exported("roberta"), tokens(3, 11)
    lengths, mask = (11, 7, 1), np.ones((3, 11), np.int64)
    for row, length in enumerate(lengths):
        ids[row, length:], mask[row, length:] = 2, 0  # its padding token, which its positions skip
    logits = roberta.run(input_ids=ids, attention_mask=mask)["logits"]
    for row, length in enumerate(lengths):
        expected = roberta.alone(input_ids=ids[row : row + 1, :length])["logits"]
        np.testing.assert_allclose(logits[row : row + 1], expected, **CLOSE)


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 32, 32), (3, 51, 77)])
def test_convolutions_take_images_of_any_size(
    exported: Callable[[str], Exported], batch: int, height: int, width: int
) -> None:
    pixels = np.random.default_rng(0).normal(size=(batch, 3, height, width)).astype(np.float32)
    resnet = exported("resnet")
    np.testing.assert_allclose(
        resnet.run(pixel_values=pixels)["logits"], resnet.alone(pixel_values=pixels)["logits"], **CLOSE
    )


def test_texts_and_images_have_a_batch_each(exported: Callable[[str], Exported]) -> None:
    clip, ids = exported("clip"), tokens(3, 9)
    pixels = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    found = clip.run(input_ids=ids, pixel_values=pixels, attention_mask=np.ones_like(ids))
    assert found["logits_per_image"].shape == (2, 3)
    for name, expected in clip.alone(input_ids=ids, pixel_values=pixels).items():
        np.testing.assert_allclose(found[name], expected, **CLOSE, err_msg=name)


# --- the file --------------------------------------------------------------------------------------------------------


def test_the_interface_has_the_names_of_optimum(exported: Callable[[str], Exported]) -> None:
    row = ["batch_size", "sequence_length"]
    graphs = {name: load_model(exported(name).made.model).graph for name in NAMES}
    found = {name: {str(v.name): shape_of(v) for v in graph.inputs} for name, graph in graphs.items()}
    assert found["bert"] == {"input_ids": row, "attention_mask": row, "token_type_ids": row}
    assert found["roberta"] == {"input_ids": row, "attention_mask": row}
    assert found["resnet"] == {"pixel_values": ["batch_size", 3, "height", "width"]}
    texts = ["text_batch_size", "sequence_length"]
    images = ["image_batch_size", 3, 32, 32]
    assert found["clip"] == {"input_ids": texts, "pixel_values": images, "attention_mask": texts}
    outputs = {str(v.name): shape_of(v) for v in graphs["clip"].outputs}
    assert outputs["logits_per_image"] == ["image_batch_size", "text_batch_size"]
    assert {str(v.name): shape_of(v) for v in graphs["bert"].outputs} == {"logits": [*row, architectures.VOCABULARY]}


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_valid_and_tells_nothing_of_this_machine(exported: Callable[[str], Exported], name: str) -> None:
    path = exported(name).made.model
    onnx.checker.check_model(str(path), full_check=True)
    graph = load_model(path)
    assert (graph.ir_version, graph.opset_imports) == (10, {"": 21})
    assert not graph.functions
    content = path.read_bytes()
    here = {str(Path.cwd()), sys.prefix, os.path.expanduser("~"), ".py"}
    assert not [one for one in here if one.encode() in content]


def test_a_weight_that_is_tied_is_stored_once_and_keeps_its_name(exported: Callable[[str], Exported]) -> None:
    bert = exported("bert")
    parameters = {id(one): one for one in bert.torch_model.parameters()}.values()
    nbytes = sum(one.nbytes for one in parameters)
    graph = 150_000  # nodes, shapes and the table of positions; two layers have 34,000 bytes of weights
    assert nbytes < graph_nbytes(bert.made.model) < nbytes + graph
    big = [v for v in load_model(bert.made.model).graph.initializers.values() if v.const_value.nbytes > 4096]
    assert {str(one.name) for one in big} <= {
        name for name, _ in bert.torch_model.named_parameters(remove_duplicate=False)
    }
    assert len({one.const_value.tobytes() for one in big}) == len(big)


def test_two_exports_are_equal_to_the_byte(exported: Callable[[str], Exported], tmp_path: Path) -> None:
    first = exported("resnet")
    again = export(first.checkpoint, tmp_path / "again")
    assert {name: entry["sha256"] for name, entry in again.manifest["files"].items()} == {
        name: entry["sha256"] for name, entry in first.made.manifest["files"].items()
    }


def test_the_manifest_has_the_shapes_that_an_engine_is_built_for(exported: Callable[[str], Exported]) -> None:
    facts = exported("bert").made.facts
    assert facts["task"] == "fill-mask"
    assert facts["profiles"]["model.onnx"]["input_ids"] == {"min": [1, 1], "opt": [1, 64], "max": [8, 64]}


# --- options ---------------------------------------------------------------------------------------------------------


def test_axes_that_are_made_static_are_static_everywhere(
    exported: Callable[[str], Exported], compress: Callable[..., Outcome], tmp_path: Path
) -> None:
    bert, place = exported("bert"), tmp_path / "static"
    outcome = compress("export", bert.checkpoint, "-o", place, "--static", "batch_size=2,sequence_length=7")
    assert outcome.code == 0, outcome.err
    graph = load_model(place / "model.onnx").graph
    assert {tuple(value.shape) for value in graph.inputs} == {(2, 7)}
    assert list(graph.outputs[0].shape) == [2, 7, architectures.VOCABULARY]
    assert artifact.open_artifact(place).facts["profiles"] == {"model.onnx": {}}
    ids = tokens(2, 7)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": ids % 2}
    (logits,) = open_session(place / "model.onnx", "exact").run(None, feeds)
    np.testing.assert_array_equal(logits, bert.run(**feeds)["logits"])


def test_half_precision_is_half_as_large_and_close(exported: Callable[[str], Exported], tmp_path: Path) -> None:
    resnet = exported("resnet")
    made = export(resnet.checkpoint, tmp_path / "half", dtype="float16")
    kinds = {
        v.const_value.dtype for v in load_model(made.model).graph.initializers.values() if v.const_value.nbytes > 256
    }
    assert kinds == {ir.DataType.FLOAT16}
    pixels = np.random.default_rng(0).normal(size=(2, 3, 40, 48)).astype(np.float32)
    (half,) = open_session(made.model, "exact").run(None, {"pixel_values": pixels.astype(np.float16)})
    # 11 bits of mantissa, ten layers deep, on logits of about 0.1
    np.testing.assert_allclose(half, resnet.run(pixel_values=pixels)["logits"], rtol=0, atol=2e-3)


def test_bfloat16_is_stored_and_proven(exported: Callable[[str], Exported], tmp_path: Path) -> None:
    """The CPU has few kernels for it: the proof computes in float32 and rounds after every operator."""
    made = export(exported("resnet").checkpoint, tmp_path / "bfloat16", dtype="bfloat16")
    weights = [value.const_value for value in load_model(made.model).graph.initializers.values()]
    assert {one.dtype for one in weights if one.nbytes > 256} == {ir.DataType.BFLOAT16}
    assert {one.dtype for one in load_model(made.model).graph.inputs} == {ir.DataType.BFLOAT16}
    assert max(one["difference"] for one in made.measured()["proof"]) < 0.1


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["--static", "batch=1"], 2, "export.static: no input has an axis 'batch'. Did you mean 'batch_size'?"),
        (["--static", "batch_size=0"], 2, "export.static.batch_size: the value should be greater than or equal to 1"),
        (["--task", "fill-masc"], 2, "export.task: no task 'fill-masc'. Did you mean 'fill-mask'?"),
        (["--task", "image-classification"], 2, "a model of type bert has no task image-classification; choose --task"),
        (["--task", "token-classification"], 2, "the checkpoint lacks classifier.bias and 1 more"),
        (["--trust-remote-code", "--strict"], 2, "export.trust_remote_code: not with --strict"),
    ],
)
def test_a_wrong_request_is_told_in_one_line(
    exported: Callable[[str], Exported],
    compress: Callable[..., Outcome],
    tmp_path: Path,
    arguments: list[str],
    code: int,
    line: str,
) -> None:
    outcome = compress("export", exported("bert").checkpoint, "-o", tmp_path / "out", *arguments)
    assert (outcome.code, outcome.out) == (code, "")
    assert line in outcome.err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_graph_that_departs_from_torch_is_not_delivered(exported: Callable[[str], Exported], tmp_path: Path) -> None:
    """One weight is spoiled between tracing and comparing; the first layer that departs is named."""
    bert = exported("bert")
    task, made = exporters.prepare(sources.find(str(bert.checkpoint)), recipe.Export())
    assert task == "fill-mask"
    model = load_model(bert.made.model)
    weight = model.graph.initializers["bert.encoder.layer.1.output.dense.weight"]
    weight.const_value = ir.tensor(1.1 * weight.const_value.numpy(), name=weight.name)
    save_model(model, tmp_path / "model.onnx")
    with pytest.raises(LimitMissedError, match=r"bert\.encoder\.layer\.1\.output\.dense"):
        made.prove(tmp_path)


def test_a_model_in_training_mode_is_refused(exported: Callable[[str], Exported]) -> None:
    config = transformers.AutoConfig.from_pretrained(exported("bert").checkpoint)
    model = transformers.AutoModelForMaskedLM.from_config(config).eval()
    model.bert.encoder.layer[1].train()  # one part is enough: its dropout would be in the graph
    with pytest.raises(RequestError, match="training mode"):
        tracing.trace(encoder.call(model, tasks.find(config.to_dict())), 21)


def test_tolerances_know_every_dtype() -> None:
    assert proof.TOLERANCE.keys() == set(exporters.DTYPES.values())
