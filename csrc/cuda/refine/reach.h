// How far a state's rows may go, what a unit of their ascent is, and their prior, read where the caller has it: a step asks
// for each number once, so that no tile needs room for them.
#pragma once
#include "cuda/vocabulary.h"

namespace dtag::gpu {

struct Reach {
  const float* scales;  // null: `number` for every dimension
  int64_t stride;
  float number, radius;

  // Of state b.
  DTAG_MEMBER Reach(const Call& c, const Settings& s, int64_t b)
      : scales(c.scale_values ? c.scale_values + b * c.scale_row_stride : nullptr), stride(c.scale_dim_stride), number(c.scale),
        radius(c.radius_values ? c.radius_values[b] : s.radius) {}

  DTAG_MEMBER bool scaled() const { return scales || number != 1.f; }
  DTAG_MEMBER float scale(int k) const { return scales ? scales[k * stride] : number; }
};

struct PriorOf {
  bool given = false;
  const float* means = nullptr;  // null: `number` for every dimension
  int64_t stride = 0;
  float number = 0.f, weight = 0.f;  // weight: divided by the action's dimensions

  PriorOf() = default;
  // Of state b.
  DTAG_MEMBER PriorOf(const Call& c, int64_t b, int dims)
      : given(true), means(c.prior_mean_values ? c.prior_mean_values + b * c.prior_mean_row_stride : nullptr),
        stride(c.prior_mean_dim_stride), number(c.prior_mean),
        weight((c.prior_weight_values ? c.prior_weight_values[b] : c.prior_weight) / float(dims)) {}

  DTAG_MEMBER float mean(int k) const { return means ? means[k * stride] : number; }
};

}  // namespace dtag::gpu
