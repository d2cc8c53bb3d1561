// The vector vocabulary of one instruction set. A translation unit defines DTAG_ISA (its namespace) and DTAG_LANES,
// then includes the kernels: everything below is compiled anew under that namespace with that unit's flags, so no
// function made of wider instructions can be shared with, or linked into, the baseline. For the same reason these
// headers use no inline function of the standard library.
//
// Arithmetic is that of the compilers' vector extensions, which any target has; only what they cannot say (fused
// multiply-add, square root, moving lanes about, bf16 dot products) is spelt per instruction set. A vector wider
// than the machine's is split by the compiler: this is how the 16-lane kernels run, for testing, on any machine.
#pragma once
#include <stdint.h>

#ifdef DTAG_USE_SIMDE  // the AVX-512 intrinsics in portable C, to run that translation unit on a lesser machine
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/fma.h>
#elif defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define DTAG_INLINE static inline __attribute__((always_inline))
#define DTAG_MEMBER inline __attribute__((always_inline))
#define DTAG_FUNCTION static
#define DTAG_LAMBDA __attribute__((always_inline))
#ifdef __clang__
#define DTAG_UNROLL _Pragma("unroll")
#else
#define DTAG_UNROLL _Pragma("GCC unroll 32")
#endif

#include "refine/scalar.h"

namespace dtag::DTAG_ISA {

constexpr int kLanes = DTAG_LANES;
typedef float vf __attribute__((vector_size(4 * DTAG_LANES)));
typedef int32_t vi __attribute__((vector_size(4 * DTAG_LANES)));  // masks: -1 true, 0 false
typedef uint32_t vu __attribute__((vector_size(4 * DTAG_LANES)));
typedef float vf4 __attribute__((vector_size(16)));
typedef float vf8 __attribute__((vector_size(32)));
typedef float vf16 __attribute__((vector_size(64)));

template <class V = vf>
DTAG_INLINE V load(const void* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof(V));
  return v;
}
template <class V>
DTAG_INLINE void store(void* p, V v) {
  __builtin_memcpy(p, &v, sizeof(V));
}
DTAG_INLINE vf splat(float x) { return x - vf{}; }
DTAG_INLINE vu splat_bits(uint32_t x) { return x + vu{}; }
DTAG_INLINE vf select(vi mask, vf yes, vf no) { return mask ? yes : no; }

#if defined(DTAG_INTRINSICS_AVX512)
DTAG_INLINE vf fma(vf a, vf b, vf c) {
  return bits_as<vf>(_mm512_fmadd_ps(bits_as<__m512>(a), bits_as<__m512>(b), bits_as<__m512>(c)));
}
DTAG_INLINE vf sqrt(vf a) { return bits_as<vf>(_mm512_sqrt_ps(bits_as<__m512>(a))); }
DTAG_INLINE vf permute(vf a, vi index) {
  return bits_as<vf>(_mm512_permutexvar_ps(bits_as<__m512i>(index), bits_as<__m512>(a)));
}
DTAG_INLINE uint32_t movemask(vi mask) {
  return uint32_t(_mm512_cmpgt_epi32_mask(_mm512_setzero_si512(), bits_as<__m512i>(mask)));
}
#elif defined(DTAG_INTRINSICS_AVX2)
DTAG_INLINE vf fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
DTAG_INLINE vf sqrt(vf a) { return _mm256_sqrt_ps(a); }
DTAG_INLINE vf permute(vf a, vi index) { return _mm256_permutevar8x32_ps(a, bits_as<__m256i>(index)); }
DTAG_INLINE uint32_t movemask(vi mask) { return uint32_t(_mm256_movemask_ps(bits_as<__m256>(mask))); }
#else
DTAG_INLINE vf fma(vf a, vf b, vf c) {
#if defined(__ARM_NEON) && DTAG_LANES == 4
  return vfmaq_f32(c, a, b);
#else
  return a * b + c;
#endif
}
DTAG_INLINE vf sqrt(vf a) {
  for (int l = 0; l < kLanes; ++l) a[l] = __builtin_sqrtf(a[l]);
  return a;
}
DTAG_INLINE vf permute(vf a, vi index) {
  vf r;
  for (int l = 0; l < kLanes; ++l) r[l] = a[index[l]];
  return r;
}
DTAG_INLINE uint32_t movemask(vi mask) {
#if defined(__SSE2__) && DTAG_LANES == 4
  return uint32_t(_mm_movemask_ps(bits_as<__m128>(mask)));
#else
  uint32_t bits = 0;
  for (int l = 0; l < kLanes; ++l) bits |= uint32_t(mask[l] & 1) << l;
  return bits;
#endif
}
#endif

