// Layer by layer over the rows of a tile: what stands between two products, one member forward, and back to the action.
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

template <Activation kind>
DTAG_INLINE void activation_over(const DeviceOp& op, int count, Shared<float> y, Shared<float> slopes) {
  for (int at = thread_index(); at < count; at += kThreads) {
    float value, slope;
    activate<kind, float>(y[at], op.p0, op.p1, value, slope);
    y[at] = value;
    slopes[at] = slope;
  }
}

DTAG_INLINE void activation_forward(const DeviceOp& op, int count, Shared<float> y, Shared<float> slopes) {
  switch (op.kind) {
    case Activation::relu: activation_over<Activation::relu>(op, count, y, slopes); break;
    case Activation::leaky_relu: activation_over<Activation::leaky_relu>(op, count, y, slopes); break;
    case Activation::elu: activation_over<Activation::elu>(op, count, y, slopes); break;
    case Activation::gelu: activation_over<Activation::gelu>(op, count, y, slopes); break;
    case Activation::gelu_tanh: activation_over<Activation::gelu_tanh>(op, count, y, slopes); break;
    case Activation::silu: activation_over<Activation::silu>(op, count, y, slopes); break;
    case Activation::mish: activation_over<Activation::mish>(op, count, y, slopes); break;
    case Activation::tanh: activation_over<Activation::tanh>(op, count, y, slopes); break;
    case Activation::softplus: activation_over<Activation::softplus>(op, count, y, slopes); break;
    case Activation::identity: break;  // the layout leaves it out
  }
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

// The state's share of the first layer, bias included, to `folded` [out][rows]. `read_state(s, row)` gives the states; all
// units serve as room for them.
template <class Tile, class State>
DTAG_INLINE void fold_state(const DeviceProgram& p, const TileMemory& m, const DeviceMember& member, float* folded,
                            State read_state) {
  const DeviceStage& first = p.stages[member.stages];
  const Shared<float> slab = shared_part<float>(m.units, int64_t(p.units) * Tile::kRows);
  for (int from = 0; from < p.state_dim; from += p.units) {
    const int count = p.state_dim - from < p.units ? p.state_dim - from : p.units;
    for (int at = thread_index(); at < count * Tile::kRows; at += kThreads)
      slab[at] = read_state(from + at / Tile::kRows, at % Tile::kRows);
    sync_block();
    Product f{};
    f.matrix = p.numbers + member.state + int64_t(from) * first.out_padded;
    f.inputs = count;
    f.outputs = first.out;
    f.padded = first.out_padded;
    f.x = m.units;
    f.scratch = m.scratch;
    if (from == 0)
      f.bias = p.numbers + first.bias;
    else
      f.base = folded;
    f.global_y = folded;
    f.finish = Finish::to_global;
    product<Tile>(f);
  }
}

// Everything a member's backward pass needs, and its Q in the unit of its last stage.
template <class Tile>
DTAG_INLINE void member_forward(const DeviceProgram& p, const TileMemory& m, const DeviceMember& member, const float* folded) {
  for (int l = 0; l < member.depth; ++l) {
    const DeviceStage& stage = p.stages[member.stages + l];
    Product f{};
    f.matrix = p.numbers + stage.forward;
    f.inputs = stage.in;
    f.outputs = stage.out;
    f.padded = stage.out_padded;
    f.x = l == 0 ? m.action : unit_offset<Tile>(m, p.stages[member.stages + l - 1].value);
    f.y = unit_offset<Tile>(m, stage.value);
    f.scratch = m.scratch;
    if (l == 0)
      f.base = folded;
    else
      f.bias = p.numbers + stage.bias;
    f.finish = stage.relu && stage.op_count == 0 ? Finish::relu : Finish::store;
    product<Tile>(f);
    ops_forward<Tile>(p, m, stage, p.units);
  }
}

// dQ/da times `seed` into the action's gradient, in the rows of m.take or, with `add`, added to it.
template <class Tile>
DTAG_INLINE void member_backward(const DeviceProgram& p, const TileMemory& m, const DeviceMember& member, float seed, bool add) {
  const DeviceStage& last = p.stages[member.stages + member.depth - 1];
  const Shared<float> q = shared_part<float>(unit_offset<Tile>(m, last.value), Tile::kRows);
  if (thread_index() < Tile::kRows) q[thread_index()] = seed;
  sync_block();
  for (int l = member.depth - 1; l >= 0; --l) {
    const DeviceStage& stage = p.stages[member.stages + l];
    ops_backward<Tile>(p, m, stage, p.units);
    Product f{};
    f.matrix = p.numbers + stage.backward;
    f.inputs = stage.out;
    f.outputs = stage.in;
    f.padded = stage.in_padded;
    f.x = unit_offset<Tile>(m, stage.value);
    f.scratch = m.scratch;
    f.take = m.take;
    if (l > 0) {
      const DeviceStage& before = p.stages[member.stages + l - 1];
      f.y = unit_offset<Tile>(m, before.value);
      f.finish = before.relu ? Finish::mask : Finish::store;
    } else {
      f.y = m.grad;
      f.finish = add ? Finish::add : Finish::to_chosen;
    }
    product<Tile>(f);
  }
}

}  // namespace dtag::gpu
