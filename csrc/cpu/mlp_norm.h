// LayerNorm and the activation behind it over rows of a hidden layer, forwards and backwards.
#pragma once
#include "cpu/simd.h"
#include "cpu/strip_product.h"  // kBlock: rows whose sums are kept together
#include "refine/activations.h"

namespace dtag::DTAG_ISA {

// Of rows `padded` numbers apart, the last padded - width of them zeros, as behind scale and shift.
struct RowNorm {
  const float *scale, *shift;
  int width, padded;
};

// z becomes n = (z - mean) rstd, hidden = activation(n scale + shift). What n has behind `width` is not to be read. rstd: null
// where nobody wants it.
template <Activation kind>
static void norm_rows_forward(const RowNorm& w, float eps, int64_t rows, float* z, float* hidden, float* rstd) {
  for (int64_t r = 0; r < rows; ++r, z += w.padded, hidden += w.padded) {
    vf sum = {}, squares = {};
    for (int u = 0; u < w.padded; u += kLanes) sum += load(z + u);
    const float mean = sum_lanes(sum) / float(w.width);
    int u = 0;
    for (; u + kLanes <= w.width; u += kLanes) {
      const vf d = load(z + u) - mean;
      squares = fma(d, d, squares);
    }
    float total = sum_lanes(squares);
    for (; u < w.width; ++u) total = fma(z[u] - mean, z[u] - mean, total);
    const float inverse = 1.f / sqrt(total / float(w.width) + eps);
    if (rstd) rstd[r] = inverse;
    for (u = 0; u < w.padded; u += kLanes) {
      const vf n = (load(z + u) - mean) * inverse;
      vf value, slope;
      activate<kind>(fma(n, load(w.scale + u), load(w.shift + u)), 1.f, 20.f, value, slope);
      store(z + u, n);
      store(hidden + u, value);
    }
  }
}

// The gradient of hidden becomes that of z, with d that of what the activation is given:
//   g = rstd (g' - mean(g') - n mean(g' n)), g' = d scale
// sums, unless null: [rows / kBlock, rounded up][2][padded], those of d n and of d over each kBlock rows.
template <Activation kind>
static void norm_rows_backward(const RowNorm& w, int64_t rows, const float* normal, const float* rstd, float* grad, float* sums) {
  for (int64_t r = 0; r < rows; ++r, normal += w.padded, grad += w.padded) {
    if (sums && r && r % kBlock == 0) sums += 2 * w.padded;
    const bool first = r % kBlock == 0;
    vf sum = {}, dot = {};
    for (int u = 0; u < w.padded; u += kLanes) {
      const vf n = load(normal + u), scale = load(w.scale + u);
      vf value, slope;
      activate<kind>(fma(n, scale, load(w.shift + u)), 1.f, 20.f, value, slope);
      const vf d = load(grad + u) * slope, scaled = d * scale;
      sum += scaled;
      dot = fma(scaled, n, dot);
      store(grad + u, scaled);
      if (!sums) continue;
      store(sums + u, fma(d, n, first ? vf{} : load(sums + u)));
      store(sums + w.padded + u, d + (first ? vf{} : load(sums + w.padded + u)));
    }
    const float mean = sum_lanes(sum) / float(w.width), along = sum_lanes(dot) / float(w.width);
    for (int u = 0; u < w.padded; u += kLanes)
      store(grad + u, (load(grad + u) - mean - load(normal + u) * along) * rstd[r]);
  }
}

}  // namespace dtag::DTAG_ISA
