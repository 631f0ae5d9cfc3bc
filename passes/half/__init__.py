"""float16 and bfloat16 inside a graph: who takes them, how, and what fits."""
