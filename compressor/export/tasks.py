"""What a model is for decides how it is loaded, what goes in, what comes out, and which exporter writes it.

    config.json {"architectures": ["BertForMaskedLM"], "model_type": "bert"}  ->  fill-mask

A task is found by transformers' own tables (model type -> class of each task). The names are those of the hub;
where a graph has a cache, Optimum adds `-with-past`. The graph of a decoder beside an encoder always has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from compressor.errors import RequestError


class Task(NamedTuple):
    """One row: transformers' auto class and table of classes, the exporter (a line of the catalog), the outputs."""

    name: str
    auto: str
    table: str  # modeling_auto.MODEL_<table>MAPPING_NAMES
    exporter: str
    outputs: tuple[str, ...]
    inputs: tuple[str, ...] = ()  # none: those that go with the model's main input
    optional: tuple[str, ...] = ()  # outputs where the model has them and the checkpoint their weights


WITH_PAST = "-with-past"
LOGITS, HIDDEN = ("logits",), ("last_hidden_state",)
SPANS = ("start_logits", "end_logits")
IMAGE, TEXT_AND_IMAGE = ("pixel_values",), ("input_ids", "pixel_values", "attention_mask")
SIMILARITY = ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds")

# In the order they are looked up: BartForConditionalGeneration stands in the tables of three tasks.
TASKS = (
    Task("text-generation-with-past", "AutoModelForCausalLM", "FOR_CAUSAL_LM_", "causal-lm", LOGITS),
    Task("text-generation", "AutoModelForCausalLM", "FOR_CAUSAL_LM_", "causal-lm-without-past", LOGITS),
    Task("text2text-generation", "AutoModelForSeq2SeqLM", "FOR_SEQ_TO_SEQ_CAUSAL_LM_", "seq2seq", LOGITS),
    Task("automatic-speech-recognition", "AutoModelForSpeechSeq2Seq", "FOR_SPEECH_SEQ_2_SEQ_", "seq2seq", LOGITS),
    Task("automatic-speech-recognition", "AutoModelForCTC", "FOR_CTC_", "encoder", LOGITS),
    Task("fill-mask", "AutoModelForMaskedLM", "FOR_MASKED_LM_", "encoder", LOGITS),
    Task("audio-classification", "AutoModelForAudioClassification", "FOR_AUDIO_CLASSIFICATION_", "encoder", LOGITS),
    Task("text-classification", "AutoModelForSequenceClassification", "FOR_SEQUENCE_CLASSIFICATION_", "encoder",
         LOGITS),
    Task("token-classification", "AutoModelForTokenClassification", "FOR_TOKEN_CLASSIFICATION_", "encoder", LOGITS),
    Task("question-answering", "AutoModelForQuestionAnswering", "FOR_QUESTION_ANSWERING_", "encoder", SPANS),
    Task("zero-shot-image-classification", "AutoModelForZeroShotImageClassification",
         "FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_", "encoder", SIMILARITY, TEXT_AND_IMAGE),
    Task("image-classification", "AutoModelForImageClassification", "FOR_IMAGE_CLASSIFICATION_", "encoder", LOGITS,
         IMAGE),
    Task("image-segmentation", "AutoModelForSemanticSegmentation", "FOR_SEMANTIC_SEGMENTATION_", "encoder", LOGITS,
         IMAGE),
    Task("image-feature-extraction", "AutoModel", "FOR_IMAGE_", "encoder", HIDDEN, IMAGE, ("pooler_output",)),
    Task("feature-extraction", "AutoModel", "", "encoder", HIDDEN),
    Task("feature-extraction", "AutoModelForTextEncoding", "FOR_TEXT_ENCODING_", "encoder", HIDDEN),
)  # fmt: skip
NAMES = tuple(dict.fromkeys(task.name for task in TASKS))


def find(config: Mapping[str, Any], wanted: str | None = None) -> Task:
    """The task that was asked for, if the model's type has it; else the one its architecture was made for.

    Raises: RequestError with the tasks that fit.
    """
    kind, made_for = str(config.get("model_type")), set(config.get("architectures") or ())
    known = {task: classes for task in TASKS if (classes := _classes(task, kind))}
    fitting = {task: classes for task, classes in known.items() if wanted is None or wanted in _names(task)}
    for task, classes in fitting.items():
        if made_for & classes:
            return task
    if wanted and fitting:
        return next(iter(fitting))
    named = f"has no task {wanted}" if wanted else f"of architecture {', '.join(made_for) or 'none'} tells no task"
    raise RequestError(f"a model of type {kind} {named}; {choices(config)}")


def choices(config: Mapping[str, Any]) -> str:
    """The tasks of a model's type, in words."""
    names = dict.fromkeys(task.name for task in TASKS if _classes(task, str(config.get("model_type"))))
    return f"choose --task {', '.join(names)}" if names else "transformers has no class for it that we export"


def _names(task: Task) -> tuple[str, ...]:
    """What a task may be called."""
    return (task.name, f"{task.name}{WITH_PAST}") if task.exporter == "seq2seq" else (task.name,)


def _classes(task: Task, kind: str) -> set[str]:
    """Names of the classes that a type of model has for a task."""
    from transformers.models.auto import modeling_auto

    names = getattr(modeling_auto, f"MODEL_{task.table}MAPPING_NAMES").get(kind, ())
    return {names} if isinstance(names, str) else set(names)
