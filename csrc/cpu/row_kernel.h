// Small batches: one row at a time, bound by the bytes of weights it touches. Dead ReLU units are skipped in both
// directions. Members may be divided among a team of threads that meet once per iteration.
#pragma once
#include "cpu/activate_all.h"
#include "cpu/kernels.h"
#include "cpu/row_products.h"
#include "cpu/rows_io.h"

namespace dtag::DTAG_ISA {

// LayerNorm in place; saves the normalised values and 1 / standard deviation. Places beyond `width` become zero.
static void norm_forward(const PackedOp& op, int width, float* x, float* normalised, float* rstd) {
  const int padded = (width + kLanes - 1) / kLanes * kLanes;
  for (int u = width; u < padded; ++u) x[u] = 0.f;
  vf sum = {}, squares = {};
  for (int u = 0; u < padded; u += kLanes) sum += load(x + u);
  const float mean = sum_lanes(sum) / float(width);
  for (int u = 0; u < padded; u += kLanes) store(normalised + u, load(x + u) - mean);
  for (int u = width; u < padded; ++u) normalised[u] = 0.f;
  for (int u = 0; u < padded; u += kLanes) squares = fma(load(normalised + u), load(normalised + u), squares);
  *rstd = 1.f / sqrt(sum_lanes(squares) / float(width) + op.p0);
  for (int u = 0; u < padded; u += kLanes) {
    const vf n = load(normalised + u) * *rstd;
    store(normalised + u, n);
    store(x + u, fma(n, load(op.scale + u), load(op.shift + u)));
  }
}

// As in tile_layers.h, for one row; what stands beyond `width` in op.scale is zero, and in g becomes so again.
static void norm_backward(const PackedOp& op, int width, float* g, const float* normalised, float rstd) {
  vf sum = {}, dot = {};
  for (int u = 0; u < width; u += kLanes) {
    const vf scaled = load(g + u) * load(op.scale + u);
    store(g + u, scaled);
    sum += scaled;
    dot = fma(scaled, load(normalised + u), dot);
  }
  const float mean = sum_lanes(sum) / float(width), slope = sum_lanes(dot) / float(width);
  for (int u = 0; u < width; u += kLanes)
    store(g + u, (load(g + u) - mean - load(normalised + u) * slope) * rstd);
  zero_padding(width, g);
}

class RowKernel {
 public:
  // Lays out the scratch; with scratch null, only to measure it.
  RowKernel(const Packed& packed, float* scratch) : p_(packed) {
    Arena arena{reinterpret_cast<uintptr_t>(scratch)};
    const int64_t dims = padded(p_.action_dim), width = padded(p_.max_width);
    int64_t longest = p_.state_dim > p_.max_width ? p_.state_dim : p_.max_width;
    arena.take(dims, walk_.action, walk_.start, walk_.best, walk_.grad, walk_.first_moment, walk_.second_moment,
               walk_.lr, scale_, mean_);
    arena.take(1, walk_.q, walk_.q_first, walk_.q_best, radius_, weight_);
    arena.take(1, walk_.alive, walk_.best_index, walk_.steps);
    arena.take(width, grad_in_, grad_out_, grad_member_);
    arena.take(width * kLanes, sums_);
    arena.take(p_.units, units_);
    // The live list of a stage starts at its value's offset; 2 * kLanes spare numbers of the next one lie behind it.
    arena.take(2 * p_.units + kPrefetch + 16, lists_);
    arena.take(longest + kPrefetch, all_);
    arena.take(int64_t(p_.member_count) * kMaxStages, counts_);
    arena.take(p_.member_count, q_member_);
    scratch_bytes_ = int64_t(arena.at - reinterpret_cast<uintptr_t>(scratch));
    walk_.dims = p_.action_dim;
    walk_.stride = 1;
    if (!scratch) return;
    for (int64_t i = 0; i < longest + kPrefetch; ++i) all_[i] = uint16_t(i < longest ? i : 0);
    for (int64_t k = 0; k < dims; ++k) walk_.action[k] = 0.f;  // places beyond A stay zero
  }
  int64_t scratch_bytes() const { return scratch_bytes_; }

