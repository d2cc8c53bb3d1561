// bf16 of a number at a time, for packing.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace dtag {

// Rounded to nearest even; NaN stays NaN.
inline uint16_t to_bf16(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  if (std::isnan(x)) return uint16_t((u | 0x400000u) >> 16);
  return uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

inline float through_bf16(float x) {
  const uint32_t u = uint32_t(to_bf16(x)) << 16;
  float y;
  std::memcpy(&y, &u, 4);
  return y;
}

}  // namespace dtag
