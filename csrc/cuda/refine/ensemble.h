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

// Member e's Q joins q, that of the members before it. Returns whether its gradient replaces theirs; never under the mean,
// where gradients are summed too. share: 1 / number of members.
DTAG_INLINE bool join_q(Reduce reduce, int e, float share, float q_member, float& q) {
  if (reduce == Reduce::mean) {
    q = e == 0 ? q_member * share : fma(q_member, share, q);
    return e == 0;
  }
  const bool take = e == 0 || beats(reduce, q_member, q);
  if (take) q = q_member;
  return take;
}

// What a row does with the gradient of a member: TileMemory::take.
enum Take : int32_t { kLeave, kTake, kAdd };

// The same for row r of a tile, of which the answer is kept.
template <class Tile>
DTAG_INLINE void join_member(const cuda::TileMemory& m, Reduce reduce, int e, float share, int r, float q_member) {
  const Shared<float> of_rows = shared_part<float>(m.q, Tile::kRows);
  float q = e == 0 ? 0.f : float(of_rows[r]);
  shared_part<int32_t>(m.take, Tile::kRows)[r] = join_q(reduce, e, share, q_member, q);
  of_rows[r] = q;
}

// The same under settings that are not those of every row.
template <class Tile>
DTAG_INLINE void join_member(const cuda::TileMemory& m, const Settings& s, int e, float share, int r, float q_member) {
  const Shared<float> of_rows = shared_part<float>(m.q, Tile::kRows);
  float q = e == 0 ? 0.f : float(of_rows[r]);
  int32_t take = kLeave;
  if (s.reduce != Reduce::member) {
    take = join_q(s.reduce, e, share, q_member, q) ? kTake : s.reduce == Reduce::mean ? kAdd : kLeave;
  } else if (e == s.member) {
    take = kTake;
    q = q_member;
  }
  shared_part<int32_t>(m.take, Tile::kRows)[r] = take;
  of_rows[r] = q;
}

}  // namespace dtag::gpu
