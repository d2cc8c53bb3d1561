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
  static constexpr int kSummed = kRows < 8 ? kRows : 8;  // rows at a time: their sums are in registers
  static_assert(kRows == kSummed || kRows == 2 * kSummed);

  // The row of the slice that this lane sees to; several lanes see to the same one, the first of them writes.
  DTAG_MEMBER static int my_row() {
    const int second = kRows > kSummed && (lane_index() & 2) ? kSummed : 0;
    return warp_index() * kRows + second + reduced_index<kSummed>();
  }
  DTAG_MEMBER static bool writes() { return kRows > kSummed ? lane_index() % 2 == 0 : reduced_first<kSummed>(); }

  // From [kSlice][kWidth] in global memory; rest: offset of kRestFloats.
  DTAG_MEMBER void load(const float* matrix, uint32_t rest) {
    rest_ = rest;
    const float* mine = matrix + int64_t(warp_index()) * kRows * kWidth + lane_index() * 4;
    DTAG_UNROLL
    for (int i = kHeld; i < kRows; ++i)  // past the registers; every thread reads what it has copied itself
      DTAG_UNROLL
      for (int j = 0; j < kQuads; ++j) copy_async16(place(i, j), mine + i * kWidth + j * 128);
    copy_async_commit();
    DTAG_UNROLL
    for (int i = 0; i < kHeld; ++i)
      DTAG_UNROLL
      for (int j = 0; j < kQuads; ++j) {
        const Float4 w = load4(mine + i * kWidth + j * 128);
        for (int k = 0; k < 4; ++k) held_[i][j * 4 + k] = w.v[k];
      }
    copy_async_wait<0>();
  }

  // Row my_row() times x [kWidth].
  DTAG_MEMBER float times(Shared<const float> x) const {
    const float sum = times<0>(x);
    if constexpr (kRows == kSummed) return sum;
    const float second = times<kRows - kSummed>(x);
    return lane_index() & 2 ? second : sum;
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
  // The same of rows first to first + kSummed - 1.
  template <int first>
  DTAG_MEMBER float times(Shared<const float> x) const {
    float sum[kSummed] = {};
    DTAG_UNROLL
    for (int j = 0; j < kQuads; ++j) {
      const Float4 a = load4(x + j * 128 + lane_index() * 4);
      DTAG_UNROLL
      for (int r = 0; r < kSummed; ++r) {
        const int i = first + r;
        if (i >= kHeld && i % (8 / kQuads) == 0) keep_order();  // or all would be in flight at once, and registers overflow
        const Float4 w = weight(i, j);
        DTAG_UNROLL
        for (int k = 0; k < 4; ++k) sum[r] = fma(w.v[k], a.v[k], sum[r]);
      }
    }
    return transpose_reduce<kSummed>(sum);
  }

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
