"""Export, optimize, quantize and prove: a model becomes an ONNX artifact that works where it will run."""

__version__ = "0.1.0"