  void run(const Job& job, int64_t row, const Team& team) {
    const Settings& s = job.settings[variant_of(job, row)];
    const int n = job.call->steps;
    walk_.scale = has_scale(*job.call) ? scale_ : nullptr;
    walk_.radius = job.call->radius_values ? radius_ : nullptr;
    walk_.mean = has_prior(*job.call) ? mean_ : nullptr;
    walk_.weight = has_prior(*job.call) ? weight_ : nullptr;
    read_row(job, row, walk_);
    walk_begin<float>(walk_, s);
    const float* state = job.call->states + row / job.call->candidates * job.call->state_stride;
    for (int m = team.rank; m < p_.member_count; m += team.size) {
      const PackedMember& member = p_.members[m];
      combine(member.state_rows, everything(p_.state_dim), state, member.stages[0].bias, units_ + member.base);
    }
    Clock clock;
    for (int i = 0; i <= n; ++i) {
      if (i < n || last_q_needed(job, s)) evaluate(s, i < n, team);
      if (team.rank == 0) trace_point(job, row, i, walk_);
      walk_observe<float>(walk_, s, i);
      if (i == n || !*walk_.alive) break;
      gradient(s.reduce, team);
      if (team.rank == 0) trace_gradient(job, row, i, walk_);
      clock.tick(s);
      walk_step<float>(walk_, s, clock, i);
      if (!*walk_.alive) break;
    }
    if (team.rank == 0) write_row(job, row, walk_);
  }

 private:
  static constexpr int kMaxStages = 8;
  static int64_t padded(int64_t n) { return (n + 2 * kLanes - 1) / (2 * kLanes) * (2 * kLanes); }
  Live everything(int count) const { return {all_, count}; }
  Live live_outputs(int m, int l) const {
    const PackedStage& stage = p_.members[m].stages[l];
    return {lists_ + 2 * stage.value, counts_[m * kMaxStages + l]};
  }

  float forward(int m) {
    const PackedMember& member = p_.members[m];
    const float* in = walk_.action;
    for (int l = 0; l < member.depth; ++l) {
      const PackedStage& stage = member.stages[l];
      const float* init = l == 0 ? units_ + member.base : stage.bias;
      float* value = units_ + stage.value;
      if (stage.by_input.data)
        combine(stage.by_input, stage.skip_in ? live_outputs(m, l - 1) : everything(stage.in), in, init, value);
      else
        dots(stage.by_output, in, init, value);
      for (int i = 0; i < stage.op_count; ++i) {
        const PackedOp& op = stage.ops[i];
        float* saved = op.saved < 0 ? nullptr : units_ + op.saved;
        if (op.is_norm)
          norm_forward(op, stage.out, value, saved, units_ + op.saved_rstd);
        else
          activate_all(op.kind, value, saved, padded(stage.out), op.p0, op.p1);
      }
      if (stage.op_count && stage.ops[stage.op_count - 1].in_place)
        counts_[m * kMaxStages + l] = find_live(value, stage.out, lists_ + 2 * stage.value);
      in = value;
    }
    return in[0];
  }

  // dQ_m/da * seed into `to`, [A] and padding.
  void backward(int m, float seed, float* to) {
    const PackedMember& member = p_.members[m];
    float *g = grad_in_, *next = grad_out_;
    for (int u = 0; u < 2 * kLanes; ++u) g[u] = u == 0 ? seed : 0.f;
    for (int l = member.depth - 1; l >= 0; --l) {
      const PackedStage& stage = member.stages[l];
      for (int i = stage.op_count - 1; i >= 0; --i) {
        const PackedOp& op = stage.ops[i];
        if (op.is_norm) {
          norm_backward(op, stage.out, g, units_ + op.saved, units_[op.saved_rstd]);
        } else if (op.kind != Activation::identity) {
          const float* saved = units_ + (op.in_place ? stage.value : op.saved);
          for (int u = 0; u < stage.out; u += kLanes) {
            const vf at = load(saved + u);
            store(g + u, op.in_place ? select(at <= 0.f, vf{}, load(g + u)) : load(g + u) * at);
          }
        }
      }
      float* out = l == 0 ? to : next;
      if (stage.by_output.data)
        combine(stage.by_output, everything(stage.out), g, nullptr, out);
      else if (l == 0)
        dots(stage.by_input, g, nullptr, out);
      else  // dead inputs pass nothing on, whatever their gradient
        live_dots(stage.by_input, stage.skip_in ? live_outputs(m, l - 1) : everything(stage.in), g, sums_, out);
      next = g;
      g = out;
    }
  }

