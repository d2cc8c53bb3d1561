// What a training step does besides matrix products.
#pragma once
#include "cpu/adam.h"
#include "cpu/simd.h"
#include "refine/math.h"

namespace dtag::DTAG_ISA {

template <class F>
DTAG_INLINE void adam_at(const AdamArray& a, const AdamStep& s, int64_t i, F) {
  F g, m, v, p;
  __builtin_memcpy(&g, a.gradient + i, sizeof(F));
  __builtin_memcpy(&m, a.first + i, sizeof(F));
  __builtin_memcpy(&v, a.second + i, sizeof(F));
  __builtin_memcpy(&p, a.parameter + i, sizeof(F));
  m = fma(spread<F>(1.f - s.beta1), g - m, m);
  v = fma(spread<F>(1.f - s.beta2), g * g, s.beta2 * v);
  p = p - s.step * m / (sqrt(v) / s.root + s.eps);
  __builtin_memcpy(a.first + i, &m, sizeof(F));
  __builtin_memcpy(a.second + i, &v, sizeof(F));
  __builtin_memcpy(a.parameter + i, &p, sizeof(F));
  if (!a.follower) return;
  F f;
  __builtin_memcpy(&f, a.follower + i, sizeof(F));
  f = fma(spread<F>(s.polyak), p - f, f);
  __builtin_memcpy(a.follower + i, &f, sizeof(F));
}

// Numbers begin .. end of an array.
DTAG_FUNCTION void adam(const AdamArray& a, const AdamStep& s, int64_t begin, int64_t end) {
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) adam_at(a, s, i, vf{});
  for (; i < end; ++i) adam_at(a, s, i, 0.f);
}

// In place over x[0 .. count), count a multiple of kLanes.
DTAG_FUNCTION void tanh_all(float* x, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) store(x + i, tanh(load(x + i)));
}
DTAG_FUNCTION void exp_all(float* x, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) store(x + i, exp(load(x + i)));
}

}  // namespace dtag::DTAG_ISA
