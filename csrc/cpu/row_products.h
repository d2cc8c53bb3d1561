// The heart of the row kernel: a matrix times one vector, bound by the bytes of weights it reads. Rows of the matrix
// whose coefficient is zero (dead ReLU units) are not read at all.
#pragma once
#include "cpu/packed.h"
#include "cpu/simd.h"

#ifndef DTAG_PANEL
#define DTAG_PANEL 8  // accumulator vectors
#endif

namespace dtag::DTAG_ISA {

constexpr int kPanel = DTAG_PANEL;

// Which rows take part: `count` row numbers.
struct Live {
  const uint16_t* rows;
  int count;
};

constexpr int kPrefetch = 6;  // rows ahead; the list tells which, the hardware could not guess

// out[c] = init[c] + sum over live r of x[r] * W[r][c], for the NV vectors of one panel, r in order.
template <int NV, bool bf16>
static void combine_panel(const char* panel, Live live, const float* x, const float* init, float* out) {
  vf acc[NV];
  DTAG_UNROLL for (int v = 0; v < NV; ++v) acc[v] = init ? load(init + v * kLanes) : vf{};
  constexpr int kRowBytes = NV * kLanes * (bf16 ? 2 : 4);
  for (int t = 0; t < live.count; ++t) {
    const int r = live.rows[t];
    const char* w = panel + int64_t(r) * kRowBytes;
    const char* ahead = panel + int64_t(live.rows[t + kPrefetch]) * kRowBytes;
    DTAG_UNROLL for (int b = 0; b < kRowBytes; b += 64) __builtin_prefetch(ahead + b);
    if constexpr (bf16) {
#ifdef DTAG_BF16_DOT  // multiplies a pair of weights by (x, 0) or (0, x): widening costs nothing
      const uint32_t half = round_bf16(splat(x[r]))[0] >> 16;
      const vu low = splat_bits(half), high = splat_bits(half << 16);
      DTAG_UNROLL for (int v = 0; v < NV / 2; ++v) {
        const vu pair = load<vu>(w + v * kLanes * 4);
        acc[2 * v] = dot_bf16(acc[2 * v], pair, low);
        acc[2 * v + 1] = dot_bf16(acc[2 * v + 1], pair, high);
      }
#else
      const vf c = splat(x[r]);
      DTAG_UNROLL for (int v = 0; v < NV / 2; ++v) {
        const vu pair = load<vu>(w + v * kLanes * 4);
        acc[2 * v] = fma(c, low_bf16(pair), acc[2 * v]);
        acc[2 * v + 1] = fma(c, high_bf16(pair), acc[2 * v + 1]);
      }
#endif
    } else {
      const vf c = splat(x[r]);
      DTAG_UNROLL for (int v = 0; v < NV; ++v) acc[v] = fma(c, load(w + v * kLanes * 4), acc[v]);
    }
  }
  DTAG_UNROLL for (int v = 0; v < NV; ++v) store(out + v * kLanes, acc[v]);
}

template <int NV, bool bf16>
static void combine_panels(const RowMatrix& m, const char* data, int column, Live live, const float* x,
                           const float* init, float* out) {
  constexpr int kWidth = NV * kLanes;
  for (; m.padded - column >= kWidth; column += kWidth, data += int64_t(m.rows) * kWidth * (bf16 ? 2 : 4))
    combine_panel<NV, bf16>(data, live, x, init ? init + column : nullptr, out + column);
  if constexpr (NV > (bf16 ? 2 : 1)) {
    if (column < m.padded) combine_panels<NV / 2, bf16>(m, data, column, live, x, init, out);
  }
}

// What stands behind the `count` numbers of x becomes zero, to the end of two vectors: the next product reads whole vectors,
// and its zero weights there let NaN and infinity through.
DTAG_INLINE void zero_padding(int count, float* x) {
  for (int i = count; i % (2 * kLanes) != 0; ++i) x[i] = 0.f;
}

// out[c] = init[c] + sum over live rows r of x[r] * W[r][c], zeros in the padding; init may be null (zeros).
static void combine(const RowMatrix& m, Live live, const float* x, const float* init, float* out) {
  const char* data = static_cast<const char*>(m.data);
  m.bf16 ? combine_panels<kPanel, true>(m, data, 0, live, x, init, out)
         : combine_panels<kPanel, false>(m, data, 0, live, x, init, out);
  zero_padding(m.cols, out);
}

// sums[t] += lane by lane products of x with row live.rows[t], over the columns of one panel; zeros before the `first`.
template <int NV, bool bf16>
static void dot_panel(const char* panel, Live live, const float* x, bool first, float* sums) {
#ifdef DTAG_BF16_DOT
  constexpr bool kPairs = bf16;  // two columns in a word, as the weights are
#else
  constexpr bool kPairs = false;
#endif
  vf at[NV];
  vu pairs[NV];
  DTAG_UNROLL for (int v = 0; v < NV; ++v) at[v] = load(x + v * kLanes);
  if constexpr (kPairs) DTAG_UNROLL for (int v = 0; v < NV / 2; ++v) pairs[v] = pack_bf16(at[2 * v], at[2 * v + 1]);
  constexpr int kRowBytes = NV * kLanes * (bf16 ? 2 : 4);
  for (int t = 0; t < live.count; ++t) {
    const char* w = panel + int64_t(live.rows[t]) * kRowBytes;
    const char* ahead = panel + int64_t(live.rows[t + kPrefetch]) * kRowBytes;
    DTAG_UNROLL for (int b = 0; b < kRowBytes; b += 64) __builtin_prefetch(ahead + b);
    vf even = first ? vf{} : load(sums + t * kLanes), odd = {};
    if constexpr (bf16) {
      DTAG_UNROLL for (int v = 0; v < NV / 2; ++v) {
        const vu pair = load<vu>(w + v * kLanes * 4);
        vf& sum = v % 2 ? odd : even;
        if constexpr (kPairs)
          sum = dot_bf16(sum, pair, pairs[v]);
        else
          sum = fma(high_bf16(pair), at[2 * v + 1], fma(low_bf16(pair), at[2 * v], sum));
      }
    } else {
      DTAG_UNROLL for (int v = 0; v < NV; ++v) {
        vf& sum = v % 2 ? odd : even;
        sum = fma(load(w + v * kLanes * 4), at[v], sum);
      }
    }
    store(sums + t * kLanes, even + odd);
  }
}

template <int NV, bool bf16>
static void dot_panels(const RowMatrix& m, const char* data, int column, Live live, const float* x, float* sums) {
  constexpr int kWidth = NV * kLanes;
  for (; m.padded - column >= kWidth; column += kWidth, data += int64_t(m.rows) * kWidth * (bf16 ? 2 : 4))
    dot_panel<NV, bf16>(data, live, x + column, column == 0, sums);
  if constexpr (NV > (bf16 ? 2 : 1)) {
    if (column < m.padded) dot_panels<NV / 2, bf16>(m, data, column, live, x, sums);
  }
}

// out[r] = sum_c W[r][c] x[c] for live rows r, 0 for the others and in the padding; `sums` has kLanes numbers per live row.
static void live_dots(const RowMatrix& m, Live live, const float* x, float* sums, float* out) {
  const char* data = static_cast<const char*>(m.data);
  m.bf16 ? dot_panels<kPanel, true>(m, data, 0, live, x, sums) : dot_panels<kPanel, false>(m, data, 0, live, x, sums);
  for (int r = 0; r < m.rows || r % (2 * kLanes) != 0; r += kLanes) store(out + r, vf{});
  for (int t = 0; t < live.count; ++t) out[live.rows[t]] = sum_lanes(load(sums + t * kLanes));
}

// out[r] = init[r] + sum_c W[r][c] x[c], zeros in the padding; init may be null. Float32 matrices only.
static void dots(const RowMatrix& m, const float* x, const float* init, float* out) {
  for (int r = 0; r < m.rows; ++r) {
    vf acc[4] = {};
    const float* panel = static_cast<const float*>(m.data);
    int width = kPanel * kLanes;
    for (int c0 = 0; c0 < m.padded; c0 += width) {
      while (width > m.padded - c0) width /= 2;
      const float* w = panel + int64_t(r) * width;
      panel += int64_t(m.rows) * width;
      int c = 0;
      for (; c + 4 * kLanes <= width; c += 4 * kLanes)
        DTAG_UNROLL for (int a = 0; a < 4; ++a)
          acc[a] = fma(load(w + c + a * kLanes), load(x + c0 + c + a * kLanes), acc[a]);
      for (; c < width; c += kLanes) acc[0] = fma(load(w + c), load(x + c0 + c), acc[0]);
    }
    out[r] = (init ? init[r] : 0.f) + sum_lanes((acc[0] + acc[1]) + (acc[2] + acc[3]));
  }
  zero_padding(m.rows, out);
}

// The set bits of each 8-bit number, in order.
struct BitTable {
  uint16_t bits[256][8];
  constexpr BitTable() : bits{} {
    for (int mask = 0; mask < 256; ++mask)
      for (int bit = 0, n = 0; bit < 8; ++bit)
        if (mask >> bit & 1) bits[mask][n++] = uint16_t(bit);
  }
};
static constexpr BitTable kBitTable;

// Numbers of the entries of z[0..width) that are above zero or NaN. `rows` has room for kPrefetch + 8 more.
static int find_live(const float* z, int width, uint16_t* rows) {
  typedef uint16_t u16x8 __attribute__((vector_size(16)));
  constexpr int kGroup = kLanes < 8 ? kLanes : 8;
  int n = 0;
  for (int i = 0; i < width; i += kLanes) {
    uint32_t bits = ~movemask(load(z + i) <= 0.f);
    if (width - i < kLanes) bits &= (1u << (width - i)) - 1u;
    DTAG_UNROLL for (int g = 0; g < kLanes; g += kGroup) {
      const uint32_t mask = bits >> g & ((1u << kGroup) - 1u);
      store(rows + n, load<u16x8>(kBitTable.bits[mask]) + uint16_t(i + g));
      n += __builtin_popcount(mask);
    }
  }
  for (int t = 0; t < kPrefetch; ++t) rows[n + t] = 0;
  return n;
}

}  // namespace dtag::DTAG_ISA
