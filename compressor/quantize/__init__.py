"""Arrays at the core (qtensor, statistics, rtn, gptq), the graph around them (graph), introduced by the pipeline."""
