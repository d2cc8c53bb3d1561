// Rows of numbers, rounded to bf16, times a matrix of bf16 weights in panels of columns, with sums in float32. A unit with tile
// registers or a bf16 dot product has two inputs' weights in a word; another multiplies rounded numbers in float32, where each
// product is exact.
#pragma once
#include "cpu/matrix_tiles.h"
#include "cpu/panel_product.h"

namespace dtag::DTAG_ISA {

#if defined(DTAG_TILES) || defined(DTAG_BF16_DOT)
constexpr bool kBf16Pairs = true;
#else
constexpr bool kBf16Pairs = false;
#endif
static_assert(!kTiles || (kPanelWidth == 2 * kTile && kPairedInputs == kTileDepth));

// Inputs of a matrix of pairs, with the zeros behind the last: see PanelMatrix.
DTAG_INLINE int64_t padded_inputs(int64_t in) { return (in + kPairedInputs - 1) / kPairedInputs * kPairedInputs; }
DTAG_INLINE int64_t padded_rows(int64_t rows) { return (rows + 2 * kTile - 1) / (2 * kTile) * (2 * kTile); }

// Bytes of rows of `in` numbers as bf16_rows leaves them.
DTAG_INLINE int64_t bf16_row_bytes(int64_t in) { return padded_inputs(in) * (kBf16Pairs ? 2 : 4); }

DTAG_INLINE void store_bf16(uint16_t* to, vf x) {
#if defined(DTAG_INTRINSICS_AVX512BF16) && !defined(DTAG_USE_SIMDE)
  store(to, _mm512_cvtneps_pbh(bits_as<__m512>(x)));
#else
  typedef uint16_t Halves __attribute__((vector_size(2 * DTAG_LANES)));
  store(to, __builtin_convertvector(round_bf16(x) >> 16, Halves));
#endif
}

// Rows of `in` numbers, of which whole vectors can be read, rounded; zeros behind the last.
DTAG_FUNCTION void bf16_rows(int64_t rows, int in, const float* from, int64_t stride, void* to) {
  const int64_t bytes = bf16_row_bytes(in), padded = padded_inputs(in);
  for (int64_t r = 0; r < rows; ++r, from += stride) {
    char* row = static_cast<char*>(to) + r * bytes;
    const auto put_rounded = [=](int i, vf x) DTAG_LAMBDA {
      if constexpr (kBf16Pairs)
        store_bf16(reinterpret_cast<uint16_t*>(row) + i, x);
      else
        store(reinterpret_cast<float*>(row) + i, bits_as<vf>(round_bf16(x) & 0xffff0000u));
    };
    int i = 0;
    for (; i + kLanes <= in; i += kLanes) put_rounded(i, load(from + i));
    if (i < in) {
      vf last = {};
      for (int l = 0; i + l < in; ++l) last[l] = from[i + l];
      put_rounded(i, last);
      i += kLanes;
    }
    for (; i < padded; i += kLanes) put_rounded(i, vf{});
  }
}

// M rows of `pairs` words, one panel.
template <int M>
static void pair_block(const uint32_t* in, int64_t in_stride, int pairs, const uint32_t* panel, const float* from, float* out,
                       int64_t out_stride) {
  vf acc[M][kVectors];
  DTAG_UNROLL for (int v = 0; v < kVectors; ++v) {
    const vf start = load(from + v * kLanes);
    DTAG_UNROLL for (int m = 0; m < M; ++m) acc[m][v] = start;
  }
  for (int k = 0; k < pairs; ++k, panel += kPanelWidth, ++in) {
    vu w[kVectors];
    DTAG_UNROLL for (int v = 0; v < kVectors; ++v) w[v] = load<vu>(panel + v * kLanes);
    DTAG_UNROLL for (int m = 0; m < M; ++m) {
      const vu x = splat_bits(in[m * in_stride]);
      DTAG_UNROLL for (int v = 0; v < kVectors; ++v) acc[m][v] = dot_bf16(acc[m][v], x, w[v]);
    }
  }
  DTAG_UNROLL for (int m = 0; m < M; ++m)
    DTAG_UNROLL for (int v = 0; v < kVectors; ++v) store(out + m * out_stride + v * kLanes, acc[m][v]);
}

template <int M>
static void pair_rows(int64_t rows, const uint32_t* in, int64_t in_stride, int pairs, const uint32_t* panel, const float* from,
                      float* out, int64_t out_stride) {
  if constexpr (M > 0) {
    for (; rows >= M; rows -= M, in += M * in_stride, out += M * out_stride)
      pair_block<M>(in, in_stride, pairs, panel, from, out, out_stride);
    if (rows > 0) pair_rows<M - 1>(rows, in, in_stride, pairs, panel, from, out, out_stride);
  }
}

// One panel over rows in tiles; whole tiles of `in` can be read.
static void tile_rows(int64_t rows, const void* in, int64_t row_bytes, int steps, const uint32_t* panel, const float* from,
                      float* out, int64_t out_stride) {
  const TileColumns columns{panel, 4 * kPanelWidth};
  const auto rows_from = [=](int64_t r) {
    return TileRows{static_cast<const char*>(in) + r * row_bytes, row_bytes, 2 * kTileDepth, kTile * row_bytes};
  };
  int64_t r = 0;
  for (; r + 2 * kTile <= rows; r += 2 * kTile)
    tile_block<true, true>(rows_from(r), columns, steps, from, out + r * out_stride, out_stride);
  if (r == rows) return;
  float whole[2 * kTile * kPanelWidth];  // results of the rows that there are go on to `out`
  rows - r > kTile ? tile_block<true, true>(rows_from(r), columns, steps, from, whole, kPanelWidth)
                   : tile_block<false, true>(rows_from(r), columns, steps, from, whole, kPanelWidth);
  for (int64_t m = 0; r + m < rows; ++m)
    for (int v = 0; v < kPanelWidth; v += kLanes) store(out + (r + m) * out_stride + v, load(whole + m * kPanelWidth + v));
}

// out = in W' + b. `rounded`: room for padded_rows(rows) rows of bf16_row_bytes(m.in) where the matrix is bf16.
static void linear(const PanelMatrix& m, int64_t rows, const float* in, int64_t in_stride, float* out, int64_t out_stride,
                   void* rounded) {
  if (!m.bf16) return linear(m, rows, in, in_stride, out, out_stride);
  bf16_rows(rows, m.in, in, in_stride, rounded);
  const int64_t row_bytes = bf16_row_bytes(m.in);
  if constexpr (!kBf16Pairs) {
    return linear(m, rows, static_cast<const float*>(rounded), row_bytes / 4, out, out_stride);
  } else {
    const int pairs = int(padded_inputs(m.in) / 2);
    const uint32_t* panel = static_cast<const uint32_t*>(m.panels);
    for (int c = 0; c < m.padded; c += kPanelWidth, panel += int64_t(pairs) * kPanelWidth)
      if constexpr (kTiles)
        tile_rows(rows, rounded, row_bytes, pairs * 2 / kTileDepth, panel, m.bias + c, out + c, out_stride);
      else
        pair_rows<kBlock>(rows, static_cast<const uint32_t*>(rounded), row_bytes / 4, (m.in + 1) / 2, panel, m.bias + c,
                          out + c, out_stride);
  }
}

}  // namespace dtag::DTAG_ISA
