// Batches: a tile of rows walks through all its iterations on one thread, every intermediate in its caches. Under "min"
// and "max" the rows that chose a member are packed together before that member's backward pass, so that only the
// chosen member's gradient is computed, for whole vectors of rows.
#pragma once
#include "cpu/kernels.h"
#include "cpu/rows_io.h"
#include "cpu/tile_layers.h"

namespace dtag::DTAG_ISA {

class TileKernel {
 public:
  // Tiles of `rows` rows, a multiple of kStrip. Lays out the scratch; with scratch null, only to measure it.
  TileKernel(const Packed& packed, int rows, float* scratch) : p_(packed), rows_(rows), strips_(rows / kStrip) {
    Arena arena{reinterpret_cast<uintptr_t>(scratch)};
    const int64_t n = rows, dims = p_.action_dim;
    arena.take(dims * n, walk_.action, walk_.start, walk_.best, walk_.grad, walk_.first_moment, walk_.second_moment,
               walk_.lr, scale_, mean_, grad_compact_);
    arena.take(n, walk_.q, walk_.q_first, walk_.q_best, radius_, weight_);
    arena.take(n, walk_.alive, walk_.best_index, walk_.steps, choice_, chosen_, chosen_rows_);
    arena.take(n, variant_, reduce_, member_);
    arena.take(n, seeds_);
    arena.take(kMaxVariants, clocks_);
    arena.take(p_.max_width * n, grad_in_, grad_out_);
    arena.take(p_.units * n, units_);
    arena.take(p_.max_saved_units * strips_ * kCompactStrip, compact_);
    arena.take(int64_t(p_.state_dim) * kStrip, states_);
    arena.take(int64_t(p_.max_width + kTileDepth) / 2 * kStrip, pairs_);
    arena.take(2 * n / kLanes, moves_);
    arena.take(strips_, live_);
    arena.take(n / kLanes, alike_);
    scratch_bytes_ = int64_t(arena.at - reinterpret_cast<uintptr_t>(scratch));
    walk_.dims = p_.action_dim;
    walk_.stride = kStrip;
  }
  int64_t scratch_bytes() const { return scratch_bytes_; }

  // Rows begin..end of the job, at most `rows` of them.
  void run(const Job& job, int64_t begin, int64_t end) {
    const int n = job.call->steps;
    count_ = int(end - begin);
    vectors_ = (count_ + kLanes - 1) / kLanes;
    settings_ = job.settings;
    read(job, begin);
    find_variants(job, begin);
    const Settings& first = settings_[variant_[0]];  // what bounds there are, all have
    for (int v = 0; v < vectors_; ++v) walk_begin<vf>(walk(v * kLanes), first);
    fold_states(job, begin);
    for (int k = 0; k < job.settings_count; ++k) clocks_[k] = Clock{};
    for (int i = 0; i <= n && find_live(); ++i) {
      if (i < n || last_q_needed(job, first) || mixed_) mixed_ ? evaluate_mixed() : evaluate(first);
      for (int r = 0; r < count_; ++r) trace_point(job, begin + r, i, walk(r));
      over_rows([&]<class F>(const Walk& w, int variant) DTAG_LAMBDA { walk_observe<F>(w, settings_[variant], i); });
      if (i == n || !find_live()) break;
      mixed_ ? gradient_mixed() : gradient(first);
      for (int r = 0; r < count_; ++r) trace_gradient(job, begin + r, i, walk(r));
      for (int k = 0; k < job.settings_count; ++k)
        if (settings_[k].optimizer == Optimizer::adam) clocks_[k].tick(settings_[k]);
      over_rows([&]<class F>(const Walk& w, int variant) DTAG_LAMBDA {
        walk_step<F>(w, settings_[variant], clocks_[variant], i);
      });
    }
    for (int r = 0; r < count_; ++r) write_row(job, begin + r, walk(r));
  }

 private:
  Walk walk(int row) const {
    return walk_.moved(row, int64_t(row / kStrip) * p_.action_dim * kStrip + row % kStrip);
  }

