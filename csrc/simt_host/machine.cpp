#include "simt_host/machine.h"

#include <algorithm>

namespace dtag::simt {
namespace {

// Of this thread of the operating system, for all its launches.
thread_local StackPool stacks;
thread_local Machine* machine_here = nullptr;

void fiber_entry() { machine_here->run_thread(); }

}  // namespace

Machine::Machine(const Shape& shape, const std::function<void()>& body)
    : shape_(shape), body_(body), random_state_(shape.seed) {
  const auto refuse = [](const std::string& what) { throw Fault(FaultKind::launch, what); };
  const Shape& s = shape;
  if (machine_here) refuse("from inside a kernel");
  if (s.threads < 1 || s.threads > 1024 || s.threads % kWarpLanes != 0)
    refuse("threads: " + std::to_string(s.threads) + " is not a multiple of 32 up to 1024");
  if (s.cluster < 1 || s.cluster > 16) refuse("cluster: " + std::to_string(s.cluster) + " is not in 1..16");
  if (s.grid < 1 || s.grid % s.cluster != 0)
    refuse("grid: " + std::to_string(s.grid) + " blocks in clusters of " + std::to_string(s.cluster));
  if (s.cooperative && s.cluster > 1) refuse("cooperative: not with clusters");
  if (s.cooperative && s.grid > s.resident)
    refuse("grid: " + std::to_string(s.grid) + " blocks, of which " + std::to_string(s.resident) + " can run together");
  if (s.shared_bytes < 0 || s.shared_bytes > s.shared_limit)
    refuse("shared_bytes: " + std::to_string(s.shared_bytes) + " of " + std::to_string(s.shared_limit));
  machine_here = this;
}

Machine::~Machine() {
  machine_here = nullptr;
  current = nullptr;
}

void Machine::run() {
  for (int first = 0; first < shape_.grid; first += running_blocks()) {
    start_blocks(first);
    try {
      run_blocks();
    } catch (...) {
      abandon();
      throw;
    }
  }
}

void Machine::start_blocks(int first_block) {
  first_block_ = first_block;
  waiting_ = exited_ = 0;
  clock_entries_.clear();
  threads_.clear();
  blocks_.resize(size_t(running_blocks()));
  const int entries = running_threads() + kMbarriersPerBlock * running_blocks();
  const Clock nothing = std::make_shared<const std::vector<Tick>>(size_t(entries));
  std::vector<int> warps;
  for (int rank = 0; rank < running_blocks(); ++rank) {
    auto& slot = blocks_[size_t(rank)];
    if (!slot) slot = std::make_unique<Block>();
    Block& b = *slot;
    b.index = first_block + rank;
    b.rank = rank;
    b.kind = Collective::none;
    b.waiting = b.exited = b.round = 0;
    b.any[0] = b.any[1] = false;
    b.memory.reset(b.index, shape_.threads, rank * shape_.threads, shape_.shared_bytes);
    b.warps.assign(size_t(shape_.threads / kWarpLanes), Warp{});
    b.warpgroups.assign(size_t((shape_.threads + kWarpgroupThreads - 1) / kWarpgroupThreads), Warpgroup{});
    b.mbarriers.clear();
    b.hearsay = Hearsay(running_blocks());
    for (int i = 0; i < shape_.threads; ++i) {
      auto t = std::make_unique<Thread>();
      t->number = uint32_t(threads_.size());
      t->index = i;
      t->block = &b;
      t->memory = &b.memory;
      t->warp = &b.warps[size_t(i / kWarpLanes)];
      t->warpgroup = &b.warpgroups[size_t(i / kWarpgroupThreads)];
      t->machine = this;
      t->learn(nothing);
      t->fiber.prepare(stacks.at(threads_.size()), fiber_entry);
      if (i % kWarpLanes == 0) warps.push_back(int(t->number));
      threads_.push_back(std::move(t));
    }
  }
  if (shape_.seed)
    for (size_t i = warps.size(); i > 1; --i) std::swap(warps[i - 1], warps[size_t(below(i))]);
  for (int first : warps)
    for (int lane = 0; lane < kWarpLanes; ++lane) ready_.push_back(threads_[size_t(first + lane)].get());
}

void Machine::run_blocks() {
  while (exited_ < running_threads()) {
    if (ready_.empty()) {
      if (pending_.empty()) stuck();
      land_one();
      continue;
    }
    Thread* t = ready_.front();
    ready_.pop_front();
    current = t;
    t->started = true;
    t->fiber.resume(launcher_);
    current = nullptr;
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
    if (!pending_.empty() && below(8) == 0) land_one();
  }
  land_all();
  for (const auto& b : blocks_) check_bytes_at_end(*b);
  stamped_.end();
}

void Machine::run_thread() {
  Thread& me = *current;
  me.fiber.enter(launcher_);
  try {
    body_();
    finish(me);
  } catch (...) {
    error_ = std::current_exception();
  }
  me.finished = true;
  me.fiber.leave(launcher_);
}

// Their stacks are dropped; AddressSanitizer is told, so that it gives back what it keeps for each.
void Machine::abandon() {
#ifdef DTAG_SIMT_ASAN
  abandoning_ = true;
  for (auto& t : threads_)
    if (t->started && !t->finished) {
      current = t.get();
      t->fiber.resume(launcher_);
    }
#endif
  ready_.clear();
  current = nullptr;
}

void Machine::suspend(Thread& me, Collective at) {
  me.at = at;
  me.fiber.suspend(launcher_);
  if (abandoning_) me.fiber.leave(launcher_);
  me.at = Collective::none;
}

void Machine::release(int first, int last, const Thread* but) {
  if (shape_.seed) {
    std::vector<Thread*> group;
    for (int i = first; i < last; ++i)
      if (threads_[size_t(i)].get() != but) group.push_back(threads_[size_t(i)].get());
    return release(std::move(group));
  }
  for (int i = first; i < last; ++i)
    if (threads_[size_t(i)].get() != but) ready_.push_back(threads_[size_t(i)].get());
}

// Now and then in front of all others, so that some warps run far ahead.
void Machine::release(std::vector<Thread*> group) {
  if (shape_.seed) {
    for (size_t i = group.size(); i > 1; --i) std::swap(group[i - 1], group[size_t(below(i))]);
    if (random() & 1) {
      ready_.insert(ready_.begin(), group.begin(), group.end());
      return;
    }
  }
  ready_.insert(ready_.end(), group.begin(), group.end());
}

void Machine::join(int first, int last) {
  ClockSum sum;
  for (int i = first; i < last; ++i) sum.add(threads_[size_t(i)]->clock, i, threads_[size_t(i)]->tick);
  const Clock all = sum.total();
  for (int i = first; i < last; ++i) {
    threads_[size_t(i)]->learn(all);
    ++threads_[size_t(i)]->tick;
  }
}

namespace {

[[noreturn]] void apart(FaultKind kind, const Thread& me, Collective at, const char* others, const std::string& where) {
  throw Fault(kind, name_thread(me) + " is at " + name(at) + " when " + others + where);
}

void all_left(Block& b) {
  b.waiting = 0;
  for (Warp& w : b.warps) w.waiting = 0;
}

}  // namespace

void Machine::enter_warp(Thread& me, Collective kind) {
  Warp& w = *me.warp;
  if (w.exited) apart(FaultKind::barrier, me, kind, "lanes of its warp have ended", "");
  if (w.waiting && w.kind != kind) apart(FaultKind::divergence, me, kind, "lanes of its warp are at ", simt::name(w.kind));
  w.kind = kind;
}

void Machine::enter_block(Thread& me, Collective kind) {
  enter_warp(me, kind);
  Block& b = *me.block;
  if (b.exited) apart(FaultKind::barrier, me, kind, "threads of its block have ended", "");
  if (b.waiting && b.kind != kind)
    apart(FaultKind::divergence, me, kind, "threads of its block are at ", simt::name(b.kind));
  b.kind = kind;
  ++b.waiting;
  ++me.warp->waiting;
}

void Machine::sync_block(Thread& me, Collective kind) {
  enter_block(me, kind);
  Block& b = *me.block;
  if (b.waiting < shape_.threads) return suspend(me, kind);
  all_left(b);
  b.round ^= 1;
  b.any[b.round] = false;
  b.hearsay.meet();
  const int first = b.rank * shape_.threads;
  join(first, first + shape_.threads);
  release(first, first + shape_.threads, &me);
}

// Whether `me` came last.
bool Machine::enter_warpgroup(Thread& me, Collective kind) {
  enter_warp(me, kind);
  Block& b = *me.block;
  Warpgroup& g = *me.warpgroup;
  const int first = me.index / kWarpgroupThreads * kWarpgroupThreads;
  if (first + kWarpgroupThreads > shape_.threads)
    throw Fault(FaultKind::usage, name_thread(me) + ": " + simt::name(kind) + " in a warpgroup of less than 128 threads");
  for (int w = 0; w < kWarpgroupThreads / kWarpLanes; ++w)
    if (b.warps[size_t(first / kWarpLanes + w)].exited)
      apart(FaultKind::barrier, me, kind, "threads of its warpgroup have ended", "");
  if (g.waiting && g.kind != kind) apart(FaultKind::divergence, me, kind, "threads of its warpgroup are at ", simt::name(g.kind));
  g.kind = kind;
  ++me.warp->waiting;
  if (++g.waiting < kWarpgroupThreads) return false;
  g.waiting = 0;
  for (int w = 0; w < kWarpgroupThreads / kWarpLanes; ++w) b.warps[size_t(first / kWarpLanes + w)].waiting = 0;
  return true;
}

void Machine::meet_warpgroup(Thread& me, Collective kind) {
  if (!enter_warpgroup(me, kind)) return suspend(me, kind);
  const int first = int(me.number) - me.index % kWarpgroupThreads;
  release(first, first + kWarpgroupThreads, &me);
}

void Machine::sync_warpgroup(Thread& me, Collective kind) {
  if (!enter_warpgroup(me, kind)) return suspend(me, kind);
  Warpgroup& g = *me.warpgroup;
  g.round ^= 1;
  g.any[g.round] = false;
  const int first = int(me.number) - me.index % kWarpgroupThreads;
  join(first, first + kWarpgroupThreads);
  release(first, first + kWarpgroupThreads, &me);
}

void Machine::sync_cluster(Thread& me) {
  if (shape_.cooperative) throw Fault(FaultKind::usage, name_thread(me) + ": sync_cluster in a launch without clusters");
  enter_block(me, Collective::sync_cluster);
  if (exited_) apart(FaultKind::barrier, me, Collective::sync_cluster, "threads of its cluster have ended", "");
  if (++waiting_ < running_threads()) return suspend(me, Collective::sync_cluster);
  waiting_ = 0;
  for (auto& b : blocks_) {
    all_left(*b);
    b->hearsay.meet();
  }
  land_all();
  join(0, running_threads());
  release(0, running_threads(), &me);
}

void Machine::send(std::function<void()> land) {
  if (shape_.seed == 0 || random() % 4 == 0) return land();
  pending_.push_back(std::move(land));
}

void Machine::land_one() {
  std::swap(pending_[size_t(below(pending_.size()))], pending_.back());
  const std::function<void()> land = std::move(pending_.back());
  pending_.pop_back();
  land();
}

void Machine::land_all() {
  while (!pending_.empty()) land_one();
}

// SplitMix64
uint64_t Machine::random() {
  uint64_t z = random_state_ += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

int Machine::new_clock_entry(MbarrierState* b) {
  if (clock_entries_.size() == size_t(kMbarriersPerBlock * running_blocks()))
    throw Fault(FaultKind::usage, "more than " + std::to_string(kMbarriersPerBlock) + " mbarriers per block");
  clock_entries_.push_back(b);
  return running_threads() + int(clock_entries_.size()) - 1;
}

void Machine::finish(Thread& me) {
  Block& b = *me.block;
  const auto refuse = [&](FaultKind kind, const char* when, const char* where) {
    throw Fault(kind, name_thread(me) + " ended " + when + where);
  };
  if (!me.copies.empty()) refuse(FaultKind::async_copy, "with asynchronous copies under way", "");
  if (me.products.open) refuse(FaultKind::registers, "with products of its warpgroup under way", "");
  if (me.warp->waiting) refuse(FaultKind::barrier, "when lanes of its warp wait at ", simt::name(me.warp->kind));
  if (b.waiting) refuse(FaultKind::barrier, "when threads of its block wait at ", simt::name(b.kind));
  if (waiting_) refuse(FaultKind::barrier, "when threads of its cluster wait at ", "sync_cluster");
  ++me.warp->exited;
  ++exited_;
  if (++b.exited == shape_.threads) check_stores_at_exit(*this, b);
}

void Machine::stuck() const {
  std::string who;
  for (size_t i = 0, end = 0; i < threads_.size(); i = end) {
    const Thread& t = *threads_[i];
    const auto alike = [&](const Thread& u) { return u.block == t.block && u.at == t.at && u.finished == t.finished; };
    for (end = i + 1; end < threads_.size() && alike(*threads_[end]);) ++end;
    who += "; block " + std::to_string(t.block->index) + ", threads " + std::to_string(t.index) + " to " +
           std::to_string(threads_[end - 1]->index) + ": " + (t.finished ? "ended" : simt::name(t.at));
  }
  throw Fault(FaultKind::barrier, "not reached by all" + who);
}

std::string Machine::name_of(uint32_t entry) const {
  if (entry < uint32_t(running_threads())) return name_thread(int(entry), shape_.threads, first_block_);
  const MbarrierState& b = *clock_entries_[entry - uint32_t(running_threads())];
  return "store_async with the " + name_mbarrier(b);
}

void launch(const Shape& shape, const std::function<void()>& body) {
  Machine machine(shape, body);
  machine.run();
}

}  // namespace dtag::simt
