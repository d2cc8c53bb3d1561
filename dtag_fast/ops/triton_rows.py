"""What the Triton kernels over rows of numbers share: loads, stores, products, dropout."""

import triton
import triton.language as tl

from .philox import ROUNDS

PHILOX_ROUNDS = tl.constexpr(ROUNDS)


@triton.jit
def load_rows(base, offsets, wanted, WIDTH: tl.constexpr, COLUMNS: tl.constexpr):
    """Rows that start at base + offsets; zeros for those not wanted. [rows, COLUMNS]"""
    columns = tl.arange(0, COLUMNS)
    mask = wanted[:, None] & (columns < WIDTH)[None, :]
    return tl.load(base + offsets[:, None] + columns[None, :], mask=mask, other=0.0)


@triton.jit
def store_rows(base, offsets, wanted, x, WIDTH: tl.constexpr, COLUMNS: tl.constexpr):
    columns = tl.arange(0, COLUMNS)
    mask = wanted[:, None] & (columns < WIDTH)[None, :]
    tl.store(base + offsets[:, None] + columns[None, :], x.to(base.dtype.element_ty), mask=mask)


@triton.jit
def product(a, b, PRECISION: tl.constexpr):
    """a b, summed in float32. "upcast": the interpreter has no products of 16-bit numbers."""
    if PRECISION == "upcast":
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def keep_factor(seed, first, second, third, threshold, keep_scale):
    """What dropout multiplies each number by: 0, or 1 / (1 - p). Counters `first` and `second` (of one shape)
    name the number, the integer `third` its tensor: ops/philox.py has the same in torch."""
    zero = tl.zeros_like(first)
    bits, _, _, _ = tl.philox(tl.load(seed), first, second, zero + third, zero, PHILOX_ROUNDS)
    return tl.where(bits.to(tl.uint32, bitcast=True) >= threshold.to(tl.uint32), keep_scale, 0.0)