  // Places beyond the last row hold zeros and do not walk.
  void read(const Job& job, int64_t begin) {
    const int strips = (vectors_ + kVectors - 1) / kVectors;
    walk_.scale = has_scale(*job.call) ? scale_ : nullptr;
    walk_.radius = job.call->radius_values ? radius_ : nullptr;
    walk_.mean = has_prior(*job.call) ? mean_ : nullptr;
    walk_.weight = has_prior(*job.call) ? weight_ : nullptr;
    void* per_dim[] = {walk_.action, walk_.lr};
    void* per_row[] = {walk_.alive, walk_.best_index, walk_.steps, walk_.q, choice_};
    for (void* array : per_dim) __builtin_memset(array, 0, size_t(strips) * size_t(p_.action_dim) * kStrip * 4);
    for (void* array : per_row) __builtin_memset(array, 0, size_t(strips) * kStrip * 4);
    if (walk_.scale) __builtin_memset(scale_, 0, size_t(strips) * size_t(p_.action_dim) * kStrip * 4);
    if (walk_.radius) __builtin_memset(radius_, 0, size_t(strips) * kStrip * 4);
    if (walk_.weight) __builtin_memset(mean_, 0, size_t(strips) * size_t(p_.action_dim) * kStrip * 4);
    if (walk_.weight) __builtin_memset(weight_, 0, size_t(strips) * kStrip * 4);
    for (int r = 0; r < count_; ++r) read_row(job, begin + r, walk(r));
  }

  // Whose settings each row has, and where they are not the same.
  void find_variants(const Job& job, int64_t begin) {
    const int places = vectors_ * kLanes;
    mixed_ = false;
    for (int r = 0; r < places; ++r) {
      variant_[r] = variant_of(job, begin + (r < count_ ? r : r / kLanes * kLanes));
      mixed_ |= variant_[r] != variant_[0];
    }
    for (int v = 0; v < vectors_; ++v) {
      alike_[v] = true;
      for (int l = 1; l < kLanes; ++l) alike_[v] &= variant_[v * kLanes + l] == variant_[v * kLanes];
    }
    for (int r = 0; mixed_ && r < places; ++r) {
      const Settings& s = settings_[variant_[r]];
      reduce_[r] = int32_t(s.reduce);
      member_[r] = s.member;
    }
  }

  // Calls f.operator()<vf>(walk, variant) for each vector whose rows are alike; else <float> for each row: a step is short
  // beside the products, and what a lane computes is what a row alone would.
  template <class Body>
  DTAG_MEMBER void over_rows(Body f) const {
    for (int v = 0; v < vectors_; ++v) {
      const int first = v * kLanes;
      if (alike_[v]) {
        f.template operator()<vf>(walk(first), variant_[first]);
        continue;
      }
      for (int r = first; r < first + kLanes; ++r) f.template operator()<float>(walk(r), variant_[r]);
    }
  }

  void fold_states(const Job& job, int64_t begin) {
    const Call& c = *job.call;
    for (int s = 0; s * kVectors < vectors_; ++s) {
      __builtin_memset(states_, 0, size_t(p_.state_dim) * kStrip * 4);
      for (int r = s * kStrip; r < count_ && r < (s + 1) * kStrip; ++r) {
        const float* state = c.states + (begin + r) / c.candidates * c.state_stride;
        for (int k = 0; k < p_.state_dim; ++k) states_[k * kStrip + r % kStrip] = state[k];
      }
      for (int m = 0; m < p_.member_count; ++m) {
        const PackedMember& member = p_.members[m];
        const PackedStage& first = member.stages[0];
        float* base = units_ + member.base * rows_ + int64_t(s) * first.out * kStrip;
        strip_product<Init::bias>(member.state_blocks, vectors_of(s, vectors_), states_, first.bias, base, pairs_);
      }
    }
  }

