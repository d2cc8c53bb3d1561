// Between the caller's arrays and the rows of a tile: one thread walks a row. The candidates of a state stay in one block, in
// one tile when they fit, so that the best of them is picked in the same launch.
#pragma once
#include "cuda/refine/reach.h"
#include "cuda/refine/tile.h"
#include "cuda/vocabulary.h"

namespace dtag::gpu {

// Who walks a tile: the block's threads, or a warpgroup's.
struct WholeBlock {
  DTAG_MEMBER static int thread() { return anew(thread_index()); }
  DTAG_MEMBER static void sync() { sync_block(); }
  DTAG_MEMBER static bool sync_or(bool x) { return sync_block_or(x); }
};
struct OneWarpgroup {
  DTAG_MEMBER static int thread() { return anew(thread_index() % kWarpgroup); }
  DTAG_MEMBER static void sync() { sync_warpgroup(); }
  DTAG_MEMBER static bool sync_or(bool x) { return sync_warpgroup_or(x); }
};

// Memory: has the arrays of TileMemory up to `winner_cost`. mixed: each state has one of several settings.
template <class Tile, class Memory = cuda::TileMemory, class Team = WholeBlock, bool mixed = false>
class TileRows {
 public:
  static constexpr int kRows = Tile::kRows;

  // Of the tile's rows, `rows` are used. Where several blocks walk the same rows, one `tells` the caller. settings: if mixed,
  // the first of `variants`.
  DTAG_MEMBER TileRows(const Call& call, const Settings& settings, const Memory& memory, int dims, int rows = kRows,
                       bool tells = true, int variants = 1)
      : c_(call), s_(settings), m_(memory), dims_(dims), candidates_(call.candidates < rows ? call.candidates : rows),
        used_(rows / candidates_ * candidates_), tells_(tells), variants_(variants) {}

  // A tile holds states_each() states with candidates_each() candidates; more candidates come in several rounds.
  DTAG_MEMBER int candidates_each() const { return candidates_; }
  DTAG_MEMBER int states_each() const { return anew(used_) / candidates_; }
  DTAG_MEMBER int64_t tile_count() const { return (c_.batch + states_each() - 1) / states_each(); }

  // Number s of the state of row r, where the tile begins with state `from`.
  DTAG_MEMBER float state(int64_t from, int r, int s) const {
    const int64_t b = from + r / candidates_;
    return r < used_ && b < c_.batch ? c_.states[b * c_.state_stride + s] : 0.f;
  }

  // The row of the caller's arrays that row r of the tile is, or -1.
  DTAG_MEMBER int64_t row(int64_t from, int first, int r) const {
    const int64_t b = from + r / candidates_;
    const int candidate = first + r % candidates_;
    return r < used_ && b < c_.batch && candidate < c_.candidates ? b * c_.candidates + candidate : -1;
  }

  // Those of row r; of a place without a row, any.
  DTAG_MEMBER const Settings& settings_of(int64_t from, int r) const {
    if constexpr (!mixed) return s_;
    const int64_t b = from + r / candidates_;
    // Nobody has checked what only the device knows.
    return (&s_)[between(c_.row_variants[b < c_.batch ? b : 0], 0, variants_ - 1)];
  }

  // The prior of row r's state; none where the call gives none.
  DTAG_MEMBER PriorOf prior(int64_t from, int r) const {
    if (!has_prior(c_)) return {};
    const int64_t b = from + r / candidates_;
    return PriorOf(c_, b < c_.batch ? b : 0, dims_);
  }

  DTAG_MEMBER void begin(int64_t from, int first) const {
    const int r = Team::thread();
    if (r < kRows) {
      const Walk w = walk(r);
      const int64_t b = from + r / candidates_, at = row(from, first, r);
      for (int k = 0; k < dims_; ++k) {
        w.action[k * kRows] = at < 0 ? 0.f : c_.actions[at * dims_ + k];
        w.lr[k * kRows] = at < 0 ? 0.f : c_.lr_values ? c_.lr_values[b * c_.lr_row_stride + k * c_.lr_dim_stride] : c_.lr;
        w.grad[k * kRows] = 0.f;
      }
      *w.steps = at < 0 ? 0 : c_.row_steps ? between(c_.row_steps[b], 0, c_.steps) : c_.steps;
      *w.alive = at < 0 ? 0 : -1;
      *w.best_index = 0;
      *w.q = 0.f;
      walk_begin<float>(w, settings_of(from, r));
    }
    Team::sync();
  }

