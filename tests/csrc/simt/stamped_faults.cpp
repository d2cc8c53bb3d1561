// Stamped words of global memory, through which blocks that run together send each other numbers.
#include <cmath>
#include <cstring>

#include "check.h"

using namespace dtag::gpu;

namespace simt_test {
namespace {

constexpr int kBlocks = 4, kNumbers = 6, kWords = 2 * kBlocks * kNumbers;

struct Post {
  int iterations = 7;
  int buffers = 2;        // 1: overwritten while others still read
  bool count = true;      // another stamp in every round
  int silent = -1;        // a block that forgets one round
  bool clear = true;      // at the end
  bool clear_first = false;  // before the last round has come
};

Shape together() { return {.grid = 8, .threads = 64, .shared_bytes = 256, .cooperative = true, .resident = 8}; }

// Every block sends six numbers to the four blocks of its group each iteration, and goes on with the sum.
// words [grid][kWords], out [grid][kNumbers]
DTAG_KERNEL(64) post_kernel(Post p, Stamped* words, float* out) {
  const auto state = shared_part<float>(0, kNumbers);
  const int t = thread_index(), rank = block_index() % kBlocks;
  Stamped* const group = words + (block_index() - rank) * kWords;
  Stamped* const mine = group + rank * kWords;
  const auto clear = [&] {
    if (t < kWords) clear_stamped(mine + t);
  };
  if (t < kNumbers) state[t] = float(rank + t);
  sync_block();
  for (int it = 0; it < p.iterations; ++it) {
    const int box = it % p.buffers * kBlocks * kNumbers;
    const uint32_t stamp = p.count ? uint32_t(it + 1) : 1u;
    if (t < kBlocks * kNumbers && !(block_index() == p.silent && it == 3)) {
      const int to = t / kNumbers, c = t % kNumbers;
      store_stamped(group + to * kWords + box + rank * kNumbers + c, stamp, state[c]);
    }
    if (p.clear_first && it == p.iterations - 1) clear();
    float x[kBlocks] = {};
    if (t >= 32 && t < 32 + kNumbers) {
      const Stamped* from[kBlocks];
      for (int b = 0; b < kBlocks; ++b) from[b] = mine + box + b * kNumbers + t - 32;
      wait_stamped(from, stamp, x);
    }
    sync_block();
    if (t >= 32 && t < 32 + kNumbers) state[t - 32] = 0.25f * (x[0] + x[1] + x[2] + x[3]) + float(it) + float(rank);
    sync_block();
  }
  if (p.clear) clear();
  if (t < kNumbers) out[block_index() * kNumbers + t] = state[t];
}

struct Memory {
  uint64_t words[8 * kWords] = {};
  Stamped* stamped() { return reinterpret_cast<Stamped*>(words); }
  void reset() { std::memset(words, 0, sizeof words); }
} memory;

void must_fail(const char* what, std::initializer_list<FaultKind> kinds, Shape shape, const std::function<void()>& kernel) {
  must_fault(what, kinds, shape, kernel, [] { memory.reset(); });
}

void test_exchange() {
  using enum FaultKind;
  float out[8 * kNumbers], expected[kBlocks * kNumbers];
  const auto fails = [&](const char* what, std::initializer_list<FaultKind> kinds, Post p, Shape shape = together()) {
    must_fail(what, kinds, shape, [&] { post_kernel(p, memory.stamped(), out); });
  };
  for (int b = 0; b < kBlocks; ++b)
    for (int c = 0; c < kNumbers; ++c) expected[b * kNumbers + c] = float(b + c);
  for (int it = 0; it < Post().iterations; ++it)
    for (int c = 0; c < kNumbers; ++c) {
      float sum = 0.f;
      for (int b = 0; b < kBlocks; ++b) sum += expected[b * kNumbers + c];
      for (int b = 0; b < kBlocks; ++b) expected[b * kNumbers + c] = 0.25f * sum + float(it) + float(b);
    }
  memory.reset();  // once: each launch leaves the next one zeros
  must_run("exchange through stamped words", together(), [&] { post_kernel({}, memory.stamped(), out); }, [&] {
    return std::equal(expected, expected + kBlocks * kNumbers, out) &&
           std::equal(expected, expected + kBlocks * kNumbers, out + kBlocks * kNumbers);
  });

  fails("one inbox of words where two are needed", {race, phase}, {.buffers = 1});
  fails("the same stamp in every round", {phase, race}, {.count = false});
  fails("a block that forgets to send", {barrier}, {.silent = 2});
  fails("words that nobody clears", {leftover}, {.clear = false});
  fails("words cleared before the last round came", {race}, {.clear_first = true});
  Shape apart = together();
  apart.cooperative = false;
  fails("waiting for a block that does not run yet", {barrier}, {}, apart);
  Shape many = together();
  many.resident = 7;
  fails("more blocks than can run together", {launch}, {}, many);
  Shape clusters = together();
  clusters.cluster = 4;
  fails("a cooperative launch of clusters", {launch}, {}, clusters);
  must_fault("a word that is not zero at the start", {leftover}, together(), [&] { post_kernel({}, memory.stamped(), out); }, [] {
    memory.reset();
    memory.words[3] = 1;
  });
}

// Blocks 0 and 1, one word or a few.
void test_words() {
  using enum FaultKind;
  const Shape two{.grid = 2, .threads = 64, .shared_bytes = 64, .cooperative = true};
  const auto wait = [](Stamped* at, uint32_t stamp) {
    const Stamped* const from[1] = {at};
    float x[1];
    wait_stamped(from, stamp, x);
    return x[0];
  };
  Stamped* const w = memory.stamped();
  must_fail("no barrier between reading and answering", {race, phase}, two, [&] {
    const int rank = block_index();
    for (int k = 0; k < 6; ++k) {
      if (thread_index() == 0) store_stamped(w + 2 * (1 - rank) + k % 2, uint32_t(k + 1), 1.f);
      if (thread_index() == 32) wait(w + 2 * rank + k % 2, uint32_t(k + 1));
    }
  });
  must_fail("cleared by a thread that did not wait", {race}, two, [&] {
    if (block_index() == 0 && thread_index() == 0) store_stamped(w, 1, 1.f);
    if (block_index() == 1 && thread_index() == 0) {
      wait(w, 1);
      store_stamped(w + 1, 1, 1.f);
    }
    if (block_index() == 1 && thread_index() == 32) {
      wait(w + 1, 1);
      clear_stamped(w);
    }
  });
  must_fail("a word read by two blocks", {usage}, two, [&] {
    if (block_index() == 0 && thread_index() == 0) store_stamped(w, 1, 1.f);
    if (thread_index() == 32) wait(w, 1);
  });
  must_fail("a word stored to after it was cleared", {race, barrier, phase, leftover}, two, [&] {
    if (block_index() == 0 && thread_index() == 0) store_stamped(w, 1, 1.f);
    if (block_index() == 1 && thread_index() == 0) clear_stamped(w);
  });
  must_fail("stamp 0", {usage}, two, [&] { store_stamped(w + block_index(), 0, 1.f); });
  must_fail("a stamped word at a multiple of 4", {alignment}, two, [&] {
    store_stamped(reinterpret_cast<Stamped*>(reinterpret_cast<char*>(w) + 4), 1, 1.f);
  });
  must_fail("sync_cluster in a cooperative launch", {usage}, two, [] { sync_cluster(); });
  must_fail("a stamped word does not order other memory", {race, unwritten}, two, [&] {
    const auto s = shared_part<float>(0, 1);
    Stamped* const own = w + block_index();
    if (thread_index() == 0) {
      s[0] = 1.f;
      store_stamped(own, 1, 1.f);
    }
    if (thread_index() == 32) {
      wait(own, 1);
      (void)float(s[0]);
    }
  });

  bool numbers = false;
  memory.reset();
  must_run("a stamped word read as ordinary memory is a NaN", two, [&] {
    Stamped* const own = w + block_index();
    if (thread_index() > 0) return;
    store_stamped(own, 1, 1.f);
    wait(own, 1);
    float as_floats[2];
    std::memcpy(as_floats, static_cast<const void*>(own), 8);
    numbers = numbers || !std::isnan(as_floats[0]) || !std::isnan(as_floats[1]);
    clear_stamped(own);
  }, [&] { return !numbers; });
}

}  // namespace

void test_stamped_faults() {
  test_exchange();
  test_words();
}

}  // namespace simt_test
