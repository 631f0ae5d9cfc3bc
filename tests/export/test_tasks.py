"""A task is found by the architecture that a configuration names, or asked for and looked up by the model's type."""

from __future__ import annotations

import pytest
import transformers

from compressor import catalog
from compressor.errors import RequestError
from compressor.export import tasks


@pytest.mark.parametrize(
    ("kind", "architecture", "task"),
    [
        ("llama", "LlamaForCausalLM", "text-generation-with-past"),
        ("gemma3_text", "Gemma3ForCausalLM", "text-generation-with-past"),
        ("bert", "BertForMaskedLM", "fill-mask"),
        ("bert", "BertModel", "feature-extraction"),
        ("t5", "T5EncoderModel", "feature-extraction"),
        ("bart", "BartForConditionalGeneration", "text2text-generation"),  # it stands in the table of fill-mask too
        ("bart", "BartForSequenceClassification", "text-classification"),
        ("whisper", "WhisperForConditionalGeneration", "automatic-speech-recognition"),
        ("wav2vec2", "Wav2Vec2ForCTC", "automatic-speech-recognition"),
        ("wav2vec2", "Wav2Vec2ForSequenceClassification", "audio-classification"),
        ("vit", "ViTModel", "image-feature-extraction"),
        ("clip", "CLIPModel", "zero-shot-image-classification"),
    ],
)
def test_the_architecture_tells_the_task(kind: str, architecture: str, task: str) -> None:
    assert tasks.find({"model_type": kind, "architectures": [architecture]}).name == task


def test_a_task_that_is_asked_for_comes_first() -> None:
    config = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}
    assert tasks.find(config, "feature-extraction").name == "feature-extraction"
    ctc = {"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"]}
    assert tasks.find(ctc, "automatic-speech-recognition").exporter == "encoder"


@pytest.mark.parametrize(
    ("config", "wanted", "line"),
    [
        ({"model_type": "resnet"}, "fill-mask", "a model of type resnet has no task fill-mask; choose --task image-cl"),
        (
            {"model_type": "bert"},
            None,
            "of architecture none tells no task; choose --task text-generation-with-past, text-generation, fill",
        ),
        ({}, None, "a model of type None of architecture none tells no task; transformers has no class for it"),
    ],
)
def test_what_fits_is_told(config: dict[str, object], wanted: str | None, line: str) -> None:
    with pytest.raises(RequestError, match=line):
        tasks.find(config, wanted)


def test_every_row_names_what_there_is() -> None:
    for task in tasks.TASKS:
        assert hasattr(transformers, task.auto)
        assert callable(catalog.resolve(catalog.EXPORTERS[task.exporter]))