  // Whether a row stands at its iterate i; whether one will go on from it.
  DTAG_MEMBER bool any_walking() const { return Team::sync_or(Team::thread() < kRows && alive(Team::thread())); }
  DTAG_MEMBER bool any_going_on(int i) const {
    return Team::sync_or(Team::thread() < kRows && alive(Team::thread()) && *walk(Team::thread()).steps > i);
  }
  // Not for "last" when nobody asks.
  DTAG_MEMBER bool last_q_needed() const { return mixed || s_.select == Select::best || c_.q_first || c_.candidates > 1; }

  DTAG_MEMBER void observe(int64_t from, int first, int i) const {
    const int r = Team::thread();
    if (r >= kRows) return;
    const Walk w = walk(r);
    if (c_.trace_q) trace(c_.trace_q, c_.trace_actions, row(from, first, r), i, alive(r), *w.q, w.action);
    walk_observe<float>(weighed(w, from, r), settings_of(from, r), i);
    // Until the step is known to come: the gradient of the last iterate is not computed.
    if (c_.trace_q) trace(nullptr, c_.trace_grad, row(from, first, r), i, false, 0.f, w.grad);
  }

  DTAG_MEMBER void step(int64_t from, int first, int i, const Clock& clock) const {
    const int r = Team::thread();
    if (r < kRows) {
      const Walk w = walk(r);
      if (c_.trace_q && alive(r)) trace(nullptr, c_.trace_grad, row(from, first, r), i, true, 0.f, w.grad);
      const int64_t at = row(from, first, r);
      const Settings& s = settings_of(from, r);
      walk_step<float>(Stepping{w, Reach(c_, s, at < 0 ? 0 : at / c_.candidates), prior(from, r)}, s, clock, i);
    }
  }

  // All rows have ended, after `iterates` iterates.
  DTAG_MEMBER void finish(int64_t from, int first, int iterates) const {
    const int r = Team::thread();
    if (r < kRows) {
      const Walk w = walk(r);
      const int64_t at = row(from, first, r);
      if (c_.trace_q)
        for (int i = iterates; i <= c_.steps; ++i) {
          trace(c_.trace_q, c_.trace_actions, at, i, false, 0.f, w.action);
          trace(nullptr, c_.trace_grad, at, i, false, 0.f, w.grad);
        }
      if (c_.q_first && at >= 0 && tells_) {
        c_.q_first[at] = *w.q_first;
        c_.q_best[at] = *w.q_best;
        c_.best_index[at] = *w.best_index;
      }
    }
    Team::sync();
    pick_candidate(from, first);
    Team::sync();
  }

 private:
  using Walk = WalkOf<Shared<float>, Shared<int32_t>>;
  struct Stepping : Walk {
    Reach reach;
    PriorOf prior;
    DTAG_MEMBER bool scaled() const { return reach.scaled(); }
    template <class F>
    DTAG_MEMBER F scale_of(int k) const {
      return reach.scale(k);
    }
    template <class F>
    DTAG_MEMBER F radius_of(const Settings&) const {
      return reach.radius;
    }
    DTAG_MEMBER bool has_prior() const { return prior.given; }
    template <class F>
    DTAG_MEMBER F prior_mean(int k) const {
      return prior.mean(k);
    }
    template <class F>
    DTAG_MEMBER F prior_weight() const {
      return prior.weight;
    }
  };
  // Row r with what F asks of it; its state is looked for only where there is a prior.
  DTAG_MEMBER Stepping weighed(const Walk& w, int64_t from, int r) const {
    const int64_t b = has_prior(c_) ? from + r / candidates_ : 0;
    return {w, Reach(c_, s_, b < c_.batch ? b : 0), prior(from, r)};
  }

