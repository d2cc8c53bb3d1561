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
  switch (kind) {
    case Activation::relu: return activate_all<Activation::relu>(z, slope, count, p0, p1);
    case Activation::leaky_relu: return activate_all<Activation::leaky_relu>(z, slope, count, p0, p1);
    case Activation::elu: return activate_all<Activation::elu>(z, slope, count, p0, p1);
    case Activation::gelu: return activate_all<Activation::gelu>(z, slope, count, p0, p1);
    case Activation::gelu_tanh: return activate_all<Activation::gelu_tanh>(z, slope, count, p0, p1);
    case Activation::silu: return activate_all<Activation::silu>(z, slope, count, p0, p1);
    case Activation::mish: return activate_all<Activation::mish>(z, slope, count, p0, p1);
    case Activation::tanh: return activate_all<Activation::tanh>(z, slope, count, p0, p1);
    case Activation::softplus: return activate_all<Activation::softplus>(z, slope, count, p0, p1);
    case Activation::identity: return activate_all<Activation::identity>(z, slope, count, p0, p1);
  }
}

}  // namespace dtag::DTAG_ISA
