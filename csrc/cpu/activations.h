// Activations and their derivatives, formulas and conventions at kinks as in torch.nn.functional.
#pragma once
#include "cpu/activation_kind.h"
#include "cpu/math.h"

namespace dtag::DTAG_ISA {

// value and derivative at z; p0, p1 as in PostOp. ReLU propagates NaN and has derivative 0 at 0.
template <Activation kind>
DTAG_INLINE void activate(vf z, float p0, float p1, vf& value, vf& slope) {
  const vf zero = {}, one = splat(1.f);
  if constexpr (kind == Activation::relu) {
    value = select(z <= 0.f, zero, z);
    slope = select(z <= 0.f, zero, one);
  } else if constexpr (kind == Activation::leaky_relu) {
    slope = select(z > 0.f, one, splat(p0));
    value = z * slope;
  } else if constexpr (kind == Activation::elu) {
    const vf em1 = expm1(select(z > 0.f, zero, z));
    value = select(z > 0.f, z, p0 * em1);
    slope = select(z > 0.f, one, fma(splat(p0), em1, splat(p0)));
  } else if constexpr (kind == Activation::gelu) {
    vf cdf, density;
    normal_cdf(z, cdf, density);
    value = z * cdf;
    slope = fma(z, density, cdf);
  } else if constexpr (kind == Activation::gelu_tanh) {
    // Beyond 20 the tanh is +-1 and its derivative 0; cubes of larger numbers would overflow to infinity times zero.
    const vf c = select(z > 20.f, splat(20.f), select(z < -20.f, splat(-20.f), z));
    const vf c2 = c * c;
    const vf t = tanh(0.797884561f * c * fma(c2, splat(0.044715f), one));
    const vf inner = 0.797884561f * fma(c2, splat(3.f * 0.044715f), one);
    const vf half = 0.5f * (t + 1.f);
    value = z * half;
    slope = fma(0.5f * c * inner, (one - t) * (one + t), half);
  } else if constexpr (kind == Activation::silu) {
    const vf s = sigmoid(z);
    value = z * s;
    slope = s * fma(z, one - s, one);
  } else if constexpr (kind == Activation::mish) {
    // tanh(softplus(z)) = n / (n + 2), n = e (e + 2), e = exp(z); beyond 20 it is 1 in float32.
    const vf e = exp(select(z > 20.f, splat(20.f), z));
    const vf n = e * (e + 2.f);
    const vf w = n / (n + 2.f);
    value = z * w;
    slope = fma(z * (4.f * e * (e + 1.f)), one / ((n + 2.f) * (n + 2.f)), w);
    slope = select(z > 20.f, one, slope);
  } else if constexpr (kind == Activation::tanh) {
    value = tanh(z);
    slope = (one - value) * (one + value);
  } else if constexpr (kind == Activation::softplus) {
    const vf bz = p0 * z;
    const vf e = exp(-abs_of(bz));
    const vf log_part = log1p_unit(e);
    const vf soft = (select(bz > 0.f, bz, zero) + log_part) / p0;
    const vf s = one / (one + e);
    value = select(bz > p1, z, soft);
    slope = select(bz > p1, one, select(bz > 0.f, s, e * s));
  } else {
    value = z;
    slope = one;
  }
}

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
