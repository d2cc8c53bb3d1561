// Activations and their derivatives, formulas and conventions at kinks as in torch.nn.functional.
#pragma once
#include "refine/activation_kind.h"
#include "refine/math.h"

namespace dtag::DTAG_ISA {

// value and derivative at z; p0, p1 as in PostOp. ReLU propagates NaN and has derivative 0 at 0.
template <Activation kind, class F>
DTAG_INLINE void activate(F z, float p0, float p1, F& value, F& slope) {
  const F zero = spread<F>(0.f), one = spread<F>(1.f);
  if constexpr (kind == Activation::relu) {
    value = select(z <= 0.f, zero, z);
    slope = select(z <= 0.f, zero, one);
  } else if constexpr (kind == Activation::leaky_relu) {
    slope = select(z > 0.f, one, spread<F>(p0));
    value = z * slope;
  } else if constexpr (kind == Activation::elu) {
    const F em1 = expm1(select(z > 0.f, zero, z));
    value = select(z > 0.f, z, p0 * em1);
    slope = select(z > 0.f, one, fma(spread<F>(p0), em1, spread<F>(p0)));
  } else if constexpr (kind == Activation::gelu) {
    F cdf, density;
    normal_cdf(z, cdf, density);
    value = z * cdf;
    slope = fma(z, density, cdf);
  } else if constexpr (kind == Activation::gelu_tanh) {
    // Beyond 20 the tanh is +-1 and its derivative 0; cubes of larger numbers would overflow to infinity times zero.
    const F c = select(z > 20.f, spread<F>(20.f), select(z < -20.f, spread<F>(-20.f), z));
    const F c2 = c * c;
    const F t = tanh(0.797884561f * c * fma(c2, spread<F>(0.044715f), one));
    const F inner = 0.797884561f * fma(c2, spread<F>(3.f * 0.044715f), one);
    const F half = 0.5f * (t + 1.f);
    value = z * half;
    slope = fma(0.5f * c * inner, (one - t) * (one + t), half);
  } else if constexpr (kind == Activation::silu) {
    const F s = sigmoid(z);
    value = z * s;
    slope = s * fma(z, one - s, one);
  } else if constexpr (kind == Activation::mish) {
    // tanh(softplus(z)) = n / (n + 2), n = e (e + 2), e = exp(z); beyond 20 it is 1 in float32.
    const F e = exp(select(z > 20.f, spread<F>(20.f), z));
    const F n = e * (e + 2.f);
    const F w = n / (n + 2.f);
    value = z * w;
    slope = fma(z * (4.f * e * (e + 1.f)), one / ((n + 2.f) * (n + 2.f)), w);
    slope = select(z > 20.f, one, slope);
  } else if constexpr (kind == Activation::tanh) {
    value = tanh(z);
    slope = (one - value) * (one + value);
  } else if constexpr (kind == Activation::softplus) {
    const F bz = p0 * z;
    const F e = exp(-abs_of(bz));
    const F log_part = log1p_unit(e);
    const F soft = (select(bz > 0.f, bz, zero) + log_part) / p0;
    const F s = one / (one + e);
    value = select(bz > p1, z, soft);
    slope = select(bz > p1, one, select(bz > 0.f, s, e * s));
  } else {
    value = z;
    slope = one;
  }
}

// f.operator()<kind>() for a kind that is known at run time only.
template <class F>
DTAG_INLINE void with_activation(Activation kind, F f) {
  switch (kind) {
    case Activation::identity: return f.template operator()<Activation::identity>();
    case Activation::relu: return f.template operator()<Activation::relu>();
    case Activation::leaky_relu: return f.template operator()<Activation::leaky_relu>();
    case Activation::elu: return f.template operator()<Activation::elu>();
    case Activation::gelu: return f.template operator()<Activation::gelu>();
    case Activation::gelu_tanh: return f.template operator()<Activation::gelu_tanh>();
    case Activation::silu: return f.template operator()<Activation::silu>();
    case Activation::mish: return f.template operator()<Activation::mish>();
    case Activation::tanh: return f.template operator()<Activation::tanh>();
    case Activation::softplus: return f.template operator()<Activation::softplus>();
  }
}

}  // namespace dtag::DTAG_ISA
