"""What is written beside the tables is written, or a line says why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from compressor.command import showing
from compressor.errors import RequestError
from compressor.report.report import Report


def test_a_report_for_ci_that_has_no_place_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for junit, summary in ((tmp_path / "file" / "a.xml", None), (None, tmp_path)):
        with pytest.raises(RequestError, match=r": cannot be written \(.+\); name another place"):
            showing.write_for_ci(Report(()), junit, summary, strict=False)
