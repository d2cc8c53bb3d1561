// Any program, any option, on tensor cores: as the generic kernel, with bf16 numbers between the layers. Sums, outputs, and
// the walk over the actions are float32.
#pragma once
#include "cuda/refine/ensemble.h"
#include "cuda/refine/row_clock.h"
#include "cuda/refine/tensor_layers.h"
#include "cuda/refine/tensor_params.h"
#include "cuda/refine/tensor_product.h"

namespace dtag::gpu {

using cuda::TensorParams;

// Inputs first..first + count of the `inputs` of the first layer, all parts of them; `get(i, row)` gives them.
template <class Tile, class Get>
DTAG_INLINE void write_inputs(const TensorParams& g, int inputs, int columns, int first, int count, Get get) {
  const int stride = columns + 8;
  const Shared<uint16_t> x = shared_part<uint16_t>(g.memory.inputs, int64_t(stride) * Tile::kRows);
  for (int at = thread_index(); at < count * Tile::kRows; at += cuda::kThreads) {
    const int row = at % Tile::kRows, i = at / Tile::kRows;
    const float value = get(i, row);
    const uint32_t rounded = pack_bf16(value, 0.f);
    const uint32_t rest = pack_bf16(remainder_of(value, unpack_bf16(rounded).a), 0.f);
    DTAG_UNROLL
    for (int part = 0; part < Tile::kInputParts; ++part)
      x[row * stride + part * inputs + first + i] = uint16_t(part == 1 ? rest : rounded);
  }
  const int used = Tile::kInputParts * inputs;
  if (first == 0)
    for (int at = thread_index(); at < (columns - used) * Tile::kRows; at += cuda::kThreads)
      x[at % Tile::kRows * stride + used + at / Tile::kRows] = uint16_t(0);
}

DTAG_INLINE int padded16(int n) { return (n + 15) / 16 * 16; }

// The states' share of all first layers, biases included, to `folded`.
template <class Tile, class State>
DTAG_INLINE void fold_states(const TensorParams& g, float* folded, TensorStream<Tile::kParts>& stream,
                             State read_state) {
  const TensorProgram& p = g.program;
  for (int e = 0; e < p.member_count; ++e) {
    const TensorStage& stage = p.stages[p.members[e].stages];
    for (int from = 0; from < p.state_dim; from += p.slab) {
      const int count = p.state_dim - from < p.slab ? p.state_dim - from : p.slab;
      TensorProduct f{};
      f.inputs = padded16(Tile::kInputParts * count);
      f.outputs = stage.out;
      f.width = stage.width;
      f.x = g.memory.inputs;
      f.numbers = p.numbers;
      f.bias = from == 0 ? stage.bias : -1;
      f.folded = folded + int64_t(p.members[e].base) * kPanel * Tile::kRows;
      f.folded_base = from > 0;
      f.finish = TensorFinish::fold;
      write_inputs<Tile>(g, count, f.inputs, 0, count, [&](int i, int r) DTAG_LAMBDA { return read_state(from + i, r); });
      tensor_product<Tile, 1>(f, stream);
    }
  }
}

// Q of every row and, when `with_gradient`, its gradient, reduced over the members.
template <class Tile>
DTAG_INLINE void tensor_evaluate(const TensorParams& g, float* folded, bool with_gradient,
                                 TensorStream<Tile::kParts>& stream) {
  const TensorProgram& p = g.program;
  const TensorMemory& m = g.memory;
  const bool mean = g.settings.reduce == Reduce::mean;
  const float share = mean ? 1.f / float(p.member_count) : 1.f;
  if (stream.with_gradient() != with_gradient) stream.start(p.fold_matrices, with_gradient);
  const Shared<const float> action = shared_part<float>(m.walk.action, int64_t(p.action_dim) * Tile::kRows);
  write_inputs<Tile>(g, p.inputs, padded16(Tile::kInputParts * p.inputs), 0, p.action_dim,
                     [&](int i, int r) DTAG_LAMBDA { return float(action[i * Tile::kRows + r]); });
  for (int e = 0; e < p.member_count; ++e) {
    const TensorMember& member = p.members[e];
    const TensorStage* stages = p.stages + member.stages;
    for (int l = 0; l < member.depth; ++l) {
      const TensorStage& stage = stages[l];
      TensorProduct f{};
      f.inputs = stage.in;
      f.outputs = stage.out;
      f.width = stage.width;
      f.y = plane_offset<Tile>(m, stage.value);
      f.finish = stage.relu && stage.op_count == 0 ? TensorFinish::relu : TensorFinish::store;
      f.numbers = p.numbers;
      f.bias = l == 0 && p.fold ? -1 : stage.bias;
      if (l == 0) {
        f.x = m.inputs;
        f.folded = folded + int64_t(member.base) * kPanel * Tile::kRows;
        f.folded_base = p.fold;
        tensor_product<Tile, 1>(f, stream);
      } else {
        f.x = plane_offset<Tile>(m, stages[l - 1].value);
        tensor_product<Tile, Tile::kParts>(f, stream);
      }
      if (l + 1 < member.depth && stage.op_count > 0)
        over_rows<Tile>(p, m, stage, [&](const RowOps<Tile>& ops) DTAG_LAMBDA { ops.forward(); });
    }
    head<Tile>(p, m, member, with_gradient);
    if (thread_index() < Tile::kRows) {
      const int r = thread_index();
      join_member<Tile>(m.walk, g.settings.reduce, e, share, r, shared_part<float>(m.walk.q_member, Tile::kRows)[r]);
    }
    sync_block();
    if (!with_gradient) continue;
    for (int l = member.depth - 1; l > 0; --l) {
      const TensorStage &stage = stages[l], &before = stages[l - 1];
      TensorProduct f{};
      f.inputs = stage.out;
      f.outputs = before.out;
      f.width = before.width;
      f.x = plane_offset<Tile>(m, stage.value);
      f.y = plane_offset<Tile>(m, before.value);
      f.bias = -1;
      f.finish = before.relu ? TensorFinish::mask : TensorFinish::store;
      tensor_product<Tile, Tile::kParts>(f, stream);
      if (before.op_count > 0)
        over_rows<Tile>(p, m, before, [&](const RowOps<Tile>& ops) DTAG_LAMBDA { ops.backward(); });
    }
    const GradientTo to{m.walk.grad, m.walk.take, p.action_dim, share, mean && e > 0};
    const uint32_t x = plane_offset<Tile>(m, stages[0].value);
    if (p.action_dim <= cuda::kNarrowOutputs) {
      narrow_product<Tile>(stages[0].out, x, to, stream);
    } else {
      TensorProduct f{};
      f.inputs = stages[0].out;
      f.outputs = padded16(p.action_dim);
      f.width = p.action_dim;
      f.x = x;
      f.bias = -1;
      f.finish = TensorFinish::gradient;
      f.gradient = to;
      tensor_product<Tile, Tile::kParts>(f, stream);
    }
  }
}

template <class Tile>
DTAG_KERNEL(cuda::kThreads)
tensor_kernel(const DTAG_GRID_CONSTANT TensorParams g) {
  const TensorProgram& p = g.program;
  const TileRows<Tile> rows(g.call, g.settings, g.memory.walk, p.action_dim);
  float* folded = g.folded + int64_t(block_index()) * p.base_panels * kPanel * Tile::kRows;
  TensorStream<Tile::kParts> stream(p, g.memory.slots);
  stream.start(p.fold_matrices, true);
  for (int64_t tile = block_index(); tile < g.tiles; tile += block_count()) {
    for (int first = 0; first < g.call.candidates; first += rows.candidates_each()) {
      const int64_t state = tile * rows.states_each();
      rows.begin(state, first);
      const auto read_state = [&](int s, int r) DTAG_LAMBDA { return rows.state(state, r, s); };
      if (first == 0) {
        if (p.fold) {
          stream.start(0, true);
          fold_states<Tile>(g, folded, stream, read_state);
        } else {
          write_inputs<Tile>(g, p.inputs, p.input_columns, p.action_dim, p.state_dim, read_state);
        }
      }
      const RowClock<Tile> clock(g.memory.clock);
      clock.begin();
      int i = 0;
      for (bool more = true; more && rows.any_walking(); ++i) {
        more = rows.any_going_on(i);
        if (more || rows.last_q_needed()) tensor_evaluate<Tile>(g, folded, more, stream);
        rows.observe(state, first, i);
        if (more) rows.step(state, first, i, clock.ticked(g.settings));
      }
      rows.finish(state, first, i);
    }
  }
  stream.stop();
}

}  // namespace dtag::gpu
