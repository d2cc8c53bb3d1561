// Correct kernels: clean in every order, and with the right result.
#include <cmath>
#include <random>

#include "inbox_kernel.h"

using namespace dtag::gpu;

namespace simt_test {
namespace {

constexpr int kThreads = 128;

DTAG_KERNEL(kThreads) block_sum(const float* x, int n, float* out) {
  const auto part = shared_part<float>(0, kThreads / kWarp);
  float sum = 0.f;
  for (int i = thread_index(); i < n; i += kThreads) sum += x[i];
  for (int mask = 16; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
  if (lane_index() == 0) part[warp_index()] = sum;
  sync_block();
  sum = 0.f;
  for (int w = 0; w < kThreads / kWarp; ++w) sum += part[w];
  out[thread_index()] = sum;
  if (sync_block_or(thread_index() == 5 && sum < 0.f)) out[thread_index()] = 0.f;
}

// Lane l of each warp ends with the sum over the lanes of number l / 4 of eight.
DTAG_KERNEL(kThreads) transpose_reduce(const float* x, float* out) {
  float s[8];
  for (int i = 0; i < 8; ++i) s[i] = x[8 * thread_index() + i];
  const int lane = lane_index();
  int half = 4;
  DTAG_UNROLL
  for (int mask = 16; mask >= 4; mask /= 2, half /= 2)
    for (int i = 0; i < half; ++i) {
      const bool upper = lane & mask;
      const float send = upper ? s[i] : s[i + half], keep = upper ? s[i + half] : s[i];
      s[i] = keep + shuffle_xor(send, mask);
    }
  s[0] += shuffle_xor(s[0], 2);
  s[0] += shuffle_xor(s[0], 1);
  out[thread_index()] = s[0];
}

// Each warp of the block sums the columns of tiles that arrive while the one before is summed.
DTAG_KERNEL(kThreads) pipeline(const float* x, int tiles, float* out) {
  constexpr int kTile = 4 * kThreads;
  const auto buffer = shared_part<float>(0, 2 * kTile);
  const int t = thread_index();
  const auto fetch = [&] DTAG_LAMBDA(int tile) {
    if (tile < tiles) copy_async16(buffer + tile % 2 * kTile + 4 * t, x + tile * kTile + 4 * t);
    copy_async_commit();
  };
  fetch(0);
  float sum = 0.f;
  for (int tile = 0; tile < tiles; ++tile) {
    fetch(tile + 1);
    copy_async_wait<1>();
    sync_block();
    for (int i = 0; i < 4; ++i) sum += buffer[tile % 2 * kTile + i * kThreads + (kThreads - 1 - t)];
    const Float4 own = load4(buffer + tile % 2 * kTile + 4 * ((t + 1) % kThreads));
    sum += own.v[0] - own.v[3];
    sync_block();
  }
  copy_async_wait<0>();
  out[t] = sum;
}

// Bytes and halves of one word by different threads, which do not disturb each other.
DTAG_KERNEL(kThreads) small_pieces(uint32_t* out) {
  const auto bytes = shared_part<uint8_t>(0, kThreads);
  const auto halves = shared_part<uint16_t>(0, kThreads / 2);
  const auto words = shared_part<uint32_t>(0, kThreads / 4);
  const int t = thread_index();
  for (int round = 0; round < 3; ++round) {
    bytes[t] = uint8_t(t);
    sync_block();
    if (t % 2 == 0) halves[t / 2] = uint16_t(halves[t / 2] + 1);
    sync_block();
    if (t % 4 == 0) out[t / 4] = words[t / 4];
    sync_block();
    if (t % 4 == 0) words[t / 4] += 1u;
    sync_block();
  }
}

std::vector<float> numbers(size_t n) {
  std::mt19937 engine(7);
  std::vector<float> x(n);
  for (float& v : x) v = float(int(engine() % 33) - 16);
  return x;
}

void test_inbox() {
  constexpr int kNumbers = Inbox::kNumbers;
  std::vector<float> out(8 * kNumbers), expected(4 * kNumbers);
  const Inbox p;
  for (int rank = 0; rank < 4; ++rank)
    for (int c = 0; c < kNumbers; ++c) expected[size_t(rank * kNumbers + c)] = float(rank + c);
  for (int it = 0; it < p.iterations; ++it)
    for (int c = 0; c < kNumbers; ++c) {
      float sum = 0.f;
      for (int b = 0; b < 4; ++b) sum += expected[size_t(b * kNumbers + c)];
      for (int b = 0; b < 4; ++b) expected[size_t(b * kNumbers + c)] = 0.25f * sum + float(it) + float(b);
    }
  const auto right = [&] {
    return std::equal(expected.begin(), expected.end(), out.begin()) &&
           std::equal(expected.begin(), expected.end(), out.begin() + 4 * kNumbers);
  };
  must_run("all-to-all exchange of a cluster", inbox_shape(), [&] { inbox_kernel(p, out.data()); }, right);
}

}  // namespace

void test_kernels() {
  const Shape shape{.threads = kThreads, .shared_bytes = 8192};
  std::vector<float> x = numbers(8 * 512), out(512);
  alignas(16) static float aligned[7 * 512];
  std::copy_n(x.begin(), 7 * 512, aligned);

  float total = 0.f;
  for (int i = 0; i < 1000; ++i) total += x[size_t(i)];
  const float expected_total = total < 0.f ? 0.f : total;
  must_run("block_sum", shape, [&] { block_sum(x.data(), 1000, out.data()); },
           [&] { return std::all_of(out.begin(), out.begin() + kThreads, [&](float v) { return v == expected_total; }); });

  must_run("transpose_reduce", shape, [&] { transpose_reduce(x.data(), out.data()); }, [&] {
    for (int t = 0; t < kThreads; ++t) {
      float sum = 0.f;
      for (int lane = 0; lane < kWarp; ++lane) sum += x[size_t(8 * (t / 32 * 32 + lane) + t % 32 / 4)];
      if (out[size_t(t)] != sum) return false;
    }
    return true;
  });

  must_run("pipeline", shape, [&] { pipeline(aligned, 7, out.data()); }, [&] {
    for (int t = 0; t < kThreads; ++t) {
      float sum = 0.f;
      for (int tile = 0; tile < 7; ++tile) {
        const float* p = aligned + tile * 512;
        for (int i = 0; i < 4; ++i) sum += p[i * kThreads + kThreads - 1 - t];
        sum += p[4 * ((t + 1) % kThreads)] - p[4 * ((t + 1) % kThreads) + 3];
      }
      if (out[size_t(t)] != sum) return false;
    }
    return true;
  });

  std::vector<uint32_t> words(kThreads / 4);
  must_run("small_pieces", shape, [&] { small_pieces(words.data()); }, [&] {
    for (uint32_t i = 0; i < words.size(); ++i) {
      const uint32_t b = 4 * i;
      if (words[i] != (b | (b + 1) << 8 | (b + 2) << 16 | (b + 3) << 24) + 0x00010001u) return false;
    }
    return true;
  });
  test_inbox();
}

}  // namespace simt_test
