"""Arrays at the core (qtensor, statistics, rtn, gptq), the graph around them (flow/), introduced by the stages."""

import torch._prims.rng_prims  # noqa: F401  torch.Generator asks for it, and what brings it may be put off (deferred.py)
