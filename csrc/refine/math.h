// exp, tanh, erf and relatives, for one row or a vector of them; included after the machine's vocabulary (scalar.h). Errors are a few units in the last place of float32; NaN goes through.
#pragma once

namespace dtag::DTAG_ISA {

// x = k log 2 + r with |r| <= log(2)/2: gives 2^k and expm1(r). Saturates where exp leaves the float32 range.
template <class F>
DTAG_INLINE void exp_parts(F x, F& scale, F& em1) {
  x = select(x < -87.f, spread<F>(-87.f), x);
  x = select(x > 88.f, spread<F>(88.f), x);
  const F shifter = spread<F>(12582912.f);  // 1.5 * 2^23: adding it rounds to an integer held in the low bits
  const F shifted = fma(x, spread<F>(1.44269504f), shifter);
  const F k = shifted - shifter;
  F r = fma(k, spread<F>(-0.693359375f), x);  // log 2 in two parts, the first exact in few bits
  r = fma(k, spread<F>(2.12194440e-4f), r);
  scale = bits_as<F>((bits_as<typename Lanes<F>::Bits>(shifted) << 23) + (127u << 23));
  // Taylor of degree 7: the remainder at |r| = 0.3466 is 5e-9 of the value.
  F p = spread<F>(1.f / 5040.f);
  p = fma(p, r, spread<F>(1.f / 720.f));
  p = fma(p, r, spread<F>(1.f / 120.f));
  p = fma(p, r, spread<F>(1.f / 24.f));
  p = fma(p, r, spread<F>(1.f / 6.f));
  p = fma(p, r, spread<F>(0.5f));
  em1 = fma(p * r, r, r);
}

template <class F>
DTAG_INLINE F exp(F x) {
  F scale, em1;
  exp_parts(x, scale, em1);
  return fma(scale, em1, scale);
}

template <class F>
DTAG_INLINE F expm1(F x) {
  F scale, em1;
  exp_parts(x, scale, em1);
  return fma(scale, em1, scale - 1.f);
}

template <class F>
DTAG_INLINE F sigmoid(F x) { return 1.f / (1.f + exp(-x)); }

// tanh |x| = -t / (t + 2) with t = expm1(-2|x|): no cancellation anywhere.
template <class F>
DTAG_INLINE F tanh(F x) {
  const F t = expm1(-2.f * abs_of(x));
  const F y = -t / (t + 2.f);
  return select(x < 0.f, -y, y);
}

// log(1 + u) for 0 <= u <= 1, as 2 atanh(u / (2 + u)): nine terms leave 5e-10.
template <class F>
DTAG_INLINE F log1p_unit(F u) {
  const F s = u / (u + 2.f), s2 = s * s;
  F p = spread<F>(2.f / 17.f);
  p = fma(p, s2, spread<F>(2.f / 15.f));
  p = fma(p, s2, spread<F>(2.f / 13.f));
  p = fma(p, s2, spread<F>(2.f / 11.f));
  p = fma(p, s2, spread<F>(2.f / 9.f));
  p = fma(p, s2, spread<F>(2.f / 7.f));
  p = fma(p, s2, spread<F>(2.f / 5.f));
  p = fma(p, s2, spread<F>(2.f / 3.f));
  return fma(p * s2, s, 2.f * s);
}

// erfc(u) = t exp(-u^2 + P(t)), t = 1 / (1 + u/2): gives t and P(t). P fitted here (Chebyshev nodes, 0 <= u <= 10, error 5e-8).
template <class F>
DTAG_INLINE F erfc_exponent(F u, F& t) {
  t = 1.f / fma(u, spread<F>(0.5f), spread<F>(1.f));
  F p = spread<F>(0.144930214f);
  p = fma(p, t, spread<F>(-0.680827177f));
  p = fma(p, t, spread<F>(1.15673376f));
  p = fma(p, t, spread<F>(-0.696251898f));
  p = fma(p, t, spread<F>(-0.0802804329f));
  p = fma(p, t, spread<F>(0.00126758671f));
  p = fma(p, t, spread<F>(0.0346027999f));
  p = fma(p, t, spread<F>(0.386640412f));
  p = fma(p, t, spread<F>(0.998632783f));
  return fma(p, t, spread<F>(-1.265448f));
}

// The normal distribution function and its density, relative error of both tails kept.
template <class F>
DTAG_INLINE void normal_cdf(F x, F& cdf, F& density) {
  F t;
  const F p = erfc_exponent(abs_of(x) * 0.707106781f, t);
  const F gauss = exp(-0.5f * x * x);
  const F tail = 0.5f * t * gauss * exp(p);
  cdf = select(x > 0.f, 1.f - tail, tail);
  density = 0.398942280f * gauss;
}

// The normal distribution function alone, with one exponential; relative error of the lower tail 2e-6 where it is 1e-9.
template <class F>
DTAG_INLINE F normal_cdf(F x) {
  F t;
  const F p = erfc_exponent(abs_of(x) * 0.707106781f, t);
  const F tail = 0.5f * t * exp(fma(-0.5f * x, x, p));
  return select(x > 0.f, 1.f - tail, tail);
}

}  // namespace dtag::DTAG_ISA
