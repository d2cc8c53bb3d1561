// Any program, any option, float32: a block carries a tile of rows through all iterations, every intermediate in shared
// memory, weights streaming through it from the L2 cache. Members take turns, so that one member's layers are kept at a time;
// each passes backward before it is known which of them a row will follow.
#pragma once
#include "cuda/refine/ensemble.h"
#include "cuda/refine/generic_params.h"
#include "cuda/refine/layers.h"
#include "cuda/refine/tile_rows.h"

namespace dtag::gpu {

// Q of every row and, when `with_gradient`, its gradient, reduced over the members.
template <class Tile>
DTAG_INLINE void evaluate(const cuda::GenericParams& g, const float* folded, bool with_gradient) {
  const DeviceProgram& p = g.program;
  const TileMemory& m = g.memory;
  const Reduce reduce = g.settings.reduce;
  const bool mean = reduce == Reduce::mean;
  const float share = mean ? 1.f / float(p.member_count) : 1.f;
  for (int e = 0; e < p.member_count; ++e) {
    const DeviceMember& member = p.members[e];
    member_forward<Tile>(p, m, member, folded + int64_t(member.base) * Tile::kRows);
    if (thread_index() < Tile::kRows) {
      const int r = thread_index();
      const int unit = p.stages[member.stages + member.depth - 1].value;
      join_member<Tile>(m, reduce, e, share, r, shared_part<float>(unit_offset<Tile>(m, unit), Tile::kRows)[r]);
    }
    sync_block();
    if (with_gradient) member_backward<Tile>(p, m, member, share, mean && e > 0);
  }
}

template <class Tile>
DTAG_KERNEL(cuda::kThreads)
generic_kernel(const DTAG_GRID_CONSTANT cuda::GenericParams g) {
  const TileRows<Tile> rows(g.call, g.settings, g.memory, g.program.action_dim);
  const DeviceProgram& p = g.program;
  float* folded = g.folded + int64_t(block_index()) * p.base_units * Tile::kRows;
  for (int64_t tile = block_index(); tile < rows.tile_count(); tile += block_count()) {
    for (int first = 0; first < g.call.candidates; first += rows.candidates_each()) {
      const int64_t state = tile * rows.states_each();
      rows.begin(state, first);
      if (first == 0)
        for (int e = 0; e < p.member_count; ++e)
          fold_state<Tile>(p, g.memory, p.members[e], folded + int64_t(p.members[e].base) * Tile::kRows,
                           [&](int s, int r) DTAG_LAMBDA { return rows.state(state, r, s); });
      Clock clock;
      int i = 0;
      for (bool more = true; more && rows.any_walking(); ++i) {
        more = rows.any_going_on(i);
        if (more || rows.last_q_needed()) evaluate<Tile>(g, folded, more);
        rows.observe(state, first, i);
        if (more) {
          // Doubles are slow on many devices: only where rows are walked.
          if (g.settings.optimizer == Optimizer::adam && thread_index() < Tile::kRows) clock.tick(g.settings);
          rows.step(state, first, i, clock);
        }
      }
      rows.finish(state, first, i);
    }
  }
}

}  // namespace dtag::gpu
