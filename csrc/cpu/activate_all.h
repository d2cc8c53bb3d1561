// Activations over an array.
#pragma once
#include "cpu/simd.h"
#include "refine/activations.h"

namespace dtag::DTAG_ISA {

// value in place over z[0..count), slopes to `slope` unless it is null; count is a multiple of kLanes.
template <Activation kind>
static void activate_all(float* z, float* slope, int64_t count, float p0, float p1) {
  for (int64_t i = 0; i < count; i += kLanes) {
    vf value, d;
    activate<kind>(load(z + i), p0, p1, value, d);
    store(z + i, value);
    if (slope) store(slope + i, d);
  }
}

static void activate_all(Activation kind, float* z, float* slope, int64_t count, float p0, float p1) {
  with_activation(kind, [&]<Activation known>() DTAG_LAMBDA { activate_all<known>(z, slope, count, p0, p1); });
}

}  // namespace dtag::DTAG_ISA
