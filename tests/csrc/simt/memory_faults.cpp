// Accesses to shared memory that nothing orders, outside of their part, misaligned, or to words in flight.
#include <memory>

#include "check.h"

using namespace dtag::gpu;

namespace simt_test {
namespace {

alignas(16) float source[1024];

void test_order() {
  const Shape shape{.threads = 64, .shared_bytes = 4096};
  using enum FaultKind;
  must_fault("a read of what nobody wrote", {unwritten}, shape, [] {
    auto s = shared_part<float>(0, 64);
    if (thread_index() != 5) s[thread_index()] = 1.f;
    sync_block();
    (void)float(s[thread_index()]);
  });
  const Shape two_blocks{.grid = 2, .threads = 32, .shared_bytes = 4096};
  must_fault("a block reads what the one before wrote", {unwritten}, two_blocks, [] {
    auto s = shared_part<float>(0, 64);
    if (block_index() == 0) s[lane_index()] = 1.f;
    if (block_index() == 1) (void)float(s[lane_index()]);
  });
  must_fault("half a word was never written", {unwritten}, shape, [] {
    auto s = shared_part<uint16_t>(0, 64);
    auto words = shared_part<uint32_t>(0, 32);
    if (thread_index() < 32) s[2 * thread_index()] = 1;
    sync_block();
    if (thread_index() < 32) (void)uint32_t(words[thread_index()]);
  });
  must_fault("no barrier between writer and reader", {race, unwritten}, shape, [] {
    auto s = shared_part<float>(0, 64);
    s[thread_index()] = 1.f;
    (void)float(s[63 - thread_index()]);
  });
  must_fault("the same, with old values there", {race}, shape, [] {
    auto s = shared_part<float>(0, 64);
    s[thread_index()] = 1.f;
    sync_block();
    s[thread_index()] = 2.f;
    (void)float(s[63 - thread_index()]);
  });
  must_fault("two writers of one word", {race}, shape, [] {
    auto s = shared_part<float>(0, 64);
    s[thread_index() % 32] = 1.f;
  });
  must_fault("two writers of one byte", {race}, shape, [] {
    auto s = shared_part<uint8_t>(0, 64);
    s[thread_index() % 63] = 1;
  });
  must_fault("a word and a half of it, two writers", {race}, shape, [] {
    auto s = shared_part<uint32_t>(0, 64);
    auto halves = shared_part<uint16_t>(0, 128);
    if (thread_index() == 0) s[1] = 1;
    if (thread_index() == 40) halves[3] = 1;
  });
  must_fault("overwritten before all have read", {race}, shape, [] {
    auto s = shared_part<float>(0, 64);
    for (int i = 0; i < 2; ++i) {
      s[thread_index()] = float(i);
      sync_block();
      (void)float(s[63 - thread_index()]);
    }
  });
  must_fault("overwritten before one of many has read", {race}, shape, [] {
    auto s = shared_part<float>(0, 64);
    if (thread_index() == 7) s[0] = 1.f;
    sync_block();
    (void)float(s[0]);
    sync_warp();
    if (thread_index() == 7) s[0] = 2.f;
  });
  must_fault("sync_warp does not order other warps", {race}, shape, [] {
    auto s = shared_part<float>(0, 64);
    s[thread_index()] = 1.f;
    sync_block();
    s[thread_index()] = 2.f;
    sync_warp();
    (void)float(s[thread_index() ^ 32]);
  });
  must_fault("lanes of one warp without sync_warp", {race}, shape, [] {
    auto s = shared_part<float>(0, 64);
    s[thread_index()] = 1.f;
    sync_block();
    s[thread_index()] = 2.f;
    (void)float(s[thread_index() ^ 1]);
  });
  must_fault("a shuffle does not order memory", {race}, shape, [] {
    auto s = shared_part<float>(0, 64);
    s[thread_index()] = 1.f;
    shuffle(1.f, 0);
    (void)float(s[thread_index() ^ 1]);
  });
  must_fault("a vote does not order memory", {race}, shape, [] {
    auto s = shared_part<float>(0, 64);
    s[thread_index()] = 1.f;
    vote_any(true);
    (void)float(s[thread_index() ^ 1]);
  });
  must_fault("load_matrix of rows without a barrier", {race}, shape, [] {
    auto s = shared_part<uint16_t>(0, 512);
    for (int i = 0; i < 8; ++i) s[8 * thread_index() + i] = 1;
    vote_any(true);
    uint32_t r[4];
    load_matrix(r, s + 8 * (thread_index() ^ 1));
  });
}

void test_place() {
  const Shape shape{.threads = 32, .shared_bytes = 256};
  using enum FaultKind;
  must_fault("outside of the part, inside the memory", {bounds}, shape, [] { shared_part<float>(0, 16)[16] = 1.f; });
  must_fault("in front of the part", {bounds}, shape, [] { shared_part<float>(64, 16)[-1] = 1.f; });
  must_fault("a part larger than the memory", {bounds}, shape, [] { shared_part<float>(192, 17); });
  must_fault("the last of load4 is outside", {bounds}, shape, [] { store4(shared_part<float>(0, 6) + 4, Float4{}); });
  must_fault("a part at a multiple of 8", {alignment}, shape, [] { shared_part<float>(8, 16); });
  must_fault("load4 at a multiple of 4", {alignment}, shape, [] { load4(shared_part<float>(0, 16) + 1); });
  must_fault("store4 at a multiple of 8", {alignment}, shape, [] { store4(shared_part<float>(0, 16) + 2, Float4{}); });
  must_fault("load4 of global memory, misaligned", {alignment}, shape, [] { load4(source + 1); });
  must_fault("store4 to global memory, misaligned", {alignment}, shape, [] { store4(source + 2, Float4{}); });
  must_fault("load_matrix at a multiple of 8", {alignment}, shape, [] {
    uint32_t r[4];
    load_matrix(r, shared_part<uint16_t>(0, 64) + 4);
  });
  const Shape cluster{.grid = 2, .cluster = 2, .threads = 32, .shared_bytes = 256};
  std::vector<Shared<float>> parts(2);
  must_fault("another block's pointer", {foreign_block}, cluster, [&] {
    auto s = shared_part<float>(0, 32);
    s[lane_index()] = 1.f;
    parts[size_t(cluster_rank())] = s;
    sync_cluster();
    (void)float(parts[size_t(1 - cluster_rank())][lane_index()]);
  });
}

void test_async_copies() {
  const Shape shape{.threads = 32, .shared_bytes = 1024};
  using enum FaultKind;
  must_fault("a copy read before the wait", {async_copy}, shape, [] {
    auto s = shared_part<float>(0, 128);
    copy_async16(s + 4 * lane_index(), source);
    copy_async_commit();
    (void)float(s[4 * lane_index()]);
  });
  must_fault("a copy overwritten before the wait", {async_copy}, shape, [] {
    auto s = shared_part<float>(0, 128);
    copy_async16(s + 4 * lane_index(), source);
    s[4 * lane_index() + 3] = 0.f;
  });
  must_fault("a wait without a commit", {async_copy}, shape, [] {
    auto s = shared_part<float>(0, 128);
    copy_async16(s + 4 * lane_index(), source);
    copy_async_wait<0>();
    (void)float(s[4 * lane_index()]);
  });
  must_fault("a wait that leaves one group too many", {async_copy}, shape, [] {
    auto s = shared_part<float>(0, 256);
    for (int i = 0; i < 2; ++i) {
      copy_async16(s + 128 * i + 4 * lane_index(), source);
      copy_async_commit();
    }
    copy_async_wait<1>();
    (void)float(s[4 * lane_index()]);
    (void)float(s[128 + 4 * lane_index()]);
  });
  must_fault("another thread's copy without a barrier", {race, async_copy, unwritten}, shape, [] {
    auto s = shared_part<float>(0, 128);
    copy_async16(s + 4 * lane_index(), source);
    copy_async_commit();
    copy_async_wait<0>();
    (void)float(s[4 * (lane_index() ^ 1)]);
  });
  must_fault("a barrier before the wait, not after", {race, async_copy}, shape, [] {
    auto s = shared_part<float>(0, 128);
    copy_async16(s + 4 * lane_index(), source);
    copy_async_commit();
    sync_block();
    copy_async_wait<0>();
    (void)float(s[4 * (lane_index() ^ 1)]);
  });
  must_fault("a copy over what is still being read", {race, async_copy}, shape, [] {
    auto s = shared_part<float>(0, 128);
    for (int i = 0; i < 2; ++i) {
      copy_async16(s + 4 * lane_index(), source);
      copy_async_commit();
      copy_async_wait<0>();
      sync_block();
      (void)float(s[4 * (lane_index() ^ 1)]);
    }
  });
  must_fault("a thread ends with copies under way", {async_copy}, shape, [] {
    copy_async16(shared_part<float>(0, 128) + 4 * lane_index(), source);
    copy_async_commit();
  });
  must_fault("a copy from a misaligned address", {alignment}, shape,
             [] { copy_async16(shared_part<float>(0, 128) + 4 * lane_index(), source + 1); });
  must_fault("a copy to a misaligned address", {alignment}, shape,
             [] { copy_async16(shared_part<float>(0, 128) + 2, source); });
}

}  // namespace

void test_memory_faults() {
  test_order();
  test_place();
  test_async_copies();
}

}  // namespace simt_test
