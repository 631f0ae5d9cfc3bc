"""Arrays at the core (qtensor, statistics, rtn, gptq), the graph around them (flow/), introduced by the stages."""
