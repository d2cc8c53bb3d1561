// What a block of the latency kernel knows: which part of which member is its own, where its numbers lie, and how it meets
// the others (meet_in_cluster.h, meet_in_global_memory.h).
#pragma once
#include "cuda/refine/latency_params.h"
#include "cuda/refine/slice.h"
#include "cuda/vocabulary.h"

namespace dtag::gpu {

using cuda::kLatencyThreads;
using cuda::kLatencyWarps;
using cuda::LatencyMember;
using cuda::LatencyMemory;
using cuda::LatencyOp;
using cuda::LatencyParams;

DTAG_INLINE void activate_one(const LatencyOp& op, float z, float& value, float& slope) {
  with_activation(op.kind, [&]<Activation kind>() DTAG_LAMBDA { activate<kind, float>(z, op.p0, op.p1, value, slope); });
}

// Parts of the kernel keep copies: a pointer to it inside of them would keep the compiler from holding them in registers.
// relu: every hidden layer is followed by ReLU alone, which spares each iteration the looking up.
template <class ShapeOf, class Meet, bool relu>
struct LatencyBlock {
  using Shape = ShapeOf;
  using Exchange = typename Meet::Exchange;
  static constexpr int kWidth = Shape::kWidth, kRows = Shape::kRows, kSlice = Shape::kSlice, kDepth = Shape::kDepth;
  static constexpr int kUnits = kWidth > kLatencyThreads ? kWidth / kLatencyThreads : 1;  // of a whole layer, per thread

  const LatencyParams& p;
  const LatencyMemory& m;
  const Meet meet;
  const int rows, dims, slice;  // of the group of blocks; of the action; of the member's rows
  const LatencyMember& member;

  DTAG_MEMBER explicit LatencyBlock(const LatencyParams& params)
      : p(params), m(params.memory), meet(params), rows(params.rows), dims(params.program.action_dim),
        slice(meet.rank() % params.program.slices), member(params.program.members[meet.rank() / params.program.slices]) {}

  // The exchange of all blocks, and one of those that share a member.
  DTAG_MEMBER Exchange exchange_of_all(cuda::LatencyInbox which) const { return {meet, m, which, 0, meet.size()}; }
  DTAG_MEMBER Exchange exchange_of_member(cuda::LatencyInbox which) const {
    return {meet, m, which, meet.rank() - slice, p.program.slices};
  }

  DTAG_MEMBER bool has_norm(int layer) const { return !relu && member.op[layer].norm; }
  DTAG_MEMBER void activate(int layer, float z, float& value, float& slope) const {
    if constexpr (relu)
      gpu::activate<Activation::relu, float>(z, 0.f, 0.f, value, slope);
    else
      activate_one(member.op[layer], z, value, slope);
  }

  DTAG_MEMBER const float* numbers(int place) const { return p.program.numbers + place; }
  DTAG_MEMBER Shared<float> wide(uint32_t offset, int row) const {
    return shared_part<float>(offset, int64_t(rows) * kWidth) + row * kWidth;
  }
  DTAG_MEMBER Shared<float> in_slice(uint32_t offset, int row) const {
    return shared_part<float>(offset, int64_t(rows) * kSlice) + row * kSlice;
  }
  DTAG_MEMBER Shared<float> part(int row, int warp) const {
    return shared_part<float>(m.part, int64_t(rows) * kLatencyWarps * kWidth) + (row * kLatencyWarps + warp) * kWidth;
  }
  DTAG_MEMBER Shared<float> sums(int warp, int row) const {
    return shared_part<float>(m.sums, int64_t(kLatencyWarps) * rows * 32) + (warp * rows + row) * 32;
  }
  DTAG_MEMBER Shared<float> stats(int layer, int row) const {
    return shared_part<float>(m.stats, 3 * cuda::kLatencyRows * 2) + (layer * cuda::kLatencyRows + row) * 2;
  }
  DTAG_MEMBER Shared<float> actions() const { return shared_part<float>(m.action, int64_t(dims) * cuda::kLatencyRows); }
  DTAG_MEMBER Shared<float> first_weights() const { return shared_part<float>(m.weights, int64_t(dims) * kWidth); }

  DTAG_MEMBER static int my_row() { return Slice<Shape>::my_row(); }
  DTAG_MEMBER static bool writes() { return Slice<Shape>::writes(); }
  // How many of a slice's rows are no padding.
  DTAG_MEMBER int real_rows(int of_slice) const {
    const int left = member.op[1].width - of_slice * kSlice;
    return left < 0 ? 0 : left < kSlice ? left : kSlice;
  }
  // Calls f(u) for the units of a whole layer that belong to this thread.
  template <class Body>
  DTAG_MEMBER void each_unit(Body f) const {
    DTAG_UNROLL
    for (int n = 0; n < kUnits; ++n) {
      const int u = thread_index() + n * kLatencyThreads;
      if (kWidth >= kLatencyThreads || u < kWidth) f(u);
    }
  }
};

}  // namespace dtag::gpu
