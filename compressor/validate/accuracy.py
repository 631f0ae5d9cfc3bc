"""Accuracy: the share of labelled rows whose largest score is their label's, for candidate and reference."""

from __future__ import annotations

import numpy as np

from compressor.data.samples import Samples
from compressor.errors import RequestError
from compressor.recipe.limits import Accuracy
from compressor.report.report import Measurement
from compressor.validate.subject import Subject


def measure(candidate: Subject, reference: Subject, labelled: Samples, options: Accuracy) -> list[Measurement]:
    """Both sides on the same rows. Raises: RequestError when the first output is no table of scores."""
    ours, theirs = (of(side, labelled) for side in (candidate, reference))
    return [
        Measurement("accuracy", ours, reference=theirs, limit=options.min_value, sense="at least"),
        Measurement(
            "accuracy drop", round(theirs - ours, 9), limit=options.max_drop, note=f"{labelled.facts['count']} rows"
        ),
    ]


def of(subject: Subject, labelled: Samples) -> float:
    """Accuracy of one side; a row with a score that is not finite is wrong."""
    right, at = 0, 0
    for feeds in labelled.batches:
        scores = subject.session.run(None, dict(feeds))[0]
        if scores.ndim != 2 or not len(scores):
            raise RequestError(f"{subject.path}: its first output is {scores.shape}; accuracy reads [rows, scores]")
        assert labelled.labels is not None  # held by samples.labelled
        labels = labelled.labels[at : at + len(scores)]
        right += int(((scores.argmax(-1) == labels) & np.isfinite(scores).all(-1)).sum())
        at += len(scores)
    return right / at
