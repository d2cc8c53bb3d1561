// The words in which the arithmetic of a row is written (ascent.h, activations.h, math.h), for one row: F = float. A CPU
// vector of rows has the same words in cpu/simd.h. Included by the machine's vocabulary (cpu/simd.h, cuda/vocabulary.h), which
// defines the namespace DTAG_ISA and the macros DTAG_INLINE, DTAG_MEMBER, DTAG_FUNCTION and DTAG_LAMBDA first.
#pragma once
#include <stdint.h>

#ifdef __CUDACC__
#define DTAG_BUILTIN(function) ::function
#else
#define DTAG_BUILTIN(function) __builtin_##function
#endif

namespace dtag::DTAG_ISA {

template <class To, class From>
DTAG_INLINE To bits_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  DTAG_BUILTIN(memcpy)(&to, &from, sizeof(to));
  return to;
}

template <class F>
struct Lanes;
template <>
struct Lanes<float> {
  using Mask = bool;
  using Bits = uint32_t;
  static constexpr int count = 1;
  DTAG_MEMBER static float spread(float x) { return x; }
};
template <class F>
DTAG_INLINE F spread(float x) {
  return Lanes<F>::spread(x);
}

DTAG_INLINE float select(bool mask, float yes, float no) { return mask ? yes : no; }
DTAG_INLINE bool any(bool mask) { return mask; }
DTAG_INLINE float fma(float a, float b, float c) { return DTAG_BUILTIN(fmaf)(a, b, c); }
DTAG_INLINE float sqrt(float a) { return DTAG_BUILTIN(sqrtf)(a); }
DTAG_INLINE float abs_of(float x) { return DTAG_BUILTIN(fabsf)(x); }
DTAG_INLINE bool is_finite(float x) { return abs_of(x) <= 3.402823466e38f; }

// A number, mask or index of one row in memory; P is a pointer. Masks are int32, -1 or 0.
template <class P>
DTAG_INLINE void put(P p, float v) {
  *p = v;
}
template <class P>
DTAG_INLINE void put_mask(P p, bool m) {
  *p = m ? -1 : 0;
}
template <class P>
DTAG_INLINE bool steps_after(P steps, int i, float) {
  return *steps > i;
}
template <class P>
DTAG_INLINE void put_index(P p, bool m, int i) {
  if (m) *p = i;
}

}  // namespace dtag::DTAG_ISA
