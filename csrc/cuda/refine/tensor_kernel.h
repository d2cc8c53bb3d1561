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
  for (int at = anew(thread_index()); at < count * Tile::kRows; at += cuda::kThreads) {
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

// `folded`: where the states' share is. `read_state(s, row)` gives the states.
template <class Tile, class State>
DTAG_INLINE void tensor_evaluate(const TensorParams& g, float* folded, Evaluate what, TensorStream<Tile::kParts>& stream,
                                 State read_state) {
  const TensorProgram& p = g.program;
  const TensorMemory& m = g.memory;
  const bool mean = g.settings.reduce == Reduce::mean;
  const float share = mean ? 1.f / float(p.member_count) : 1.f;
  const bool folds = what == Evaluate::states, with_gradient = what == Evaluate::gradient;
  if (folds) {
    stream.start(0, true);
  } else {
    if (stream.with_gradient() != with_gradient) stream.start(p.fold_matrices, with_gradient);
    const Shared<const float> action = shared_part<float>(m.walk.action, int64_t(p.action_dim) * Tile::kRows);
    write_inputs<Tile>(g, p.inputs, padded16(Tile::kInputParts * p.inputs), 0, p.action_dim,
                       [&](int i, int r) DTAG_LAMBDA { return float(action[i * Tile::kRows + r]); });
  }
  for (int e = 0; e < p.member_count; ++e) {
    const TensorMember& member = p.members[e];
    const TensorStage* stages = p.stages + member.stages;
    // Forward through the layers, then back through as many, or through the states a slab at a time; a single place calls each
    // kind of product, or the code is several times as large.
    const int turn = folds ? (p.state_dim + p.slab - 1) / p.slab : member.depth, steps = with_gradient ? 2 * turn : turn;
    for (int step = 0; step < steps; ++step) {
      const bool back = step >= turn;
      const int l = folds ? 0 : back ? steps - 1 - step : step;
      const TensorStage &stage = stages[l], &next = stages[l > 0 ? l - 1 : 0];  // next: the one that a step back leads to
      TensorProduct f{};
      f.bias = -1;
      f.folded = folded + int64_t(member.base) * kPanel * Tile::kRows;
      if (back && l == 0) {
        const GradientTo to{m.walk.grad, m.walk.take, p.action_dim, share, mean && e > 0};
        for (int first = 0; first < p.action_dim; first += cuda::kNarrowOutputs)
          narrow_product<Tile>(stage.out, plane_offset<Tile>(m, stage.value), to, first, stream);
        continue;
      }
      if (folds) {
        const int from = step * p.slab, count = p.state_dim - from < p.slab ? p.state_dim - from : p.slab;
        f.inputs = padded16(Tile::kInputParts * count);
        f.outputs = stage.out;
        f.width = stage.width;
        f.x = m.inputs;
        f.bias = step == 0 ? stage.bias : -1;
        f.folded_base = step > 0;
        f.finish = TensorFinish::fold;
        write_inputs<Tile>(g, count, f.inputs, 0, count, [&](int i, int r) DTAG_LAMBDA { return read_state(from + i, r); });
      } else if (back) {
        f.inputs = stage.out;
        f.outputs = next.out;
        f.width = next.width;
        f.x = plane_offset<Tile>(m, stage.value);
        f.y = plane_offset<Tile>(m, next.value);
        f.finish = next.relu ? TensorFinish::mask : TensorFinish::store;
      } else {
        f.inputs = stage.in;
        f.outputs = stage.out;
        f.width = stage.width;
        f.x = l == 0 ? m.inputs : plane_offset<Tile>(m, next.value);
        f.y = plane_offset<Tile>(m, stage.value);
        f.finish = stage.relu && stage.op_count == 0 ? TensorFinish::relu : TensorFinish::store;
        f.bias = l == 0 && p.fold ? -1 : stage.bias;
        f.folded_base = l == 0 && p.fold;
      }
      if (Tile::kParts == 1 || (l == 0 && !back))
        tensor_product<Tile, 1>(f, p.numbers, stream);
      else
        tensor_product<Tile, Tile::kParts>(f, p.numbers, stream);
      if (folds) continue;
      const bool last = !back && l + 1 == turn;
      const TensorStage& made = back ? next : stage;
      if (last || made.op_count > 0)
        over_rows<Tile>(p, m, made, [&](const RowOps<Tile>& ops) DTAG_LAMBDA {
          if (!back) ops.forward();
          if (last) ops.head(member, with_gradient);
          if (back || (last && with_gradient)) ops.backward();
        });
      if (!last) continue;
      if (thread_index() < Tile::kRows) {
        const int r = thread_index();
        join_member<Tile>(m.walk, g.settings.reduce, e, share, r, shared_part<float>(m.walk.q_member, Tile::kRows)[r]);
      }
      sync_block();
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
  for (int tile = block_index(); tile < g.tiles; tile += block_count()) {
    for (int first = 0; first < g.call.candidates; first += rows.candidates_each()) {
      const int64_t state = int64_t(tile) * rows.states_each();
      rows.begin(state, first);
      const auto read_state = [&](int s, int r) DTAG_LAMBDA { return rows.state(state, r, s); };
      const bool folds = first == 0 && p.fold;
      if (first == 0 && !p.fold) write_inputs<Tile>(g, p.inputs, p.input_columns, p.action_dim, p.state_dim, read_state);
      const RowClock<Tile> clock(g.memory.clock);
      clock.begin();
      int i = folds ? -1 : 0;
      for (bool more = true; more && (i < 0 || rows.any_walking()); ++i) {
        if (i >= 0) more = rows.any_going_on(i);
        const Evaluate what = i < 0 ? Evaluate::states : more ? Evaluate::gradient : Evaluate::q;
        if (more || rows.last_q_needed()) tensor_evaluate<Tile>(g, folded, what, stream, read_state);
        if (i < 0) continue;
        rows.observe(state, first, i);
        if (more) rows.step(state, first, i, clock.ticked(g.settings));
      }
      rows.finish(state, first, i);
    }
  }
  stream.stop();
}

}  // namespace dtag::gpu
