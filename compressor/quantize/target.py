"""What a weight is solved toward: the outputs of the float model, on inputs that are no longer the float model's.

    Li et al.: GPTAQ, 2025 (arXiv 2504.02692), asymmetric calibration; Zhang et al.: Qronos, 2025 (arXiv 2505.11695).

    minimise  |X W - X~ Q|^2             X: inputs in the float model, X~: in the model that is rounded so far
           =  |X~ (W' - Q)|^2 + const    W' = W + H^-1 D W,   H = X~^T X~,   D = X~^T (X - X~)

So any solver that minimises |X~ (W - Q)|^2 is given W' in the place of W. As in GPTQ, H is damped. The correction is
fitted to the calibration data and believed by a `share` alone.
"""

from __future__ import annotations

import torch
from torch import Tensor


def corrected(weight: Tensor, damped: Tensor, drift: Tensor, share: float) -> Tensor | None:
    """W + share * H^-1 D W for weight [in, out], the damped H and D [in, in]; solved in float64, float32 as given.

    None where H has no Cholesky factor or D is not finite: such data tells no correction.
    """
    factor, failed = torch.linalg.cholesky_ex(damped.double())
    if failed or not bool(drift.isfinite().all()):
        return None
    correction = torch.cholesky_solve(drift.double() @ weight.double(), factor)
    return (weight.double() + share * correction).to(weight.dtype)
