// A row walked by a warp, a lane per action dimension, everything in registers.
#pragma once
#include "cuda/refine/ensemble.h"
#include "cuda/refine/latency_params.h"
#include "cuda/refine/reach.h"
#include "cuda/refine/warp_sums.h"
#include "cuda/vocabulary.h"

namespace dtag::gpu {

// How lanes agree where all dimensions matter; lanes without a dimension hold zeros.
struct LanesOfRow {
  DTAG_MEMBER static bool all(bool x) { return vote_all(x); }
  DTAG_MEMBER static float max(float x) {
    DTAG_UNROLL
    for (int step = 16; step >= 1; step /= 2) {
      const float other = shuffle_xor(x, step);
      x = other > x ? other : x;
    }
    return x;
  }
  DTAG_MEMBER static float sum(float x) { return sum_over_warp(x); }
};

struct LaneWalk {
  float action = 0.f, start = 0.f, best = 0.f, grad = 0.f, first_moment = 0.f, second_moment = 0.f, lr = 0.f;
  float q = 0.f, q_first = 0.f, q_best = 0.f;
  int32_t steps = 0, alive = 0, best_index = 0;

  // Bounds of this lane's dimension. Those of lanes without one are 0 and keep them there.
  float lower = 0.f, upper = 0.f;
  float scale = 1.f, radius = 0.f;  // 1 for lanes without a dimension
  bool has_scale = false;

  struct Walk : WalkOf<float*, int32_t*, LanesOfRow> {
    float lower, upper, scale, radius;
    bool has_scale;
    PriorOf prior;
    DTAG_MEMBER float low(const Settings&, int) const { return lower; }
    DTAG_MEMBER float high(const Settings&, int) const { return upper; }
    DTAG_MEMBER bool scaled() const { return has_scale; }
    template <class F>
    DTAG_MEMBER float scale_of(int) const {
      return scale;
    }
    template <class F>
    DTAG_MEMBER float radius_of(const Settings&) const {
      return radius;
    }
    DTAG_MEMBER bool has_prior() const { return prior.given; }
    // A lane without a dimension stands at 0, and that is its mean.
    template <class F>
    DTAG_MEMBER float prior_mean(int) const {
      return prior.number;
    }
    template <class F>
    DTAG_MEMBER float prior_weight() const {
      return prior.weight;
    }
  };
  // prior: of the row's state.
  DTAG_MEMBER Walk view(PriorOf prior, int dims) {
    if (prior.given) {
      prior.number = lane_index() < dims ? prior.mean(lane_index()) : 0.f;
      prior.means = nullptr;
    }
    return {{1,   1,      &action, &start,      &best, &grad,    &first_moment, &second_moment,
             &lr, &steps, &alive,  &best_index, &q,    &q_first, &q_best},
            lower,
            upper,
            scale,
            radius,
            has_scale,
            prior};
  }

  // Row r as TileRows::begin left it, of state b; b is not read beyond the caller's.
  DTAG_MEMBER void read(const cuda::LatencyMemory& m, const Settings& s, const Call& c, int64_t b, int dims, int r) {
    const auto of_row = [&](uint32_t offset) DTAG_LAMBDA { return shared_part<int32_t>(offset, cuda::kLatencyRows) + r; };
    if (lane_index() < dims) {
      action = start = best = number(m.action, dims, r);
      lr = number(m.lr, dims, r);
      if (s.low) {
        lower = s.low[lane_index()];
        upper = s.high[lane_index()];
      }
    }
    steps = *of_row(m.steps);
    alive = *of_row(m.alive);
    const Reach reach(c, s, alive ? b : 0);
    radius = reach.radius;
    has_scale = reach.scaled();
    if (has_scale && lane_index() < dims) scale = reach.scale(lane_index());
  }

  // What TileRows::finish reads.
  DTAG_MEMBER void write(const cuda::LatencyMemory& m, int dims, int r) const {
    if (lane_index() < dims)
      shared_part<float>(m.best, int64_t(dims) * cuda::kLatencyRows)[lane_index() * cuda::kLatencyRows + r] = best;
    if (lane_index() > 0) return;
    shared_part<float>(m.q_first, cuda::kLatencyRows)[r] = q_first;
    shared_part<float>(m.q_best, cuda::kLatencyRows)[r] = q_best;
    shared_part<int32_t>(m.best_index, cuda::kLatencyRows)[r] = best_index;
  }

  // Q and gradient of row r from what the blocks sent: per row, action_dim numbers and Q, to be added over the blocks of a
  // member and reduced over the members.
  template <class Exchange>
  DTAG_MEMBER void take_result(const cuda::LatencyParams& p, const Exchange& result, int r) {
    const int dims = p.program.action_dim, slices = p.program.slices, first = r * (dims + 1);
    const int mine = first + (lane_index() < dims ? lane_index() : dims);
    const Reduce reduce = p.settings.reduce;
    const float share = 1.f / float(p.program.member_count);
    result.wait_for(first, dims + 1);
    for (int e = 0; e < p.program.member_count; ++e) {
      float q_member = 0.f, g_member = 0.f;
      for (int s = 0; s < slices; ++s) {
        q_member += result.received(e * slices + s, first + dims);
        g_member += result.received(e * slices + s, mine);
      }
      const bool take = join_q(reduce, e, share, q_member, q);
      if (reduce == Reduce::mean)
        grad = e == 0 ? g_member * share : fma(g_member, share, grad);
      else if (take)
        grad = g_member;
    }
    if (lane_index() >= dims) grad = 0.f;
  }

 private:
  DTAG_MEMBER static float number(uint32_t offset, int dims, int r) {
    return shared_part<float>(offset, int64_t(dims) * cuda::kLatencyRows)[lane_index() * cuda::kLatencyRows + r];
  }
};

}  // namespace dtag::gpu
