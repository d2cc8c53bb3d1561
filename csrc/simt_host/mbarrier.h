// Barriers in shared memory that count arrivals and bytes, and the stores between blocks that they count. That one
// order of events runs well proves nothing. Therefore a thread must be ordered after the init; an arrival or a store after
// all those of the phase before, or it could be counted there; and the end of a phase after every waiter has seen the end
// of the one before, or a slow one could miss it.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "simt_host/clock.h"
#include "simt_host/shadow.h"

namespace dtag::simt {

struct Block;

// Its state is kept beside the shared memory; the eight bytes there can be neither read nor written.
struct MbarrierState {
  Block* block = nullptr;
  uint32_t offset = 0;
  int entry = 0;  // in the clocks
  int count = 0, pending = 0;
  int64_t bytes = 0;  // announced and not landed; below 0: landed before they were announced
  uint32_t phase = 0;
  uint32_t init_thread = 0;
  Tick init_tick = 0, fence_tick = 0;  // fence_tick 0: not yet
  ClockSum arriving;  // of this phase
  std::vector<std::pair<int, Tick>> last;  // arrivals and stores of the phase before
  Clock ended;  // of the last phase that has ended
  std::vector<std::pair<Clock, Clock>> learned;  // what waiters knew before and after it
  std::vector<Thread*> sleeping;
  std::vector<uint32_t> waits;  // of each thread of the block
  std::vector<Tick> seen;       // when its last one returned
  uint32_t stored_phase = 0;    // + 1, of the last store that landed
  std::vector<std::pair<uint32_t, Tick>> senders;  // of that phase
};

struct PendingStore {
  MbarrierState* barrier;
  uint32_t offset;
  float value;
  uint32_t sender;
  Tick tick;
  Clock known;
};

MbarrierState* find_mbarrier(Block& b, uint32_t offset);
void mbarrier_init(Thread& me, uint32_t offset, Part part, int arrivals);
void mbarrier_init_fence(Thread& me);
void mbarrier_arrive_expect(Thread& me, uint32_t offset, int bytes);
void mbarrier_wait(Thread& me, uint32_t offset, int parity);
void store_async(Thread& me, Block& to, int64_t offset, Part part, float x, Block& barrier_block, int64_t barrier);
// A store has landed.
void count_store(Machine& machine, const PendingStore& store);
// What was stored into a block that ends must be known to have landed by one of its threads, or else its sender must be
// known to have met with one of them since.
void check_stores_at_exit(Machine& machine, const Block& ended);
void check_bytes_at_end(const Block& block);
std::string name_mbarrier(const MbarrierState& b);

}  // namespace dtag::simt
