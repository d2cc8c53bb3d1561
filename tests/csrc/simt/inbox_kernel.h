// The exchange of a cluster: every block sends a vector to every block each iteration and goes on with the sum.
#pragma once
#include "check.h"

namespace simt_test {

struct Inbox {
  static constexpr int kBlocks = 4, kNumbers = 6, kThreads = 64;
  int iterations = 7;
  int buffers = 2;                // 1: overwritten while others still read
  bool fence = true;              // after the init
  bool late_fence = false;        // only after sync_cluster
  bool publish = true;            // sync_cluster after it
  bool announce = true;           // all bytes; otherwise four too few
  bool wait = true;               // before reading
  bool swap_parity = false;
  bool second_arrival = false;
};

inline Shape inbox_shape() {
  return {.grid = 8, .cluster = Inbox::kBlocks, .threads = Inbox::kThreads, .shared_bytes = 1024};
}

// out [grid][kNumbers]
DTAG_KERNEL(Inbox::kThreads) inbox_kernel(Inbox p, float* out) {
  using namespace dtag::gpu;
  constexpr int kNumbers = Inbox::kNumbers, kBlocks = Inbox::kBlocks;
  const auto bar = shared_part<Mbarrier>(0, 2);
  const auto state = shared_part<float>(16, kNumbers);
  const auto inbox = shared_part<float>(64, 2 * kBlocks * kNumbers);
  const int t = thread_index(), rank = cluster_rank();
  if (t == 0) {
    for (int i = 0; i < p.buffers; ++i) mbarrier_init(bar + i, 1);
    if (p.fence) mbarrier_init_fence();
  }
  if (t < kNumbers) state[t] = float(rank + t);
  if (p.publish)
    sync_cluster();
  else
    sync_block();
  if (t == 0 && p.late_fence) mbarrier_init_fence();
  for (int it = 0; it < p.iterations; ++it) {
    const int buffer = it % p.buffers, phase = it / p.buffers;
    const auto box = inbox + buffer * kBlocks * kNumbers;
    if (t == 0) {
      mbarrier_arrive_expect(bar + buffer, 4 * kBlocks * kNumbers - (p.announce ? 0 : 4));
      if (p.second_arrival) mbarrier_arrive_expect(bar + buffer, 0);
    }
    if (t < kBlocks * kNumbers) {
      const int to = t / kNumbers, c = t % kNumbers;
      store_async(remote(box + rank * kNumbers + c, to), state[c], remote(bar + buffer, to));
    }
    // The second warp receives; the first only sends.
    if (t >= 32 && p.wait) mbarrier_wait(bar + buffer, (phase & 1) ^ int(p.swap_parity));
    float sum = 0.f;
    if (t >= 32 && t < 32 + kNumbers)
      for (int b = 0; b < kBlocks; ++b) sum += box[b * kNumbers + t - 32];
    sync_block();
    if (t >= 32 && t < 32 + kNumbers) state[t - 32] = 0.25f * sum + float(it) + float(rank);
    sync_block();
  }
  if (t < kNumbers) out[block_index() * kNumbers + t] = state[t];
}

}  // namespace simt_test
