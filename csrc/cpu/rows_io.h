// Between the caller's arrays and one row of a walk. Rows are numbered over states and candidates: row r is candidate
// r % M of state r / M.
#pragma once
#include "cpu/kernels.h"
#include "cpu/simd.h"
#include "refine/ascent.h"

namespace dtag::DTAG_ISA {

struct Walk : WalkOf<float*, int32_t*> {
  float *scale, *radius;  // [A], strided, and one number; scale null: 1; radius null: that of the settings
  float *mean, *weight;   // of the prior: [A], strided, and one number, already divided by A; null: none

  DTAG_MEMBER bool scaled() const { return scale; }
  template <class F>
  DTAG_MEMBER F scale_of(int k) const {
    return get<F>(scale + k * stride);
  }
  template <class F>
  DTAG_MEMBER F radius_of(const Settings& s) const {
    return radius ? get<F>(radius) : spread<F>(s.radius);
  }

  DTAG_MEMBER bool has_prior() const { return weight; }
  template <class F>
  DTAG_MEMBER F prior_mean(int k) const {
    return get<F>(mean + k * stride);
  }
  template <class F>
  DTAG_MEMBER F prior_weight() const {
    return get<F>(weight);
  }

  DTAG_MEMBER Walk moved(int64_t row, int64_t at) const {
    return {WalkOf::moved(row, at), scale ? scale + at : nullptr, radius ? radius + row : nullptr,
            weight ? mean + at : nullptr, weight ? weight + row : nullptr};
  }
};

// Whether the call gives a scale; a scale of 1 for all is none.
DTAG_INLINE bool has_scale(const Call& c) { return c.scale_values || c.scale != 1.f; }

static void read_row(const Job& job, int64_t row, const Walk& w) {
  const Call& c = *job.call;
  const int64_t state = row / c.candidates;
  for (int k = 0; k < w.dims; ++k) {
    w.action[k * w.stride] = c.actions[row * w.dims + k];
    w.lr[k * w.stride] = c.lr_values ? c.lr_values[state * c.lr_row_stride + k * c.lr_dim_stride] : c.lr;
  }
  if (w.scale)
    for (int k = 0; k < w.dims; ++k)
      w.scale[k * w.stride] =
          c.scale_values ? c.scale_values[state * c.scale_row_stride + k * c.scale_dim_stride] : c.scale;
  if (w.radius) *w.radius = c.radius_values[state];
  if (w.weight) {
    for (int k = 0; k < w.dims; ++k)
      w.mean[k * w.stride] = c.prior_mean_values
                                 ? c.prior_mean_values[state * c.prior_mean_row_stride + k * c.prior_mean_dim_stride]
                                 : c.prior_mean;
    *w.weight = (c.prior_weight_values ? c.prior_weight_values[state] : c.prior_weight) / float(w.dims);
  }
  *w.steps = c.row_steps ? c.row_steps[state] : c.steps;
  *w.alive = -1;
  *w.best_index = 0;
}

// Which of the job's settings a row has.
DTAG_INLINE int variant_of(const Job& job, int64_t row) {
  if (!job.call->row_variants) return 0;
  const int32_t v = job.call->row_variants[row / job.call->candidates];
  return v < 0 ? 0 : v < job.settings_count ? v : job.settings_count - 1;
}

// A row that stands at a_i: its action and Q go to the trace.
static void trace_point(const Job& job, int64_t row, int i, const Walk& w) {
  const Call& c = *job.call;
  if (!c.trace_q || !*w.alive) return;
  const int64_t at = i * c.batch * c.candidates + row;
  c.trace_q[at] = *w.q;
  for (int k = 0; k < w.dims; ++k) c.trace_actions[at * w.dims + k] = w.action[k * w.stride];
}

static void trace_gradient(const Job& job, int64_t row, int i, const Walk& w) {
  const Call& c = *job.call;
  if (!c.trace_grad || !*w.alive) return;
  const int64_t at = i * c.batch * c.candidates + row;
  for (int k = 0; k < w.dims; ++k) c.trace_grad[at * w.dims + k] = w.grad[k * w.stride];
}

static void write_row(const Job& job, int64_t row, const Walk& w) {
  const Call& c = *job.call;
  float* out = job.candidate_out ? job.candidate_out : c.out;
  for (int k = 0; k < w.dims; ++k) out[row * w.dims + k] = w.best[k * w.stride];
  if (job.candidate_q) job.candidate_q[row] = *w.q_best;
  if (job.candidate_cost) job.candidate_cost[row] = cost_of_best<float>(w);
  if (c.q_first) {
    c.q_first[row] = *w.q_first;
    c.q_best[row] = *w.q_best;
    c.best_index[row] = *w.best_index;
  }
}

// Whether Q of the last iterate is needed: not for "last" when nobody asks.
DTAG_INLINE bool last_q_needed(const Job& job, const Settings& s) {
  return s.select == Select::best || job.call->q_first || job.candidate_q;
}

}  // namespace dtag::DTAG_ISA
