// How far a state's rows may go and what a unit of their ascent is, read where the caller has it: a step asks for each number
// once, so that no tile needs room for them.
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

}  // namespace dtag::gpu
