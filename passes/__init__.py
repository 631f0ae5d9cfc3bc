"""Graph passes, one a file, named by its deed. Each leaves the graph's inputs and outputs as they are, changes nothing
in a second run, and says why it left a candidate alone. `run_passes` proves each one and undoes what it cannot prove.
"""

from passes.editing.refusal import Refusal
from passes.running.runner import PassOutcome, run_passes

__all__ = ["PassOutcome", "Refusal", "run_passes"]
