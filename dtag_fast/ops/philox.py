"""The kernels' dropout in torch: counter-based random bits that depend on nothing but a seed and a place.

Philox 4x32 of 7 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), in the form that
triton.language.philox has it.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDS = 7
LEVELS = 1 << 32  # a weight is kept when 32 random bits, as a number, reach the threshold
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_MASK = LEVELS - 1


def threshold_of(p: float) -> int:
    """Random numbers below it drop: p rounded to a multiple of 2^-32."""
    return round(p * LEVELS)


def keep_scale_of(p: float) -> float:
    """1 / (1 - p) for that rounded p."""
    return LEVELS / (LEVELS - threshold_of(p))


def _product(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """Upper and lower half of 32 x 32 bits, b (int64) in [0, 2^32)."""
    low, high = (a & 0xFFFF) * b, (a >> 16) * b  # each below 2^48
    middle = high + (low >> 16)
    return middle >> 16, ((middle & 0xFFFF) << 16) | (low & 0xFFFF)


def philox(seed: Tensor, first: Tensor, second: Tensor, third: int = 0) -> Tensor:
    """The first of four words for counters (first, second, third, 0): int64 in [0, 2^32), of their shape."""
    key = [seed & _MASK, (seed >> 32) & _MASK]
    c0, c1 = torch.broadcast_tensors(first & _MASK, second & _MASK)
    c2, c3 = torch.full_like(c0, third), torch.zeros_like(c0)
    for _ in range(ROUNDS):
        upper_0, lower_0 = _product(_MULTIPLIERS[0], c0)
        upper_2, lower_2 = _product(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = upper_2 ^ c1 ^ key[0], lower_2, upper_0 ^ c3 ^ key[1], lower_0
        key = [(k + step) & _MASK for k, step in zip(key, _KEY_STEPS, strict=True)]
    return c0


def keep_factor(seed: Tensor, p: float, first: Tensor, second: Tensor, third: int = 0) -> Tensor:
    """What dropout multiplies each number by: 0 with probability p, else 1 / (1 - p); float32.

    Args:
        seed: (1,) int64. first, second: int64 counters that name a number. third: names its tensor.
    """
    bits = philox(seed, first, second, third)
    return torch.where(bits >= threshold_of(p), keep_scale_of(p), 0.0).float()
