// Barriers and collectives that not all threads reach together.
#include "check.h"

using namespace dtag::gpu;

namespace simt_test {

void test_barrier_faults() {
  const Shape two_warps{.threads = 64, .shared_bytes = 1024};
  const Shape cluster{.grid = 2, .cluster = 2, .threads = 32, .shared_bytes = 1024};
  using enum FaultKind;

  must_fault("one thread skips sync_block", {barrier}, two_warps, [] {
    if (thread_index() != 40) sync_block();
  });
  must_fault("one thread skips the first of two", {barrier}, two_warps, [] {
    if (thread_index() != 40) sync_block();
    sync_block();
  });
  must_fault("a warp ends before sync_block", {barrier}, two_warps, [] {
    if (warp_index() == 1) return;
    sync_block();
  });
  must_fault("one lane skips sync_warp", {barrier}, two_warps, [] {
    if (lane_index() != 3) sync_warp();
  });
  must_fault("one block skips sync_cluster", {barrier}, cluster, [] {
    if (cluster_rank() == 0) sync_cluster();
  });
  must_fault("sync_block and sync_block_or in branches", {divergence}, two_warps, [] {
    if (warp_index() == 0)
      sync_block();
    else
      sync_block_or(true);
  });
  must_fault("sync_block and sync_cluster in branches", {divergence}, two_warps, [] {
    if (warp_index() == 0)
      sync_block();
    else
      sync_cluster();
  });
  must_fault("lanes at a shuffle and at sync_warp", {divergence}, two_warps, [] {
    if (lane_index() < 16)
      sync_warp();
    else
      shuffle(1.f, 0);
  });
  must_fault("lanes at a shuffle and at sync_block", {divergence}, two_warps, [] {
    if (thread_index() == 33)
      shuffle(1.f, 0);
    else
      sync_block();
  });
  must_fault("lanes at shuffle and shuffle_xor", {divergence}, two_warps, [] {
    if (lane_index() & 1)
      shuffle(1.f, 0);
    else
      shuffle_xor(1.f, 1);
  });
  must_fault("lanes at vote_any and vote_all", {divergence}, two_warps, [] {
    if (lane_index() & 1)
      vote_any(true);
    else
      vote_all(true);
  });
  must_fault("a loop of different length per warp", {barrier}, two_warps, [] {
    for (int i = 0; i <= warp_index(); ++i) sync_block();
  });
  must_fault("a warp waits for a phase nobody completes", {barrier}, two_warps, [] {
    auto bar = shared_part<Mbarrier>(0, 1);
    if (thread_index() == 0) mbarrier_init(bar, 1);
    sync_block();
    if (warp_index() == 1) mbarrier_wait(bar, 0);
    sync_block();
  });
  must_fault("a shuffle from lane 32", {usage}, two_warps, [] { shuffle(1.f, 32); });
  must_fault("a shuffle with mask 32", {usage}, two_warps, [] { shuffle_xor(1, 32); });
}

}  // namespace simt_test