  // Which strips have rows that still walk; whether any has.
  bool find_live() {
    bool found = false;
    for (int s = 0; s * kVectors < vectors_; ++s) {
      live_[s] = false;
      for (int v = 0; v < vectors_of(s, vectors_); ++v)
        live_[s] |= any(load<vi>(walk_.alive + s * kStrip + v * kLanes));
      found |= live_[s];
    }
    return found;
  }

  // q of every row and the member it comes from.
  void evaluate(const Settings& s) {
    const Reduce reduce = s.reduce;
    const float share = 1.f / float(p_.member_count);
    for (int m = 0; m < p_.member_count; ++m) {
      if (reduce == Reduce::member && m != s.member) continue;
      const float* q_member = q_of(m);
      for (int v = 0; v < vectors_ * kLanes; v += kLanes) {
        const vf q = load(q_member + v), old = load(walk_.q + v);
        if (reduce == Reduce::member) {
          store(walk_.q + v, q);
        } else if (reduce == Reduce::mean) {
          store(walk_.q + v, m == 0 ? q * share : fma(q, splat(share), old));
        } else if (m == 0) {
          store(walk_.q + v, q);
          store(choice_ + v, vi{});
        } else {
          const vi better = beats(reduce, q, old);
          store(walk_.q + v, select(better, q, old));
          store(choice_ + v, better ? vi{} + m : load<vi>(choice_ + v));
        }
      }
    }
  }

  // The same where the rows' settings differ.
  void evaluate_mixed() {
    const float share = 1.f / float(p_.member_count);
    for (int m = 0; m < p_.member_count; ++m) {
      const float* q_member = q_of(m);
      for (int v = 0; v < vectors_ * kLanes; v += kLanes) {
        const vf q = load(q_member + v), old = load(walk_.q + v);
        const vi reduce = load<vi>(reduce_ + v);
        const vi mean = reduce == int32_t(Reduce::mean);
        const vf sum = m == 0 ? q * share : fma(q, splat(share), old);
        vi take = vi{} - 1;
        if (m > 0)
          take = ((reduce == int32_t(Reduce::min)) & beats(Reduce::min, q, old)) |
                 ((reduce == int32_t(Reduce::max)) & beats(Reduce::max, q, old)) |
                 ((reduce == int32_t(Reduce::member)) & (load<vi>(member_ + v) == m));
        store(walk_.q + v, select(mean, sum, select(take, q, old)));
        store(choice_ + v, take ? vi{} + m : load<vi>(choice_ + v));
      }
    }
  }

  // Each member's gradient of the rows that chose it and of those that take the mean.
  void gradient_mixed() {
    const float share = 1.f / float(p_.member_count);
    const auto takes_mean = [&](int row) DTAG_LAMBDA { return reduce_[row] == int32_t(Reduce::mean); };
    for (int m = 0; m < p_.member_count; ++m) {
      for (int v = 0; v < vectors_ * kLanes; v += kLanes)
        store(chosen_ + v, load<vi>(walk_.alive + v) & ((load<vi>(reduce_ + v) == int32_t(Reduce::mean)) |
                                                        (load<vi>(choice_ + v) == m)));
      int move_count;
      const int n = plan_moves(chosen_, vectors_, chosen_rows_, moves_, &move_count);
      if (n == 0) continue;
      for (int t = 0; t < (n + kStrip - 1) / kStrip * kStrip; ++t)
        seeds_[t] = t < n && takes_mean(chosen_rows_[t]) ? share : 1.f;
      compact_backward(p_.members[m], n, move_count, seeds_);
      spread_gradient(n, [&](int row) DTAG_LAMBDA { return m > 0 && takes_mean(row); });
    }
  }

  // Member m forward; where its Q of each row stands.
  const float* q_of(int m) {
    const PackedMember& member = p_.members[m];
    forward(member, rows_, vectors_, live_, walk_.action, units_, pairs_);
    return units_ + member.stages[member.depth - 1].value * rows_;
  }

