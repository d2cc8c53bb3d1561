// Planes: bf16 numbers of a tile's rows in shared memory (tensor_program.h).
#pragma once
#include "cuda/refine/tensor_tile.h"
#include "cuda/vocabulary.h"

namespace dtag::gpu {

struct Pair {
  float a, b;
};
DTAG_INLINE Pair unpack_bf16(uint32_t pair) { return {bits_as<float>(pair << 16), bits_as<float>(pair & 0xffff0000u)}; }

// What rounding to bf16 left; nothing of infinity.
DTAG_INLINE float remainder_of(float x, float rounded) { return is_finite(rounded) ? x - rounded : 0.f; }

template <class Tile>
struct Plane {
  uint32_t offset;
  int stride;  // numbers from row to row

  DTAG_MEMBER Plane(uint32_t offset_, int width) : offset(offset_), stride(width + 8) {}

  DTAG_MEMBER Shared<uint16_t> part(int i) const {
    return shared_part<uint16_t>(offset + uint32_t(i * stride) * Tile::kRows * 2, int64_t(stride) * Tile::kRows);
  }
  // Columns 2 * word and the next one.
  DTAG_MEMBER Pair load(int row, int word) const {
    Pair x = unpack_bf16(words(0)[row * (stride / 2) + word]);
    if constexpr (Tile::kParts == 2) {
      const Pair rest = unpack_bf16(words(1)[row * (stride / 2) + word]);
      x = {x.a + rest.a, x.b + rest.b};
    }
    return x;
  }
  DTAG_MEMBER void store(int row, int word, Pair x) const {
    const uint32_t rounded = pack_bf16(x.a, x.b);
    words(0)[row * (stride / 2) + word] = rounded;
    if constexpr (Tile::kParts == 2) {
      const Pair r = unpack_bf16(rounded);
      words(1)[row * (stride / 2) + word] = pack_bf16(remainder_of(x.a, r.a), remainder_of(x.b, r.b));
    }
  }
  // The rounded values of the pair, whose signs are those of the numbers.
  DTAG_MEMBER Pair rounded(int row, int word) const { return unpack_bf16(words(0)[row * (stride / 2) + word]); }

 private:
  DTAG_MEMBER Shared<uint32_t> words(int i) const {
    return shared_part<uint32_t>(offset + uint32_t(i * stride) * Tile::kRows * 2, int64_t(stride / 2) * Tile::kRows);
  }
};

}  // namespace dtag::gpu
