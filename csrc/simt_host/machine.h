// Runs a kernel on the CPU, one fiber per thread, on the calling thread of the operating system. What a GPU would let
// pass most of the time and fail on some day is a Fault here, in every order of execution: accesses are compared by
// what the barriers order (clock.h), not by when they happened to run. Of global memory only stamped words are followed.
#pragma once
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "simt_host/mbarrier.h"
#include "simt_host/shadow.h"
#include "simt_host/stamped.h"
#include "simt_host/thread.h"

namespace dtag::simt {

constexpr int kWarpLanes = 32;
constexpr int kWarpgroupThreads = 128;
constexpr int kMbarriersPerBlock = 32;

struct Shape {
  int grid = 1;     // blocks
  int cluster = 1;  // blocks of a cluster: these run together, clusters one after another
  int threads = kWarpLanes;  // of a block
  int64_t shared_bytes = 0;
  uint64_t seed = 0;  // 0: warps and lanes in order; others: orders drawn from it, stores between blocks late
  int64_t shared_limit = 232448;  // of compute capability 9.0
  int capability = 90;
  bool cooperative = false;  // all blocks of the grid run together, without clusters
  int resident = 1 << 16;    // how many blocks can, at most
};

// Calls `body` once per thread. Throws Fault, or what a body threw.
void launch(const Shape& shape, const std::function<void()>& body);

// Lanes of a warp meet here. Values are kept twice: a lane can be one collective ahead of those that still read.
struct Warp {
  Collective kind = Collective::none;
  int waiting = 0, exited = 0, round = 0;
  uint32_t values[2][kWarpLanes][6];
};

struct Warpgroup {
  Collective kind = Collective::none;
  int waiting = 0, round = 0;
  bool any[2] = {false, false};
};

struct Block {
  int index = 0, rank = 0;
  Collective kind = Collective::none;
  int waiting = 0, exited = 0, round = 0;
  bool any[2] = {false, false};
  SharedMemory memory;
  std::vector<Warp> warps;
  std::vector<Warpgroup> warpgroups;
  std::vector<std::unique_ptr<MbarrierState>> mbarriers;
  Hearsay hearsay;
};

class Machine {
 public:
  Machine(const Shape& shape, const std::function<void()>& body);
  ~Machine();
  void run();

  // Stops the running thread until a collective lets it go on.
  void suspend(Thread& me, Collective at);
  // Threads [first, last) of the cluster except `but` may go on.
  void release(int first, int last, const Thread* but);
  void release(std::vector<Thread*> threads);
  // They know of each other's past from now on.
  void join(int first, int last);

  // A collective of the warp, of the block, of the cluster: whether `me` came last and has to finish it.
  void enter_warp(Thread& me, Collective kind);
  void enter_block(Thread& me, Collective kind);
  void sync_block(Thread& me, Collective kind);
  void sync_cluster(Thread& me);
  // All threads of the warpgroup come here; with sync_warpgroup() they also know of each other's past.
  void meet_warpgroup(Thread& me, Collective kind);
  void sync_warpgroup(Thread& me, Collective kind);

  // A store is under way: `land` is called when it arrives.
  void send(std::function<void()> land);
  void land_all();

  uint64_t random();
  uint64_t below(uint64_t n) { return random() % n; }
  Thread& thread(int number) { return *threads_[size_t(number)]; }
  Block& block(int rank) { return *blocks_[size_t(rank)]; }
  const Shape& shape() const { return shape_; }
  int running_blocks() const { return shape_.cooperative ? shape_.grid : shape_.cluster; }
  int running_threads() const { return running_blocks() * shape_.threads; }
  StampedMemory& stamped() { return stamped_; }
  int new_clock_entry(MbarrierState* b);
  std::string name_of(uint32_t clock_entry) const;
  void run_thread();  // on its own stack

 private:
  bool enter_warpgroup(Thread& me, Collective kind);
  void start_blocks(int first_block);
  void run_blocks();
  void finish(Thread& me);
  void land_one();
  void abandon();
  [[noreturn]] void stuck() const;

  const Shape shape_;
  const std::function<void()>& body_;
  std::vector<std::unique_ptr<Thread>> threads_;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::vector<MbarrierState*> clock_entries_;  // behind those of the threads
  std::deque<Thread*> ready_;
  std::vector<std::function<void()>> pending_;
  StampedMemory stamped_;
  Fiber launcher_;
  std::exception_ptr error_;
  uint64_t random_state_;
  int first_block_ = 0, waiting_ = 0, exited_ = 0;  // of the blocks that run
  bool abandoning_ = false;
};

inline std::string name_thread(int number, int threads, int first_block) {
  return "block " + std::to_string(first_block + number / threads) + ", thread " + std::to_string(number % threads);
}
inline std::string name_thread(const Thread& me) {
  return "block " + std::to_string(me.block->index) + ", thread " + std::to_string(me.index);
}

// All lanes of the warp come here; the last one calls `finish`.
template <class Finish>
inline void meet_warp(Thread& me, Collective kind, const Finish& finish) {
  Warp& w = *me.warp;
  if (w.waiting == 0 || w.kind != kind || w.exited) me.machine->enter_warp(me, kind);
  if (++w.waiting < kWarpLanes) return me.machine->suspend(me, kind);
  w.waiting = 0;
  w.round ^= 1;
  finish();
  const int first = int(me.number) / kWarpLanes * kWarpLanes;
  me.machine->release(first, first + kWarpLanes, &me);
}

}  // namespace dtag::simt
