// Rows of numbers times a matrix in panels of columns: a lane is a column, so a row's numbers are broadcast and no row can
// touch another's bits; each result is one chain of fused multiply-adds over the inputs, in order, however many rows there are.
//
//   out[row][column] = init[column] + sum_k in[row][k] panel[k][column]
#pragma once
#include "cpu/decoder.h"
#include "cpu/strip_product.h"  // kBlock, kVectors: the shape of the block of accumulators in registers

namespace dtag::DTAG_ISA {

constexpr int kPanelWidth = kVectors * kLanes;

// The stride of rows whose numbers lie side by side: columns of a matrix taken as rows.
struct Adjacent {
  constexpr operator int64_t() const { return 1; }
};

// M rows, one panel. `from`: kPanelWidth numbers to start from, null for zero. Rows are `stride` numbers apart, a row's
// numbers in_step.
template <int M, class Stride>
static void panel_block(const float* in, Stride in_stride, int depth, const float* panel, int64_t panel_stride,
                        const float* from, float* out, int64_t out_stride, int64_t in_step = 1) {
  vf acc[M][kVectors];
  DTAG_UNROLL for (int v = 0; v < kVectors; ++v) {
    const vf start = from ? load(from + v * kLanes) : vf{};
    DTAG_UNROLL for (int m = 0; m < M; ++m) acc[m][v] = start;
  }
  for (int k = 0; k < depth; ++k, panel += panel_stride, in += in_step) {
    vf w[kVectors];
    DTAG_UNROLL for (int v = 0; v < kVectors; ++v) w[v] = load(panel + v * kLanes);
    DTAG_UNROLL for (int m = 0; m < M; ++m) {
      const vf x = splat(in[m * in_stride]);
      DTAG_UNROLL for (int v = 0; v < kVectors; ++v) acc[m][v] = fma(x, w[v], acc[m][v]);
    }
  }
  DTAG_UNROLL for (int m = 0; m < M; ++m)
    DTAG_UNROLL for (int v = 0; v < kVectors; ++v) store(out + m * out_stride + v * kLanes, acc[m][v]);
}

template <int M, class Stride>
static void last_rows(int rows, const float* in, Stride in_stride, int depth, const float* panel, int64_t panel_stride,
                      const float* from, float* out, int64_t out_stride, int64_t in_step = 1) {
  if constexpr (M > 0) {
    if (rows == M) return panel_block<M>(in, in_stride, depth, panel, panel_stride, from, out, out_stride, in_step);
    last_rows<M - 1>(rows, in, in_stride, depth, panel, panel_stride, from, out, out_stride, in_step);
  }
}

static void panel_product(int rows, const float* in, int64_t in_stride, int depth, const float* panel, int64_t panel_stride,
                          const float* from, float* out, int64_t out_stride) {
  int r = 0;
  for (; r + kBlock <= rows; r += kBlock)
    panel_block<kBlock>(in + r * in_stride, in_stride, depth, panel, panel_stride, from, out + r * out_stride, out_stride);
  if (r < rows)
    last_rows<kBlock - 1>(rows - r, in + r * in_stride, in_stride, depth, panel, panel_stride, from, out + r * out_stride,
                          out_stride);
}

// out = in W' + b; rows of `out` have room for m.padded numbers.
static void linear(const PanelMatrix& m, int64_t rows, const float* in, int64_t in_stride, float* out, int64_t out_stride) {
  const float* panel = static_cast<const float*>(m.panels);
  for (int c = 0; c < m.padded; c += kPanelWidth, panel += int64_t(m.in) * kPanelWidth)
    panel_product(int(rows), in, in_stride, m.in, panel, kPanelWidth, m.bias + c, out + c, out_stride);
}

}  // namespace dtag::DTAG_ISA
