"""Data for any graph: by input name, by picture, by text; what does not fit or is mostly padding is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from compressor.data import corpus, samples
from compressor.errors import RequestError
from compressor.recipe import recipe
from compressor.recipe.limits import Accuracy
from compressor.recipe.recipe import Calibration, Images
from tests import graphs
from tests.byte_tokenizer import BOS, write_tokenizer

TWO = graphs.build("(float[N,3] a, int64[N,2] b) => (float[N,3] y, int64[N,2] z) { y = Neg(a) z = Neg(b) }", opset=21)
FIXED = graphs.build("(float[2,3] a) => (float[2,3] y) { y = Neg(a) }", opset=21)
PICTURE = graphs.build("(float[N,3,2,4] image) => (float[N,3,2,4] y) { y = Neg(image) }", opset=21)
STATE = graphs.build(
    "(float[N,T] x, float[2,N,3] state, int64 rate) => (float[N,T] y, float[2,N,3] s, int64 r) "
    "{ y = Neg(x) s = Neg(state) r = Neg(rate) }",
    opset=21,
)
CONSTANT = graphs.build("() => (float y) <float one = {1}> { y = Neg(one) }", opset=21)
GREY = Images(mean=(0.5,), deviation=(0.25,))
PLAIN = Images(mean=(0.0, 0.5, 1.0), deviation=(1.0, 0.5, 2.0))
ENCODER = graphs.build(
    "(int64[N,T] input_ids, int64[N,T] attention_mask, int64[N,T] token_type_ids) => (int64[N,T] y) "
    "{ s = Add(input_ids, attention_mask) y = Add(s, token_type_ids) }",
    opset=21,
)


@pytest.fixture
def npz(tmp_path: Path) -> Callable[..., str]:
    def write(**arrays: np.ndarray) -> str:
        np.savez(tmp_path / "data.npz", **arrays)
        return str(tmp_path / "data.npz")

    return write


def rows(count: int = 5) -> dict[str, np.ndarray]:
    return {"a": np.arange(3.0 * count, dtype=np.float32).reshape(count, 3), "b": np.arange(2 * count).reshape(-1, 2)}


def read(source: str, model: ir.Model = TWO, images: Images = PLAIN, **options: Any) -> samples.Samples:
    return samples.calibrating(Calibration(source=source, **options), model, Path(), images)


# --- arrays ----------------------------------------------------------------------------------------------------------


def test_rows_are_chosen_by_seed_and_known_by_their_hashes(npz: Callable[..., str]) -> None:
    found = [read(npz(**rows()), samples=3, seed=seed) for seed in (0, 0, 1)]
    (batch,) = found[0].batches
    chosen = found[0].facts["rows"]
    np.testing.assert_array_equal(batch["a"], rows()["a"][chosen])
    np.testing.assert_array_equal(batch["b"], rows()["b"][chosen])
    assert found[0].facts == found[1].facts
    assert found[0].facts["rows"] != found[2].facts["rows"]
    assert len(set(found[0].facts["rows_sha256"])) == 3
    shared = set(found[0].facts["rows"]) & set(found[2].facts["rows"])
    hashes = [dict(zip(one.facts["rows"], one.facts["rows_sha256"], strict=True)) for one in (found[0], found[2])]
    assert all(hashes[0][row] == hashes[1][row] for row in shared)


def test_a_graph_that_fixes_its_rows_is_fed_so_many_and_the_rest_left_out(npz: Callable[..., str]) -> None:
    found = read(npz(a=rows()["a"]), FIXED, samples=5)
    assert [batch["a"].shape for batch in found.batches] == [(2, 3), (2, 3)]


def test_one_array_for_one_input_needs_no_name(npz: Callable[..., str]) -> None:
    (batch,) = read(npz(whatever=rows()["a"][:2]), FIXED, samples=2).batches
    assert list(batch) == ["a"]


@pytest.mark.parametrize(
    ("arrays", "options", "line"),
    [
        ({"a": rows()["a"]}, {}, "no array for input b; it holds a"),
        ({}, {}, "no array for input a, b; it holds none"),
        (rows() | {"b": rows(4)["b"]}, {}, "rows are {'a': 5, 'b': 4}; every array needs the same number"),
        (rows(0), {}, "and at least one"),
        (rows(), {"samples": 6}, "holds 5 rows; 6 are asked for. Ask for fewer samples or bring more data"),
        (rows() | {"a": rows()["a"].astype(float)}, {}, r"'a' is float32\[None, 3\], and the array float64\[5, 3\]"),
        (rows() | {"a": rows()["a"][:, :2]}, {}, r"and the array float32\[5, 2\]"),
        (rows() | {"a": np.full_like(rows()["a"], np.inf)}, {}, "'a' holds values that are not finite"),
        (rows() | {"a": np.array([None] * 5)}, {}, "cannot be read as arrays"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_arrays_that_do_not_fit_are_refused(
    arrays: dict[str, np.ndarray], options: dict[str, Any], line: str, npz: Callable[..., str]
) -> None:
    with pytest.raises(RequestError, match=line):
        read(npz(**arrays), **({"samples": 5} | options))


def calls(count: int = 4) -> dict[str, np.ndarray]:
    """For a graph whose inputs share no axis: one has its rows second, one has none."""
    x, state = np.arange(10.0 * count).reshape(count, 2, 5), np.arange(12.0 * count).reshape(count, 2, 2, 3)
    return {"x": x.astype(np.float32), "state": state.astype(np.float32), "rate": np.full(count, 16000)}


def test_inputs_that_share_no_rows_come_as_whole_calls(npz: Callable[..., str]) -> None:
    found = read(npz(**calls()), STATE, samples=3)
    assert len(found.batches) == 3
    for row, batch in zip(found.facts["rows"], found.batches, strict=True):
        assert all(np.array_equal(batch[name], array[row]) for name, array in calls().items())


@pytest.mark.parametrize(
    ("arrays", "line"),
    [
        (calls() | {"rate": np.array(16000)}, r"'rate' is int64\[\], .* or whole calls along one more"),
        (calls() | {"x": calls()["x"][:, 0]}, "state, rate hold whole calls, others rows"),
        (calls() | {"state": calls()["state"][:, :1]}, r"'state' is float32\[2, None, 3\]"),
    ],
)
def test_calls_that_do_not_fit_are_refused(arrays: dict[str, np.ndarray], line: str, npz: Callable[..., str]) -> None:
    with pytest.raises(RequestError, match=line):
        read(npz(**arrays), STATE, samples=2)


def test_a_graph_without_inputs_has_nothing_to_calibrate(npz: Callable[..., str]) -> None:
    with pytest.raises(RequestError, match="the graph has no inputs"):
        read(npz(), CONSTANT)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is no archive of arrays"),
        (b"none", "is no archive of arrays"),
        (None, "cannot be read as arrays: No such"),
    ],
)
def test_a_file_that_holds_no_arrays_is_refused(content: bytes | None, why: str, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RequestError, match=rf"data\.npz: {why}"):
        read(str(path))


# --- labels ----------------------------------------------------------------------------------------------------------


def test_labels_stay_with_their_rows(npz: Callable[..., str]) -> None:
    source = npz(a=rows()["a"], labels=np.arange(5, dtype=np.uint8))
    found = samples.labelled(Accuracy(source=source), FIXED, PLAIN)
    assert found.labels is not None
    assert (found.labels.tolist(), found.facts["count"], len(found.batches)) == ([0, 1, 2, 3], 4, 2)
    found = samples.labelled(Accuracy(source=source, samples=2), FIXED, PLAIN)
    assert found.facts["count"] == 2


def test_whole_calls_have_no_labels(npz: Callable[..., str]) -> None:
    source = npz(**calls(), labels=np.zeros(4, np.int64))
    with pytest.raises(RequestError, match="labels are of rows, and its arrays hold whole calls"):
        samples.labelled(Accuracy(source=source), STATE, PLAIN)


def test_data_without_labels_has_no_accuracy(npz: Callable[..., str]) -> None:
    with pytest.raises(RequestError, match="holds no 'labels'"):
        samples.labelled(Accuracy(source=npz(a=rows()["a"])), FIXED, PLAIN)
    with pytest.raises(RequestError, match=r"labels come in an \.npz file or a folder of classes"):
        samples.labelled(Accuracy(source="a.txt"), FIXED, PLAIN)


# --- pictures --------------------------------------------------------------------------------------------------------


def picture(path: Path, value: tuple[int, int, int], size: tuple[int, int] = (8, 4)) -> None:
    from PIL import Image

    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", size, value).save(path)


def test_a_folder_of_pictures_is_decoded_resized_and_normalised(tmp_path: Path) -> None:
    picture(tmp_path / "cat" / "1.png", (255, 0, 51))
    picture(tmp_path / "ant" / "2.png", (0, 255, 0))
    found = samples.labelled(Accuracy(source=str(tmp_path)), PICTURE, PLAIN)
    (batch,) = found.batches
    assert found.labels is not None
    assert (batch["image"].shape, found.labels.tolist()) == ((2, 3, 2, 4), [0, 1])
    # cat: (1 - 0) / 1, (0 - 0.5) / 0.5, (0.2 - 1) / 2
    np.testing.assert_allclose(batch["image"][1, :, 0, 0], [1, -1, -0.4], rtol=1e-6)  # float32 arithmetic


def test_pixels_in_an_array_are_made_ready_as_files_are(npz: Callable[..., str]) -> None:
    pixels = np.zeros((2, 2, 4, 3), np.uint8) + np.array([255, 0, 51], np.uint8)
    (batch,) = read(npz(image=pixels), PICTURE, samples=2).batches
    np.testing.assert_allclose(batch["image"][0, :, 1, 1], [1, -1, -0.4], rtol=1e-6)
    with pytest.raises(RequestError, match=r"pictures of 3 channels, and images\.mean has 1"):
        read(npz(image=pixels), PICTURE, GREY, samples=2)


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"holds no picture \(\.png"):
        read(str(tmp_path), PICTURE)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(RequestError, match=r"a\.png: not a picture that can be decoded"):
        read(str(tmp_path), PICTURE)
    with pytest.raises(RequestError, match="pictures are one input, and the graph has a, b"):
        read(str(tmp_path), TWO)
    free = graphs.build("(float[N,3,H,W] image) => (float[N,3,H,W] y) { y = Neg(image) }", opset=21)
    with pytest.raises(RequestError, match=r"does not fix height and width; say them in images\.size"):
        read(str(tmp_path), free)


def test_a_folder_is_known_by_the_bytes_below_it(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.png", (1, 2, 3))
    before = corpus.fingerprint(str(tmp_path))
    assert corpus.fingerprint(str(tmp_path)) == before
    picture(tmp_path / "a" / "1.png", (3, 2, 1))
    assert corpus.fingerprint(str(tmp_path)) != before


# --- text ------------------------------------------------------------------------------------------------------------


def test_an_encoder_reads_windows_between_its_special_tokens(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"bos_token_id": BOS}))
    (tmp_path / "text.txt").write_text("abcdefghijklmnopqrstuvwxyz")
    options = Calibration(source=str(tmp_path / "text.txt"), samples=3, length=8)
    found = samples.calibrating(options, ENCODER, tmp_path, PLAIN)
    (batch,) = found.batches
    assert batch["input_ids"].shape == (3, 8)
    assert (batch["input_ids"][:, 0] == BOS).all()  # the one special token of this tokenizer; no BOS of a decoder
    assert len(set(batch["input_ids"][:, 1:].flatten())) == 21
    assert batch["attention_mask"].all()
    assert not batch["token_type_ids"].any()


def test_a_graph_that_reads_no_text_says_what_it_reads() -> None:
    with pytest.raises(
        RequestError, match=r"the graph reads no text; name an \.npz file with an array for each of a, b"
    ):
        read("builtin")


# --- padding ---------------------------------------------------------------------------------------------------------


def padded(zeros: int) -> dict[str, np.ndarray]:
    mask = np.ones((2, 8), np.int64)
    mask[0, 8 - zeros :] = 0
    ids = np.arange(16).reshape(2, 8)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": ids}


def test_sets_that_are_mostly_padding_are_refused_unless_asked_for(npz: Callable[..., str]) -> None:
    source = npz(**padded(7))
    with pytest.raises(RequestError, match=r"is 44% padding; calibration\.max_padding allows 40%"):
        read(source, ENCODER, samples=2, max_padding=0.4)
    assert read(source, ENCODER, samples=2).batches


def test_a_padded_row_becomes_a_call_of_its_real_tokens(npz: Callable[..., str]) -> None:
    found, fallbacks = samples.unpadded(read(npz(**padded(3)), ENCODER, samples=2).batches, ENCODER)
    assert [call["input_ids"].tolist() for call in found] == [[[0, 1, 2, 3, 4]], [list(range(8, 16))]]
    assert all(call["attention_mask"].all() for call in found)
    whole = read(npz(**padded(0)), ENCODER, samples=2)
    assert samples.unpadded(whole.batches, ENCODER) == (list(whole.batches), fallbacks)


@pytest.mark.parametrize(("axes", "zeros", "rows"), [("N,8", 3, 1), ("2,T", 3, 1), ("N,8", 0, 0)])
def test_a_graph_of_fixed_size_keeps_padded_rows_and_says_how_many(
    axes: str, zeros: int, rows: int, npz: Callable[..., str]
) -> None:
    text = f"(int64[{axes}] input_ids, int64[{axes}] attention_mask) => (int64[{axes}] y) "
    model = graphs.build(text + "{ y = Add(input_ids, attention_mask) }", opset=21)
    batches = read(npz(**padded(zeros)), model, samples=2).batches
    found, fallbacks = samples.unpadded(batches, model)
    assert found == list(batches)
    assert [line.partition(",")[0] for line in fallbacks] == [f"{rows} rows are padded"] * (rows > 0)


# --- what two forms of a graph are compared on ------------------------------------------------------------------------


def comparing(model: ir.Model, folder: Path | None = None, **options: Any) -> samples.Samples | None:
    made = recipe.build({"model": "x", **options})
    return samples.heldout(made, model, folder)


def test_rows_that_no_statistic_has_seen_come_first(npz: Callable[..., str]) -> None:
    source = npz(**rows(6))
    drawn = read(source, samples=4).facts["rows"]
    found = comparing(TWO, calibration={"source": source, "samples": 4})
    assert found is not None
    (batch,) = found.batches
    order = batch["a"][:, 0].astype(int) // 3
    assert [*order[2:]] == drawn
    assert {*order[:2]} == set(range(6)) - set(drawn)


def test_more_samples_than_rows_leave_all_rows_to_compare(npz: Callable[..., str]) -> None:
    found = comparing(TWO, calibration={"source": npz(**rows(3)), "samples": 128})
    assert found is not None
    np.testing.assert_array_equal(found.batches[0]["a"], rows(3)["a"])


def test_named_arrays_are_compared_from_their_beginning(npz: Callable[..., str]) -> None:
    found = comparing(TWO, validate={"agreement": {"source": npz(**rows(3))}})
    assert found is not None
    np.testing.assert_array_equal(found.batches[0]["b"], rows(3)["b"])


def test_an_encoder_is_compared_on_held_out_text(tmp_path: Path) -> None:
    """The text that perplexity would be measured on, in whole windows: never the calibration's."""
    write_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "text.txt").write_text("abcabcabcabc")
    options = {"agreement": {"length": 4}, "perplexity": {"source": str(tmp_path / "text.txt")}}
    found = comparing(ENCODER, tmp_path, validate=options)
    assert found is not None
    assert found.facts == {"source": "text of text.txt"}
    assert all(batch["input_ids"].shape == (2, 4) and batch["attention_mask"].all() for batch in found.batches)
    assert len(found.batches) == 2
    assert (found.batches[0]["input_ids"][0] == found.batches[0]["input_ids"][1]).all()  # "abc" behind the first token


@pytest.mark.parametrize("section", ["perplexity", "agreement"])
def test_the_text_that_an_encoder_is_compared_on_lies_in_the_field_of_its_source(tmp_path: Path, section: str) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "rows.jsonl").write_text('{"content": "abcabc"}')
    options: dict[str, dict[str, Any]] = {"agreement": {"length": 4}, "perplexity": {"text_field": "elsewhere"}}
    options[section] |= {"source": str(tmp_path / "rows.jsonl"), "text_field": "content"}
    found = comparing(ENCODER, tmp_path, validate=options)
    assert found is not None
    assert [batch["input_ids"].shape for batch in found.batches] == [(2, 4)]


def test_nothing_is_real_for_a_graph_that_nobody_named_data_for(tmp_path: Path) -> None:
    assert comparing(TWO) is None
    assert comparing(ENCODER) is None  # no tokenizer
    with pytest.raises(RequestError, match="neither artifact holds a tokenizer"):
        comparing(ENCODER, None, validate={"agreement": {"source": str(tmp_path / "text.txt")}})
