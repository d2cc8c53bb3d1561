// One value of several: how the members of an ensemble, in turn, become a row's Q.
#pragma once
#include "cuda/refine/tile.h"
#include "cuda/vocabulary.h"

namespace dtag::gpu {

// What a pass over all members is to find out.
enum class Evaluate {
  states,    // their share of all first layers, biases included, kept in global memory
  q,         // of every row, reduced over the members
  gradient,  // that, too
};

// Member e's `q_member` joins row r's q; `take` says whether its gradient replaces what earlier members left.
template <class Tile>
DTAG_INLINE void join_member(const cuda::TileMemory& m, Reduce reduce, int e, float share, int r, float q_member) {
  const Shared<float> q = shared_part<float>(m.q, Tile::kRows);
  bool take = e == 0;
  if (reduce == Reduce::mean) {
    q[r] = e == 0 ? q_member * share : fma(q_member, share, q[r]);
  } else {
    if (e > 0) take = beats(reduce, q_member, float(q[r]));
    if (take) q[r] = q_member;
  }
  shared_part<int32_t>(m.take, Tile::kRows)[r] = take;
}

}  // namespace dtag::gpu
