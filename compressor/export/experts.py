"""A mixture of experts in a form that a graph can have: every expert reads every token, and the router weighs them.

    y = sum over experts e of  w[token, e] * expert_e(x[token]),     w = 0 where the router did not choose e

transformers loops over the experts that were chosen, which a trace cannot follow, or gathers a matrix for each token,
which at a prompt of 512 tokens is 512 copies of it. This form reads each matrix once, whatever the prompt, and
computes what the router throws away: experts / chosen times the products.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "compress_dense"


def make_dense(model: PreTrainedModel) -> None:
    """Let a model compute its experts this way, if it has any."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    if model._can_set_experts_implementation():
        ALL_EXPERTS_FUNCTIONS.register(NAME, dense)
        model.set_experts_implementation(NAME)


def dense(experts: Any, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """hidden [tokens, in], chosen and weights [tokens, k] -> [tokens, out]"""
    first, bias = ("gate_up_proj", "gate_up_proj_bias") if experts.has_gate else ("up_proj", "up_proj_bias")
    inner = _linear(experts, hidden.unsqueeze(0), first, bias)  # [experts, tokens, inner]
    inner = experts._apply_gate(inner) if experts.has_gate else experts.act_fn(inner)
    outputs = _linear(experts, inner, "down_proj", "down_proj_bias")
    if experts.has_post_expert_norm:
        outputs = experts.post_expert_norm(outputs)
    count = outputs.shape[0]
    is_chosen = chosen.unsqueeze(-1) == torch.arange(count)  # [tokens, k, experts]
    routed = (weights.unsqueeze(-1) * is_chosen).sum(1)
    return (outputs * routed.T.unsqueeze(-1)).sum(0).to(hidden.dtype)


def _linear(experts: Any, x: Tensor, weight: str, bias: str) -> Tensor:
    matrices: Tensor = getattr(experts, weight)
    y = x @ (matrices if experts.is_transposed else matrices.transpose(-2, -1))
    return y + getattr(experts, bias).unsqueeze(1) if experts.has_bias else y
