"""What the functions of `pipeline.py` do inside: a stage of `run`, or a part of one, a file."""