  void gradient(const Settings& s) {
    const Reduce reduce = s.reduce;
    const Saved dense{units_, rows_, kStrip, false};
    const int width = p_.max_width;
    if (p_.member_count == 1 || reduce == Reduce::member) {
      const PackedMember& member = p_.members[reduce == Reduce::member ? s.member : 0];
      return backward(member, dense, vectors_, live_, 1.f, width, grad_in_, grad_out_, walk_.grad, pairs_);
    }
    for (int m = 0; m < p_.member_count; ++m) {
      const PackedMember& member = p_.members[m];
      if (reduce == Reduce::mean) {
        const float share = 1.f / float(p_.member_count);
        float* to = m == 0 ? walk_.grad : grad_compact_;
        backward(member, dense, vectors_, live_, share, width, grad_in_, grad_out_, to, pairs_);
        if (m == 0) continue;
        const int64_t floats = int64_t((vectors_ + kVectors - 1) / kVectors) * p_.action_dim * kStrip;
        for (int64_t i = 0; i < floats; i += kLanes) store(walk_.grad + i, load(walk_.grad + i) + load(to + i));
        continue;
      }
      for (int v = 0; v < vectors_ * kLanes; v += kLanes)
        store(chosen_ + v, load<vi>(walk_.alive + v) & (load<vi>(choice_ + v) == m));
      int move_count;
      const int n = plan_moves(chosen_, vectors_, chosen_rows_, moves_, &move_count);
      if (n == 0) continue;
      if (n == count_) {
        backward(member, dense, vectors_, nullptr, 1.f, width, grad_in_, grad_out_, walk_.grad, pairs_);
        return;
      }
      compact_backward(member, n, move_count, nullptr);
      spread_gradient(n, [](int) DTAG_LAMBDA { return false; });
    }
  }

  // Brings the `n` chosen rows together for their gradients, times 1 or each row's own seed.
  void compact_backward(const PackedMember& member, int n, int move_count, const float* seeds) {
    const int64_t compact_rows = int64_t(strips_) * kCompactStrip;
    compact_saved(member, moves_, move_count, units_, rows_, compact_, compact_rows);
    const Saved saved{compact_, compact_rows, kCompactStrip, true};
    backward(member, saved, (n + kLanes - 1) / kLanes, nullptr, 1.f, p_.max_width, grad_in_, grad_out_, grad_compact_,
             pairs_, seeds);
  }

  // And back to the rows; adds(row): to what stands there.
  template <class Adds>
  DTAG_MEMBER void spread_gradient(int n, Adds adds) const {
    for (int t = 0; t < n; ++t) {
      const Walk to = walk(chosen_rows_[t]);
      const float* from = grad_compact_ + int64_t(t / kStrip) * p_.action_dim * kStrip + t % kStrip;
      const bool add = adds(chosen_rows_[t]);
      for (int k = 0; k < p_.action_dim; ++k)
        to.grad[k * kStrip] = add ? to.grad[k * kStrip] + from[k * kStrip] : from[k * kStrip];
    }
  }

  const Packed& p_;
  const int64_t rows_;
  const int strips_;
  int count_ = 0, vectors_ = 0;  // of the tile at hand
  bool mixed_ = false;           // its rows have different settings
  const Settings* settings_ = nullptr;
  Clock* clocks_;  // of each of the settings
  int32_t *variant_, *reduce_, *member_;  // of each row; the last two where it is mixed
  float* seeds_;
  bool* alike_;  // the rows of a vector have the same settings
  int64_t scratch_bytes_ = 0;
  Walk walk_{};  // of row 0; its action arrays are [strip][A][kStrip]
  float *scale_, *radius_, *mean_, *weight_;  // of the walk, where the call gives them
  float *units_, *compact_, *grad_in_, *grad_out_, *grad_compact_, *states_;
  int32_t *choice_, *chosen_, *chosen_rows_;
  uint32_t* pairs_;
  Move* moves_;
  bool* live_;
};

}  // namespace dtag::DTAG_ISA
