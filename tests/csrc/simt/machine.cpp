// The machine itself: shapes it refuses, exceptions, several at once, and what it costs.
#include <chrono>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <thread>

#include "check.h"

using namespace dtag::gpu;

namespace simt_test {

void test_machine() {
  must_fault("33 threads", {FaultKind::launch}, {.threads = 33}, [] {});
  must_fault("3 blocks in clusters of 2", {FaultKind::launch}, {.grid = 3, .cluster = 2}, [] {});
  must_fault("more shared memory than there is", {FaultKind::launch}, {.shared_bytes = 1024, .shared_limit = 1000}, [] {});
  must_fault("a launch inside a kernel", {FaultKind::launch}, {}, [] { dtag::simt::launch({}, [] {}); });
  try {
    sync_block();
    check(false, "a primitive outside of a launch");
  } catch (const Fault& f) {
    check(f.kind == FaultKind::usage, "a primitive outside of a launch", f.what());
  }

  bool carried = false;
  try {
    dtag::simt::launch({.threads = 64}, [] {
      if (thread_index() == 50) throw std::out_of_range("from a kernel");
      sync_block();
    });
  } catch (const std::out_of_range&) {
    carried = true;
  }
  check(carried, "an exception is carried out of a launch");

  std::vector<int> seen(6 * 64);
  dtag::simt::launch({.grid = 6, .cluster = 3, .threads = 64}, [&] {
    const bool right = block_count() == 6 && cluster_size() == 3 && cluster_rank() == block_index() % 3 &&
                       thread_index() == 32 * warp_index() + lane_index();
    seen[size_t(64 * block_index() + thread_index())] += right;
  });
  check(std::accumulate(seen.begin(), seen.end(), 0) == 6 * 64, "every thread runs once and knows its place");

  std::vector<double> sums(3);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < sums.size(); ++i)
    threads.emplace_back([&sums, i] {
      for (uint64_t round = 0; round < 20; ++round)
        dtag::simt::launch({.threads = 64, .shared_bytes = 256, .seed = round}, [&] {
          const auto s = shared_part<float>(0, 64);
          s[thread_index()] = float(i);
          sync_block();
          if (thread_index() == 0)
            for (int t = 0; t < 64; ++t) sums[i] += s[t];
        });
    });
  for (auto& t : threads) t.join();
  check(sums == std::vector<double>({0., 20 * 64., 2 * 20 * 64.}), "launches on several threads at once");
}

namespace {

template <class Body>
double seconds(Shape shape, const Body& body) {
  double best = 1e9;
  for (int i = 0; i < 5; ++i) {
    const auto start = std::chrono::steady_clock::now();
    dtag::simt::launch(shape, body);
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

}  // namespace

void measure() {
  const Shape block{.threads = 256, .shared_bytes = 4096};
  const Shape cluster{.grid = 8, .cluster = 8, .threads = 256, .shared_bytes = 4096};
  constexpr int kRounds = 200;
  const double empty = seconds(block, [] {}), empty_cluster = seconds(cluster, [] {});
  std::printf("launch of 256 threads        %8.1f us\n", 1e6 * empty);
  std::printf("launch of a cluster of 2048  %8.1f us\n", 1e6 * empty_cluster);
  const auto each = [&](const char* what, double unit, const char* unit_name, double count, Shape shape, auto body) {
    const double idle = shape.grid == 1 ? empty : empty_cluster;
    std::printf("%-28s %8.2f %s\n", what, (seconds(shape, body) - idle) / unit / count, unit_name);
  };
  each("sync_block, 256 threads", 1e-6, "us", kRounds, block, [] {
    for (int i = 0; i < kRounds; ++i) sync_block();
  });
  each("sync_warp", 1e-6, "us", 8 * kRounds, block, [] {
    for (int i = 0; i < kRounds; ++i) sync_warp();
  });
  each("sync_warp, cluster", 1e-6, "us", 64 * kRounds, cluster, [] {
    for (int i = 0; i < kRounds; ++i) sync_warp();
  });
  each("shuffle of a warp", 1e-6, "us", 8 * kRounds, block, [] {
    for (int i = 0; i < kRounds; ++i) shuffle_xor(i, 1);
  });
  each("mma_bf16 of a warp", 1e-6, "us", 8 * kRounds, block, [] {
    float d[4] = {};
    const uint32_t a[4] = {}, b[2] = {};
    for (int i = 0; i < kRounds; ++i) mma_bf16(d, a, b);
  });
  each("read, own word", 1e-9, "ns", 256. * 64 * kRounds, block, [] {
    const auto s = shared_part<float>(0, 1024);
    s[thread_index()] = 1.f;
    float sum = 0.f;
    for (int i = 0; i < 64 * kRounds; ++i) sum += s[thread_index()];
    if (sum < 0.f) s[thread_index()] = sum;
  });
  each("read, all threads one word", 1e-9, "ns", 256. * 64 * kRounds, block, [] {
    const auto s = shared_part<float>(0, 1024);
    s[thread_index()] = 1.f;
    sync_block();
    float sum = 0.f;
    for (int i = 0; i < 64 * kRounds; ++i) sum += s[i % 256];
    if (sum < 0.f) s[thread_index() + 256] = sum;
  });
  each("load4", 1e-9, "ns", 256. * 64 * kRounds, block, [] {
    const auto s = shared_part<float>(0, 1024);
    store4(s + 4 * thread_index(), Float4{});
    float sum = 0.f;
    for (int i = 0; i < 64 * kRounds; ++i) sum += load4(s + 4 * thread_index()).v[i % 4];
    if (sum < 0.f) s[4 * thread_index()] = sum;
  });
  each("write, own word", 1e-9, "ns", 256. * 64 * kRounds, block, [] {
    const auto s = shared_part<float>(0, 1024);
    for (int i = 0; i < 64 * kRounds; ++i) s[thread_index()] = float(i);
  });
}

}  // namespace simt_test
