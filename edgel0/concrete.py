"""What is a gate? A hard-concrete variable: zero, one, or in between, with a gradient (arXiv 1712.01312)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
LIMIT = 10.0  # clamp of |log_alpha|: at the reference code's ln 100 a closed gate still counts as 5 % of a unit


def stretch(s: Tensor) -> Tensor:
    """Stretch a concrete sample to (gamma, zeta) and clip it to [0, 1] (equations 10 and 11)."""
    return (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def sample(log_alpha: Tensor, u: Tensor, beta: float = BETA, noise: Tensor | float = 1.0) -> Tensor:
    """Draw z from uniform ``u`` in (0, 1), of the shape of ``log_alpha`` (equation 10), its ``noise`` scaled.

    At noise 0 this is :func:`median_gate`.
    """
    return stretch(torch.sigmoid(torch.add(torch.logit(u) * (noise / beta), log_alpha, alpha=1 / beta)))


def probability_open(log_alpha: Tensor, beta: float = BETA) -> Tensor:
    """P(z != 0) (equation 12)."""
    return torch.sigmoid(log_alpha - beta * math.log(-GAMMA / ZETA))


def log_alpha_of(probability: float, beta: float = BETA) -> float:
    """Return the ``log_alpha`` at which P(z != 0) is ``probability``."""
    return math.log(probability / (1 - probability)) + beta * math.log(-GAMMA / ZETA)


def mean_gate(log_alpha: Tensor) -> Tensor:
    """Return the paper's test-time gate, without temperature (equation 13): zero iff P(z != 0) <= 0.31."""
    return stretch(torch.sigmoid(log_alpha))


def median_gate(log_alpha: Tensor, beta: float = BETA) -> Tensor:
    """Return the gate at the median of its noise, u = 1/2: zero iff P(z != 0) <= 1/2."""
    return stretch(torch.sigmoid(log_alpha / beta))
