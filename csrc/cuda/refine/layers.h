// Layer by layer over the rows of a tile: what stands between two products.
#pragma once
#include "cuda/refine/device_program.h"
#include "cuda/refine/product.h"

namespace dtag::gpu {

using cuda::DeviceMember;
using cuda::DeviceOp;
using cuda::DeviceProgram;
using cuda::DeviceStage;
using cuda::TileMemory;

// Sum over `width` units of row `row` of what `number` gives for a unit, the same for all threads of the row. All threads.
template <class Tile, class Number>
DTAG_INLINE float sum_over_units(const TileMemory& m, int width, Number number) {
  constexpr int kRows = Tile::kRows, kParts = kThreads / kRows;
  const Shared<float> scratch = shared_part<float>(m.scratch, Tile::kScratchFloats);  // [part][row]
  const int row = thread_index() % kRows, part = thread_index() / kRows;
  float sum = 0.f;
  for (int u = part; u < width; u += kParts) sum += number(u * kRows + row);
  scratch[part * kRows + row] = sum;
  sync_block();
  sum = 0.f;
  for (int s = 0; s < kParts; ++s) sum += scratch[s * kRows + row];
  sync_block();
  return sum;
}

// In place; saves the normalised values and 1 / standard deviation.
template <class Tile>
DTAG_INLINE void norm_forward(const DeviceProgram& p, const TileMemory& m, const DeviceOp& op, int width, Shared<float> y,
                              Shared<float> units) {
  constexpr int kRows = Tile::kRows, kParts = kThreads / kRows;
  const int row = thread_index() % kRows, part = thread_index() / kRows;
  const float mean = sum_over_units<Tile>(m, width, [&](int at) DTAG_LAMBDA { return float(y[at]); }) / float(width);
  const float squares = sum_over_units<Tile>(m, width, [&](int at) DTAG_LAMBDA {
    const float d = y[at] - mean;
    return d * d;
  });
  const float rstd = 1.f / sqrt(squares / float(width) + op.p0);
  if (part == 0) units[op.saved_rstd * kRows + row] = rstd;
  for (int u = part; u < width; u += kParts) {
    const int at = u * kRows + row;
    const float n = (y[at] - mean) * rstd;
    units[op.saved * kRows + at] = n;
    y[at] = fma(n, p.numbers[op.scale + u], p.numbers[op.shift + u]);
  }
  sync_block();
}

// g = rstd * (g' - mean(g') - n * mean(g' n)) with g' = g * scale and n the normalised value.
template <class Tile>
DTAG_INLINE void norm_backward(const DeviceProgram& p, const TileMemory& m, const DeviceOp& op, int width, Shared<float> g,
                               Shared<float> units) {
  constexpr int kRows = Tile::kRows, kParts = kThreads / kRows;
  const int row = thread_index() % kRows, part = thread_index() / kRows;
  const Shared<const float> n = units + op.saved * kRows;
  const auto scaled = [&](int at) DTAG_LAMBDA { return g[at] * p.numbers[op.scale + at / kRows]; };
  const float mean = sum_over_units<Tile>(m, width, scaled) / float(width);
  const float slope = sum_over_units<Tile>(m, width, [&](int at) DTAG_LAMBDA { return scaled(at) * n[at]; }) / float(width);
  const float rstd = units[op.saved_rstd * kRows + row];
  for (int u = part; u < width; u += kParts) {
    const int at = u * kRows + row;
    g[at] = (scaled(at) - mean - n[at] * slope) * rstd;
  }
  sync_block();
}

DTAG_INLINE void activation_forward(const DeviceOp& op, int count, Shared<float> y, Shared<float> slopes) {
  with_activation(op.kind, [&]<Activation kind>() DTAG_LAMBDA {
    for (int at = thread_index(); at < count; at += kThreads) {
      float value, slope;
      activate<kind, float>(y[at], op.p0, op.p1, value, slope);
      y[at] = value;
      slopes[at] = slope;
    }
  });
  sync_block();
}

template <class Tile>
DTAG_INLINE void ops_forward(const DeviceProgram& p, const TileMemory& m, const DeviceStage& stage, int64_t units_count) {
  const Shared<float> units = shared_part<float>(m.units, units_count * Tile::kRows);
  const Shared<float> y = units + stage.value * Tile::kRows;
  for (int i = 0; i < stage.op_count; ++i) {
    const DeviceOp& op = p.ops[stage.ops + i];
    if (op.is_norm)
      norm_forward<Tile>(p, m, op, stage.out, y, units);
    else
      activation_forward(op, stage.out * Tile::kRows, y, units + op.saved * Tile::kRows);
  }
  if (stage.op_count > 0 && stage.relu) {  // otherwise the product did it
    for (int at = thread_index(); at < stage.out * Tile::kRows; at += kThreads) {
      const float v = y[at];
      y[at] = v <= 0.f ? 0.f : v;
    }
    sync_block();
  }
}

// From the gradient of the stage's output, its ReLU passed already, to that of its sums.
template <class Tile>
DTAG_INLINE void ops_backward(const DeviceProgram& p, const TileMemory& m, const DeviceStage& stage, int64_t units_count) {
  const Shared<float> units = shared_part<float>(m.units, units_count * Tile::kRows);
  const Shared<float> g = units + stage.value * Tile::kRows;
  for (int i = stage.op_count - 1; i >= 0; --i) {
    const DeviceOp& op = p.ops[stage.ops + i];
    if (op.is_norm) {
      norm_backward<Tile>(p, m, op, stage.out, g, units);
      continue;
    }
    for (int at = thread_index(); at < stage.out * Tile::kRows; at += kThreads) g[at] = g[at] * units[op.saved * Tile::kRows + at];
    sync_block();
  }
}

template <class Tile>
DTAG_INLINE uint32_t unit_offset(const TileMemory& m, int unit) {
  return m.units + uint32_t(unit) * Tile::kRows * 4;
}

}  // namespace dtag::gpu
