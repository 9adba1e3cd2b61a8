# SPDX-License-Identifier: Apache-2.0
"""Optimize attention and MLP matrices by Muon: momentum orthogonalised by Newton-Schulz steps.

Keller Jordan's optimizer with Moonshot's scaling (arXiv 2502.16982, eq. 4), which gives an update
the RMS of AdamW's at the same learning rate. torch.optim.Muon works in BF16, which is slow on a
CPU, and on one matrix at a time. Here matrices of one shape form one batch, in fp32.
"""

from __future__ import annotations

import torch

_A, _B, _C = 3.4445, -4.7750, 2.0315  # the quintic's coefficients, from Jordan's reference


def orthogonalized(batch: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Map [N, rows, columns] to matrices with the same singular vectors and values near 1."""
    x = batch / (batch.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    for _ in range(steps):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Apply Nesterov momentum; a parameter's matrices are its last two dimensions."""

    def __init__(self, parameters, lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            shapes: dict[torch.Size, list[torch.nn.Parameter]] = {}
            for parameter in group["params"]:
                shapes.setdefault(parameter.shape, []).append(parameter)
            for parameters in shapes.values():
                self._step_together(parameters, group)

    def _step_together(self, parameters: list[torch.nn.Parameter], group) -> None:
        ahead = []
        for parameter in parameters:
            state = self.state[parameter]
            average = state.setdefault("average", torch.zeros_like(parameter))
            average.lerp_(parameter.grad, 1 - group["momentum"])
            ahead.append(parameter.grad.lerp(average, group["momentum"]))
        scale = 0.2 * max(ahead[0].shape[-2:]) ** 0.5 * group["lr"]
        for parameter, update in zip(parameters, orthogonalized(torch.stack(ahead)), strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.sub_(update, alpha=scale)