// bf16, rounded to nearest even, in the upper half of each word (NaN stays NaN).
DTAG_INLINE vu round_bf16(vf x) {
  vu u = bits_as<vu>(x);
  vu rounded = u + (0x7fffu + ((u >> 16) & 1u));
  return (bits_as<vu>(x != x ? vi{} - 1 : vi{}) & (u | 0x400000u)) | (bits_as<vu>(x == x ? vi{} - 1 : vi{}) & rounded);
}
// Two units' values as pairs of bf16: `even` in the lower half of each word, `odd` in the upper.
DTAG_INLINE vu pack_bf16(vf even, vf odd) { return (round_bf16(even) >> 16) | (round_bf16(odd) & 0xffff0000u); }
DTAG_INLINE vf low_bf16(vu pair) { return bits_as<vf>(pair << 16); }
DTAG_INLINE vf high_bf16(vu pair) { return bits_as<vf>(pair & 0xffff0000u); }

// acc + a.low * b.low + a.high * b.high
DTAG_INLINE vf dot_bf16(vf acc, vu a, vu b) {
#ifdef DTAG_INTRINSICS_AVX512BF16
  return bits_as<vf>(_mm512_dpbf16_ps(bits_as<__m512>(acc), bits_as<__m512bh>(a), bits_as<__m512bh>(b)));
#else
  return fma(high_bf16(a), high_bf16(b), fma(low_bf16(a), low_bf16(b), acc));
#endif
}

// Sum over the lanes, halves first: the same order on every call.
DTAG_INLINE float sum_lanes(vf4 v) { return (v[0] + v[2]) + (v[1] + v[3]); }
DTAG_INLINE float sum_lanes(vf8 v) {
  return sum_lanes(__builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7));
}
DTAG_INLINE float sum_lanes(vf16 v) {
  return sum_lanes(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                   __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15));
}

// The same words for one row at a time are those of refine/scalar.h; what the ascent also asks of a vector of rows:
DTAG_INLINE bool any(vi mask) { return movemask(mask) != 0; }
DTAG_INLINE vf abs_of(vf x) { return bits_as<vf>(bits_as<vu>(x) & 0x7fffffffu); }
DTAG_INLINE vi is_finite(vf x) { return abs_of(x) <= splat(3.402823466e38f); }
template <>
struct Lanes<vf> {
  using Mask = vi;
  using Bits = vu;
  static constexpr int count = kLanes;
  DTAG_MEMBER static vf spread(float x) { return splat(x); }
};
DTAG_INLINE void put(float* p, vf v) { store(p, v); }
DTAG_INLINE void put_mask(int32_t* p, vi m) { store(p, m); }
DTAG_INLINE vi steps_after(const int32_t* steps, int i, vf) { return load<vi>(steps) > i; }
DTAG_INLINE void put_index(int32_t* p, vi m, int i) { store(p, m ? vi{} + i : load<vi>(p)); }

// Hands out 64-byte aligned parts of one block of scratch.
struct Arena {
  uintptr_t at;
  template <class... T>
  void take(int64_t count, T*&... arrays) {
    (take_one(count, arrays), ...);
  }
  template <class T>
  void take_one(int64_t count, T*& array) {
    array = reinterpret_cast<T*>(at);
    at += (uintptr_t(count) * sizeof(T) + 63) / 64 * 64;
  }
};

}  // namespace dtag::DTAG_ISA
