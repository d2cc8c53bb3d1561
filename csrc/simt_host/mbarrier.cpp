#include "simt_host/mbarrier.h"

#include "simt_host/machine.h"

namespace dtag::simt {
namespace {

[[noreturn]] void fault(FaultKind kind, const Thread& me, const MbarrierState& b, const std::string& what) {
  throw Fault(kind, name_thread(me) + ", " + name_mbarrier(b) + ": " + what);
}

MbarrierState& usable(Thread& me, Block& block, int64_t offset) {
  MbarrierState* b = find_mbarrier(block, uint32_t(offset));
  if (!b)
    throw Fault(FaultKind::uninitialised, name_thread(me) + ": byte " + std::to_string(offset) + " of block " +
                                              std::to_string(block.index) + " was never initialised as an mbarrier");
  if (!me.after(b->init_thread, b->init_tick)) fault(FaultKind::uninitialised, me, *b, "not ordered after its init");
  if (&block != me.block && (b->fence_tick == 0 || !me.after(b->init_thread, b->fence_tick)))
    fault(FaultKind::uninitialised, me, *b, "used by another block without mbarrier_init_fence before sync_cluster");
  return *b;
}

// Whether everything that was counted in the phase before comes before an event of this thread.
bool after_last_phase(const MbarrierState& b, int thread, const std::vector<Tick>& known) {
  if (known[size_t(b.entry)] >= b.phase) return true;
  for (const auto& [other, tick] : b.last)
    if (other != thread && known[size_t(other)] < tick) return false;
  return true;
}

void acquire(Thread& me, MbarrierState& b) {
  for (const auto& [before, after] : b.learned)
    if (before == me.clock) {
      me.learn(after);
      b.seen[size_t(me.index)] = me.tick;
      return;
    }
  ClockSum sum;
  sum.add(me.clock);
  sum.add(b.ended);
  const Clock after = sum.total();
  b.learned.emplace_back(me.clock, after);
  me.learn(after);
  b.seen[size_t(me.index)] = me.tick;
}

void end_phase_if_complete(Machine& machine, MbarrierState& b) {
  if (b.pending > 0) return;
  if (b.bytes < 0)
    throw Fault(FaultKind::bytes, name_mbarrier(b) + ": more bytes landed in phase " + std::to_string(b.phase) +
                                               " than were announced");
  if (b.bytes != 0) return;
  b.ended = b.arriving.total(b.entry, b.phase + 1);
  const int first = b.block->rank * machine.shape().threads;
  for (size_t t = 0; t < b.waits.size(); ++t)
    if (b.phase > 0 && b.waits[t] == b.phase && (*b.ended)[size_t(first) + t] < b.seen[t])
      throw Fault(FaultKind::phase, name_mbarrier(b) + ": phase " + std::to_string(b.phase) + " can end before " +
                                        name_thread(machine.thread(first + int(t))) + " has seen the end of the one before");
  b.last = b.arriving.events();
  b.arriving.clear();
  b.learned.clear();
  b.pending = b.count;
  ++b.phase;
  std::vector<Thread*> woken;
  woken.swap(b.sleeping);
  for (Thread* t : woken) {
    acquire(*t, b);
    ++b.waits[size_t(t->index)];
  }
  machine.release(std::move(woken));
}

}  // namespace

std::string name_mbarrier(const MbarrierState& b) {
  return "mbarrier at byte " + std::to_string(b.offset) + " of block " + std::to_string(b.block->index);
}

MbarrierState* find_mbarrier(Block& block, uint32_t offset) {
  for (auto& b : block.mbarriers)
    if (b->offset == offset) return b.get();
  return nullptr;
}

void mbarrier_init(Thread& me, uint32_t offset, Part part, int arrivals) {
  if (const auto* b = find_mbarrier(*me.block, offset)) fault(FaultKind::uninitialised, me, *b, "initialised twice");
  if (arrivals < 1)
    throw Fault(FaultKind::usage, name_thread(me) + ": an mbarrier of " + std::to_string(arrivals) + " arrivals");
  me.memory->make_mbarrier(me, offset, part);
  auto b = std::make_unique<MbarrierState>();
  b->block = me.block;
  b->offset = offset;
  b->entry = me.machine->new_clock_entry(b.get());
  b->count = b->pending = arrivals;
  b->init_thread = me.number;
  b->init_tick = me.tick;
  b->waits.resize(size_t(me.machine->shape().threads));
  b->seen.resize(b->waits.size());
  me.block->mbarriers.push_back(std::move(b));
}

void mbarrier_init_fence(Thread& me) {
  for (auto& b : me.block->mbarriers)
    if (b->init_thread == me.number && b->fence_tick == 0) b->fence_tick = me.tick;
}

void mbarrier_arrive_expect(Thread& me, uint32_t offset, int bytes) {
  MbarrierState& b = usable(me, *me.block, offset);
  constexpr int kMostBytes = (1 << 20) - 1;
  if (bytes < 0 || b.bytes + bytes > kMostBytes)
    fault(FaultKind::usage, me, b, "cannot expect " + std::to_string(bytes) + " bytes more");
  if (b.pending == 0)
    fault(FaultKind::arrivals, me, b, 
          "more than " + std::to_string(b.count) + " arrivals in phase " + std::to_string(b.phase));
  if (!after_last_phase(b, int(me.number), *me.clock))
    fault(FaultKind::arrivals, me, b, "the arrival could come before phase " + std::to_string(b.phase - 1) + " has ended");
  b.bytes += bytes;
  b.arriving.add(me.clock, int(me.number), me.tick);
  ++me.tick;
  --b.pending;
  end_phase_if_complete(*me.machine, b);
}

void mbarrier_wait(Thread& me, uint32_t offset, int parity) {
  MbarrierState& b = usable(me, *me.block, offset);
  const uint32_t phase = b.waits[size_t(me.index)];
  if (parity != int(phase & 1))
    fault(FaultKind::phase, me, b, 
          "wait number " + std::to_string(phase) + " (from 0) is for parity " + std::to_string(parity));
  if (b.phase >= phase + 2)
    fault(FaultKind::phase, me, b, 
          "waits for phase " + std::to_string(phase) + " when it is in phase " + std::to_string(b.phase));
  if (b.phase == phase + 1) {
    acquire(me, b);
    ++b.waits[size_t(me.index)];
    return;
  }
  b.sleeping.push_back(&me);
  me.machine->suspend(me, Collective::mbarrier_wait);
}

void store_async(Thread& me, Block& to, int64_t offset, Part part, float x, Block& barrier_block, int64_t barrier) {
  if (&to != &barrier_block)
    throw Fault(FaultKind::usage, name_thread(me) + ": store_async to one block, counted on an mbarrier of another");
  to.memory.check_bounds(me, offset, 4, part, "store_async");
  if (to.exited == me.machine->shape().threads)
    throw Fault(FaultKind::exited_block, 
                name_thread(me) + ": store_async to block " + std::to_string(to.index) + ", which has ended");
  MbarrierState& b = usable(me, to, barrier);
  to.memory.begin_word(me, uint32_t(offset), part, kStoreInFlight);
  const PendingStore store{&b, uint32_t(offset), x, me.number, me.tick, me.clock};
  ++me.tick;
  me.machine->send([machine = me.machine, store] { count_store(*machine, store); });
}

void count_store(Machine& machine, const PendingStore& store) {
  MbarrierState& b = *store.barrier;
  if (b.block->exited == machine.shape().threads)
    throw Fault(FaultKind::exited_block, 
                name_mbarrier(b) + ": a store by " + machine.name_of(store.sender) + " lands after the block has ended");
  if (!after_last_phase(b, int(store.sender), *store.known))
    throw Fault(FaultKind::bytes, name_mbarrier(b) + ": a store by " + machine.name_of(store.sender) +
                                      " could land before phase " + std::to_string(b.phase - 1) + " has ended");
  b.block->memory.land_word(store.offset, uint32_t(b.entry), b.phase + 1, &store.value);
  b.arriving.add(store.known, int(store.sender), store.tick);
  if (b.stored_phase != b.phase + 1) b.senders.clear();
  b.stored_phase = b.phase + 1;
  b.senders.emplace_back(store.sender, store.tick);
  b.bytes -= 4;
  end_phase_if_complete(machine, b);
}

void check_stores_at_exit(Machine& machine, const Block& ended) {
  ClockSum sum;
  const int first = ended.rank * machine.shape().threads;
  for (int i = first; i < first + machine.shape().threads; ++i) sum.add(machine.thread(i).clock, i, machine.thread(i).tick);
  const Clock known = sum.total();
  for (const auto& b : ended.mbarriers) {
    if ((*known)[size_t(b->entry)] >= b->stored_phase) continue;
    for (const auto& [sender, tick] : b->senders)
      if ((*known)[sender] < tick)
        throw Fault(FaultKind::exited_block, "block " + std::to_string(ended.index) + " can end before a store by " +
                                                 machine.name_of(sender) + " has landed: no wait, no sync_cluster");
  }
}

void check_bytes_at_end(const Block& block) {
  for (const auto& b : block.mbarriers)
    if (b->bytes != 0)
      throw Fault(FaultKind::bytes, name_mbarrier(*b) + ": at the end " + std::to_string(b->bytes) +
                                        " bytes were announced and have not landed");
}

}  // namespace dtag::simt
