"""The built-in model `builtin:tiny-lm`: a small trained language model that is ours, with its own text to measure on.

Only paths live here; `grammar` writes the text, `train` remakes the directory (`make model`).
"""

from pathlib import Path

TINY_LM = Path(__file__).parent / "tiny-lm"
CALIBRATION = TINY_LM / "calibration.txt"  # a document a line, for solvers
HELDOUT = TINY_LM / "heldout.txt"  # a document a line, for validation; shares no document with the other
