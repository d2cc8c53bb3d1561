// One simulated thread, as far as memory is concerned with it.
#pragma once
#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

#include "simt_host/clock.h"
#include "simt_host/fault.h"
#include "simt_host/fiber.h"

namespace dtag::simt {

class Machine;
class SharedMemory;
struct Block;
struct Warp;
struct Warpgroup;

enum class Collective : uint8_t {
  none, sync_warp, vote_any, vote_all, shuffle_float, shuffle_int, shuffle_xor_float, shuffle_xor_int,
  mma_bf16, mma_tf32, load_matrix, load_matrix_trans, sync_block, sync_block_or, sync_cluster, mbarrier_wait,
  sync_warpgroup, sync_warpgroup_or, wgmma_begin, wgmma_end, wgmma_bf16,
  wait_stamped,
};
inline const char* name(Collective c) {
  constexpr const char* names[] = {
      "no collective",       "sync_warp",         "vote_any",    "vote_all",      "shuffle (float)",   "shuffle (int)",
      "shuffle_xor (float)", "shuffle_xor (int)", "mma_bf16",    "mma_tf32",      "load_matrix",       "load_matrix_trans",
      "sync_block",          "sync_block_or",     "sync_cluster", "mbarrier_wait",
      "sync_warpgroup",      "sync_warpgroup_or", "wgmma_begin", "wgmma_end", "wgmma_bf16",
      "wait_stamped"};
  return names[int(c)];
}

struct AsyncCopy {
  uint32_t offset;
  const float* from;
};

// A thread's share of the products of a warpgroup that are under way.
struct Products {
  struct Sums {
    float* place;
    std::vector<float> value;
  };
  struct Operand {
    const void* place;
    std::array<uint32_t, 4> value;
  };
  // The sums kept in these registers; those that are new begin with what stands there.
  Sums& of(float* d, int count) {
    for (Sums& s : sums)
      if (s.place == d) return s;
    sums.push_back({d, std::vector<float>(d, d + count)});
    return sums.back();
  }

  bool open = false;
  std::vector<Sums> sums;
  std::vector<Operand> operands;
};

struct Thread {
  // Whether this thread comes after an event of another.
  bool after(uint32_t thread, Tick t) const { return t <= known[thread] || thread == number; }
  void learn(Clock c) {
    clock = std::move(c);
    known = clock->data();
  }

  uint32_t number = 0;  // in the cluster
  int index = 0;        // in the block
  Tick tick = 1;        // grows whenever others are told
  const Tick* known = nullptr;
  SharedMemory* memory = nullptr;
  Warp* warp = nullptr;
  Warpgroup* warpgroup = nullptr;
  Block* block = nullptr;
  Machine* machine = nullptr;
  Clock clock;
  Collective at = Collective::none;
  bool started = false, finished = false;
  std::vector<AsyncCopy> copies;     // oldest first
  std::vector<size_t> copy_groups;   // copies of each committed group
  Tick published = 0;                // what it wrote up to then may be read by products
  Products products;
  Fiber fiber;
};

inline constinit thread_local Thread* current = nullptr;

inline Thread& self() {
  if (!current) throw Fault(FaultKind::usage, "a primitive was called outside of a launch");
  return *current;
}

}  // namespace dtag::simt
