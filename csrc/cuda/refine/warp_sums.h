// Sums over the lanes of a warp.
#pragma once
#include "cuda/primitives.h"

namespace dtag::gpu {

// All lanes get it.
DTAG_INLINE float sum_over_warp(float x) {
  DTAG_UNROLL
  for (int apart = 16; apart >= 1; apart /= 2) x += shuffle_xor(x, apart);
  return x;
}

// Every lane gives n numbers, n a power of two up to 32; returns the sum over all lanes of number reduced_index<n>(): at each
// step half of the numbers are given away for the other half, so that n sums take n - 1 + log2(32 / n) shuffles.
template <int n>
DTAG_INLINE float transpose_reduce(float (&v)[n]) {
  const int lane = lane_index();
  int step = 16;
  DTAG_UNROLL
  for (int count = n / 2; count >= 1; count /= 2) {
    const bool high = lane & step;
    DTAG_UNROLL
    for (int i = 0; i < n / 2; ++i) {
      if (i >= count) break;
      const float send = high ? v[i] : v[i + count], keep = high ? v[i + count] : v[i];
      v[i] = keep + shuffle_xor(send, step);
    }
    step /= 2;
  }
  float sum = v[0];
  for (; step >= 1; step /= 2) sum += shuffle_xor(sum, step);
  return sum;
}
// Which number a lane holds; 32 / n lanes hold the same one, reduced_first<n>() is the first of them.
template <int n>
DTAG_INLINE int reduced_index() {
  return lane_index() / (32 / n);
}
template <int n>
DTAG_INLINE bool reduced_first() {
  return lane_index() % (32 / n) == 0;
}

}  // namespace dtag::gpu
