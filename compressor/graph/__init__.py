"""Graphs read, run, written and looked at, whatever made them; no stage of the pipeline is known here."""