  // q of the row and, in a team, the gradients it may need: each thread's own candidates, before the others are known.
  void evaluate(const Settings& s, bool with_gradient, const Team& team) {
    const Reduce reduce = s.reduce;
    const bool one = reduce == Reduce::member;
    for (int m = team.rank; m < p_.member_count; m += team.size)
      if (!one || m == s.member) q_member_[m] = forward(m);
    if (team.size > 1) exchange(s, with_gradient, team);
    choice_ = one ? s.member : 0;
    float q = q_member_[choice_];
    const float share = 1.f / float(p_.member_count);
    if (reduce == Reduce::mean) q *= share;
    for (int m = 1; m < p_.member_count && !one; ++m) {
      if (reduce == Reduce::mean) {
        q += q_member_[m] * share;
      } else if (beats(reduce, q_member_[m], q)) {
        q = q_member_[m];
        choice_ = m;
      }
    }
    *walk_.q = q;
  }

  void gradient(Reduce reduce, const Team& team) {
    const float share = 1.f / float(p_.member_count);
    if (reduce != Reduce::mean) {
      if (team.size == 1) return backward(choice_, 1.f, walk_.grad);
      const float* g = shared(team, choice_);
      for (int k = 0; k < p_.action_dim; ++k) walk_.grad[k] = g[1 + k];
      return;
    }
    for (int m = 0; m < p_.member_count; ++m) {
      if (team.size == 1) backward(m, share, grad_member_);
      const float* g = team.size == 1 ? grad_member_ : shared(team, m) + 1;
      for (int k = 0; k < p_.action_dim; ++k) walk_.grad[k] = m == 0 ? g[k] : walk_.grad[k] + g[k];
    }
  }

  // Two buffers suffice: nobody can be two meetings ahead of a thread whose numbers it needs.
  float* shared(const Team& team, int m) const {
    return team.exchange + (int64_t(meetings_ & 1) * p_.member_count + m) * (p_.action_dim + 1);
  }

  void exchange(const Settings& s, bool with_gradient, const Team& team) {
    const Reduce reduce = s.reduce;
    const bool one = reduce == Reduce::member;
    ++meetings_;
    int best = one ? s.member : team.rank;
    for (int m = team.rank; m < p_.member_count; m += team.size) {
      if (one && m != best) continue;
      if (!one && beats(reduce, q_member_[m], q_member_[best])) best = m;
      shared(team, m)[0] = q_member_[m];
    }
    for (int m = team.rank; with_gradient && m < p_.member_count; m += team.size) {
      if (reduce != Reduce::mean && m != best) continue;
      backward(m, reduce == Reduce::mean ? 1.f / float(p_.member_count) : 1.f, grad_member_);
      for (int k = 0; k < p_.action_dim; ++k) shared(team, m)[1 + k] = grad_member_[k];
    }
    team.meet(team.barrier, team.size);
    for (int m = 0; m < p_.member_count; ++m)
      if (!one || m == best) q_member_[m] = shared(team, m)[0];
  }

  const Packed& p_;
  int64_t scratch_bytes_ = 0;
  Walk walk_{};
  float *scale_, *radius_, *mean_, *weight_;  // of the walk, where the call gives them
  float *units_, *grad_in_, *grad_out_, *grad_member_, *sums_, *q_member_;
  uint16_t *lists_, *all_;
  int32_t* counts_;
  int choice_ = 0, meetings_ = 0;
};

}  // namespace dtag::DTAG_ISA