  // Nobody has checked numbers of steps that only the device knows: traces have no room for more.
  DTAG_MEMBER static int between(int x, int low, int high) { return x < low ? low : x > high ? high : x; }

  DTAG_MEMBER Walk walk(int r) const {
    const auto floats = [&](uint32_t offset, int units) DTAG_LAMBDA { return shared_part<float>(offset, int64_t(units) * kRows) + r; };
    const auto ints = [&](uint32_t offset) DTAG_LAMBDA { return shared_part<int32_t>(offset, kRows) + r; };
    return {dims_, kRows, floats(m_.action, dims_), floats(m_.start, dims_), floats(m_.best, dims_), floats(m_.grad, dims_),
            floats(m_.first_moment, dims_), floats(m_.second_moment, dims_), floats(m_.lr, dims_), ints(m_.steps),
            ints(m_.alive), ints(m_.best_index), floats(m_.q, 1), floats(m_.q_first, 1), floats(m_.q_best, 1)};
  }
  DTAG_MEMBER bool alive(int r) const { return shared_part<int32_t>(m_.alive, kRows)[r] != 0; }

  // One row of iterate i in the traces: a number (if wanted) and an action-sized array, or NaN.
  DTAG_MEMBER void trace(float* numbers, float* arrays, int64_t at, int i, bool known, float number,
                         Shared<const float> array) const {
    if (at < 0 || !tells_) return;
    const int64_t place = i * c_.batch * c_.candidates + at;
    const float nan = bits_as<float>(0x7fc00000u);
    if (numbers) numbers[place] = known ? number : nan;
    for (int k = 0; k < dims_; ++k) arrays[place * dims_ + k] = known ? float(array[k * kRows]) : nan;
  }

  // The candidate of greatest finite F, the first on ties, candidate 0 when none is finite.
  DTAG_MEMBER void pick_candidate(int64_t from, int first) const {
    const int p = Team::thread();
    if (p >= states_each() || from + p >= c_.batch) return;
    const Shared<const float> q_best = shared_part<float>(m_.q_best, kRows) + p * candidates_;
    const Shared<float> winner_q = shared_part<float>(m_.winner_q, kRows) + p;
    const Shared<float> winner_cost = shared_part<float>(m_.winner_cost, kRows) + p;
    const auto cost_of = [&](int c) DTAG_LAMBDA {
      const int r = p * candidates_ + c;
      return has_prior(c_) ? cost_of_best<float>(weighed(walk(r), from, r)) : 0.f;
    };
    const int count = c_.candidates - first < candidates_ ? c_.candidates - first : candidates_;
    int best = first == 0 ? 0 : -1;  // of this round; -1: an earlier round has it
    float top = first == 0 ? float(q_best[0]) : float(*winner_q), top_cost = first == 0 ? cost_of(0) : float(*winner_cost);
    for (int c = first == 0 ? 1 : 0; c < count; ++c) {
      const float q = q_best[c], cost = cost_of(c);
      if (!is_finite(q - cost) || (is_finite(top - top_cost) && !higher(q, cost, top, top_cost))) continue;
      best = c;
      top = q;
      top_cost = cost;
    }
    if (best < 0) return;
    *winner_q = top;
    *winner_cost = top_cost;
    if (!tells_) return;
    const Shared<const float> action = shared_part<float>(m_.best, int64_t(dims_) * kRows) + p * candidates_ + best;
    for (int k = 0; k < dims_; ++k) c_.out[(from + p) * dims_ + k] = action[k * kRows];
    if (c_.best_candidate) c_.best_candidate[from + p] = first + best;
  }

  const Call& c_;
  const Settings& s_;
  const Memory& m_;
  int dims_, candidates_, used_;  // used_: rows of the tile
  bool tells_;
  int variants_;
};

}  // namespace dtag::gpu
