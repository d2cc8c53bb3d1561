// The rows of a hidden matrix that belong to one block, spread over the registers of its threads (and shared memory, where
// they are too many): loaded once, used in both directions in every iteration.
#pragma once
#include "cuda/refine/latency_params.h"
#include "cuda/refine/warp_sums.h"
#include "cuda/vocabulary.h"

namespace dtag::gpu {

template <class Shape>
class Slice {
 public:
  static constexpr int kQuads = Shape::kQuads, kRows = Shape::kRows, kHeld = Shape::kHeld, kWidth = Shape::kWidth;

  // From [kSlice][kWidth] in global memory; rest: offset of kRestFloats.
  DTAG_MEMBER void load(const float* matrix, uint32_t rest) {
    rest_ = rest;
    const float* mine = matrix + int64_t(warp_index()) * kRows * kWidth + lane_index() * 4;
    DTAG_UNROLL
    for (int i = 0; i < kRows; ++i)
      DTAG_UNROLL
      for (int j = 0; j < kQuads; ++j) {
        const Float4 w = load4(mine + i * kWidth + j * 128);
        if (i < kHeld)
          for (int k = 0; k < 4; ++k) held_[i < kHeld ? i : 0][j * 4 + k] = w.v[k];
        else
          store4(place(i, j), w);
      }
  }

  // Row reduced_index<kRows>() of this warp times x [kWidth].
  DTAG_MEMBER float times(Shared<const float> x) const {
    float sum[kRows] = {};
    DTAG_UNROLL
    for (int j = 0; j < kQuads; ++j) {
      const Float4 a = load4(x + j * 128 + lane_index() * 4);
      DTAG_UNROLL
      for (int i = 0; i < kRows; ++i) {
        if (i >= kHeld && i % (8 / kQuads) == 0) keep_order();  // or all would be in flight at once, and registers overflow
        const Float4 w = weight(i, j);
        DTAG_UNROLL
        for (int k = 0; k < 4; ++k) sum[i] = fma(w.v[k], a.v[k], sum[i]);
      }
    }
    return transpose_reduce<kRows>(sum);
  }

  // y [kWidth] = the rows of this warp, each times its number of g [kSlice], added up.
  DTAG_MEMBER void transposed_times(Shared<const float> g, Shared<float> y) const {
    float sum[kQuads * 4] = {};
    DTAG_UNROLL
    for (int i = 0; i < kRows; ++i) {
      if (i >= kHeld && i % (4 / kQuads) == 0) keep_order();
      const float gi = g[warp_index() * kRows + i];
      DTAG_UNROLL
      for (int j = 0; j < kQuads; ++j) {
        const Float4 w = weight(i, j);
        DTAG_UNROLL
        for (int k = 0; k < 4; ++k) sum[j * 4 + k] = fma(w.v[k], gi, sum[j * 4 + k]);
      }
    }
    DTAG_UNROLL
    for (int j = 0; j < kQuads; ++j)
      store4(y + j * 128 + lane_index() * 4, {{sum[j * 4], sum[j * 4 + 1], sum[j * 4 + 2], sum[j * 4 + 3]}});
  }

 private:
  DTAG_MEMBER Shared<float> place(int i, int j) const {
    return shared_part<float>(rest_, Shape::kRestFloats) + (warp_index() * (kRows - kHeld) + i - kHeld) * kWidth + j * 128 +
           lane_index() * 4;
  }
  DTAG_MEMBER Float4 weight(int i, int j) const {
    if (i >= kHeld) return load4(place(i, j));
    const int held = i < kHeld ? i : 0;
    return {{held_[held][j * 4], held_[held][j * 4 + 1], held_[held][j * 4 + 2], held_[held][j * 4 + 3]}};
  }

  float held_[kHeld][kQuads * 4];
  uint32_t rest_;
};

}  // namespace dtag::gpu
