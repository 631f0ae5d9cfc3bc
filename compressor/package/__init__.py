"""One artifact format a file: quantized tensors and a graph become what an engine loads."""
