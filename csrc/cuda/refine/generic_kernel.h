// Any program, any option, float32: a block carries a tile of rows through all iterations, every intermediate in shared
// memory, weights streaming through it from the L2 cache. Members take turns, so that one member's layers are kept at a time;
// each passes backward before it is known which of them a row will follow.
#pragma once
#include "cuda/refine/ensemble.h"
#include "cuda/refine/generic_params.h"
#include "cuda/refine/layers.h"
#include "cuda/refine/tile_rows.h"

namespace dtag::gpu {

// `folded`: where the states' share is, [out][rows] for each member. `read_state(s, row)` gives the states, for which all units
// serve as room.
template <class Tile, bool mixed, class State, class SettingsOf>
DTAG_INLINE void evaluate(const cuda::GenericParams& g, float* folded, Evaluate what, State read_state, SettingsOf settings_of) {
  const DeviceProgram& p = g.program;
  const TileMemory& m = g.memory;
  const Reduce reduce = g.settings.reduce;
  const bool mean = mixed || reduce == Reduce::mean, folds = what == Evaluate::states, with_gradient = what == Evaluate::gradient;
  const float share = mean ? 1.f / float(p.member_count) : 1.f;
  for (int e = 0; e < p.member_count; ++e) {
    const DeviceMember& member = p.members[e];
    const DeviceStage* stages = p.stages + member.stages;
    // Forward through the layers, then back through as many, or through the states a slab at a time; a single place calls the
    // product, or the code is several times as large.
    const int turn = folds ? (p.state_dim + p.units - 1) / p.units : member.depth, steps = with_gradient ? 2 * turn : turn;
    for (int step = 0; step < steps; ++step) {
      const bool back = step >= turn;
      const int l = folds ? 0 : back ? steps - 1 - step : step;
      const DeviceStage &stage = stages[l], &before = stages[l > 0 ? l - 1 : 0];
      Product f{};
      f.scratch = m.scratch;
      f.take = m.take;
      f.outputs = stage.out;
      f.padded = stage.out_padded;
      f.x = l > 0 ? unit_offset<Tile>(m, before.value) : m.action;
      f.y = unit_offset<Tile>(m, stage.value);
      if (folds) {
        const int from = step * p.units, count = p.state_dim - from < p.units ? p.state_dim - from : p.units;
        const Shared<float> slab = shared_part<float>(m.units, int64_t(p.units) * Tile::kRows);
        for (int at = thread_index(); at < count * Tile::kRows; at += kThreads)
          slab[at] = read_state(from + at / Tile::kRows, at % Tile::kRows);
        sync_block();
        f.matrix = p.numbers + member.state + int64_t(from) * stage.out_padded;
        f.inputs = count;
        f.x = m.units;
        f.global_y = folded + int64_t(member.base) * Tile::kRows;
        if (step == 0)
          f.bias = p.numbers + stage.bias;
        else
          f.base = f.global_y;
        f.finish = Finish::to_global;
      } else if (!back) {
        f.matrix = p.numbers + stage.forward;
        f.inputs = stage.in;
        if (l == 0)
          f.base = folded + int64_t(member.base) * Tile::kRows;
        else
          f.bias = p.numbers + stage.bias;
        f.finish = stage.relu && stage.op_count == 0 ? Finish::relu : Finish::store;
      } else {
        if (step == turn) {  // dQ/dQ, times this member's share
          const Shared<float> q = shared_part<float>(f.y, Tile::kRows);
          if (thread_index() < Tile::kRows)
            q[thread_index()] = mixed && settings_of(thread_index()).reduce != Reduce::mean ? 1.f : share;
          sync_block();
        }
        ops_backward<Tile>(p, m, stage, p.units);
        f.matrix = p.numbers + stage.backward;
        f.inputs = stage.out;
        f.outputs = stage.in;
        f.padded = stage.in_padded;
        f.x = f.y;
        f.y = l > 0 ? unit_offset<Tile>(m, before.value) : m.grad;
        f.finish = l == 0 ? mixed ? Finish::as_taken : mean && e > 0 ? Finish::add : Finish::to_chosen : before.relu ? Finish::mask : Finish::store;
      }
      product<Tile>(f);
      if (folds || back) continue;
      ops_forward<Tile>(p, m, stage, p.units);
      if (step + 1 < turn) continue;
      if (thread_index() < Tile::kRows) {
        const int r = thread_index();
        const float q = shared_part<float>(f.y, Tile::kRows)[r];
        if constexpr (mixed)
          join_member<Tile>(m, settings_of(r), e, share, r, q);
        else
          join_member<Tile>(m, reduce, e, share, r, q);
      }
      sync_block();
    }
  }
}

// mixed: each row has one of g.variants.
template <class Tile, bool mixed>
DTAG_KERNEL(cuda::kThreads)
generic_kernel(const DTAG_GRID_CONSTANT cuda::GenericParams g) {
  const TileRows<Tile, TileMemory, WholeBlock, mixed> rows(g.call, mixed ? *g.variants : g.settings, g.memory,
                                                           g.program.action_dim, Tile::kRows, true, g.variant_count);
  const DeviceProgram& p = g.program;
  float* folded = g.folded + int64_t(block_index()) * p.base_units * Tile::kRows;
  for (int64_t tile = block_index(); tile < rows.tile_count(); tile += block_count()) {
    for (int first = 0; first < g.call.candidates; first += rows.candidates_each()) {
      const int64_t state = tile * rows.states_each();
      rows.begin(state, first);
      const auto read_state = [&](int s, int r) DTAG_LAMBDA { return rows.state(state, r, s); };
      const auto settings_of = [&](int r) DTAG_LAMBDA -> const Settings& { return rows.settings_of(state, r); };
      Clock clock;
      int i = first == 0 ? -1 : 0;
      for (bool more = true; more && (i < 0 || rows.any_walking()); ++i) {
        if (i >= 0) more = rows.any_going_on(i);
        const Evaluate what = i < 0 ? Evaluate::states : more ? Evaluate::gradient : Evaluate::q;
        if (more || rows.last_q_needed()) evaluate<Tile, mixed>(g, folded, what, read_state, settings_of);
        if (i < 0) continue;
        rows.observe(state, first, i);
        if (more) {
          // Doubles are slow on many devices: only where rows are walked.
          if (thread_index() < Tile::kRows && settings_of(thread_index()).optimizer == Optimizer::adam)
            clock.tick(settings_of(thread_index()));
          rows.step(state, first, i, clock);
        }
      }
      rows.finish(state, first, i);
    }
  }
}

}  // namespace dtag::gpu
