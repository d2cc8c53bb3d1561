#include "simt_host/stamped.h"

#include <sstream>

#include "simt_host/machine.h"

namespace dtag::simt {
namespace {

constexpr uint64_t kNotToBeRead = ~uint64_t(0);

[[noreturn]] void fault(FaultKind kind, const Thread& me, const Stamped* at, const std::string& what) {
  std::ostringstream address;
  address << at;
  throw Fault(kind, name_thread(me) + ", stamped word at " + address.str() + ": " + what);
}

}  // namespace

StampedMemory::Word& StampedMemory::word(const Thread& me, const Stamped* at) {
  if (!at) throw Fault(FaultKind::usage, name_thread(me) + ": a stamped word at a null address");
  if (reinterpret_cast<uintptr_t>(at) % 8) fault(FaultKind::alignment, me, at, "its address is no multiple of 8");
  const auto [found, first] = words_.try_emplace(at);
  Word& w = found->second;
  if (!first) return w;
  w.place = const_cast<Stamped*>(at);
  if (w.place->word_ != 0) fault(FaultKind::leftover, me, at, "not zero when the launch began");
  return w;
}

// What stood there has been read, and `me` has been told so.
void StampedMemory::check_read(const Thread& me, const Word& w, const char* what) const {
  if (w.in_flight) fault(FaultKind::race, me, w.place, std::string(what) + " while a store to it is under way");
  if (!w.read) fault(FaultKind::race, me, w.place, std::string(what) + " before it was read");
  if (w.reader < 0 || w.reader == int(me.number)) return;
  const Hearsay& news = me.block->hearsay;
  const bool own = w.reader_rank == me.block->rank;
  if ((own ? news.barriers() : news.of(w.reader_rank)) <= w.read_at)
    fault(FaultKind::race, me, w.place,
          std::string(what) + ", not ordered after its reading by " + me.machine->name_of(uint32_t(w.reader)));
}

void StampedMemory::store(Thread& me, Stamped* to, uint32_t stamp, float x) {
  Word& w = word(me, to);
  if (stamp == 0) fault(FaultKind::usage, me, to, "stamp 0, which says that it is empty");
  if (w.cleared) fault(FaultKind::race, me, to, "stored to after it was cleared");
  check_read(me, w, "stored to");
  if (stamp <= w.stamp)
    fault(FaultKind::phase, me, to, "stamp " + std::to_string(stamp) + " after stamp " + std::to_string(w.stamp));
  w.in_flight = true;
  w.read = false;
  w.told = me.block->hearsay.tell(me.block->rank);
  me.machine->send([this, &w, stamp, x, machine = me.machine] { land(w, stamp, x, *machine); });
}

void StampedMemory::land(Word& w, uint32_t stamp, float x, Machine& machine) {
  w.stamp = stamp;
  w.x = x;
  w.in_flight = false;
  w.place->word_ = kNotToBeRead;
  std::vector<Thread*> woken;
  woken.swap(w.sleeping);
  machine.release(std::move(woken));
}

float StampedMemory::wait(Thread& me, const Stamped* from, uint32_t stamp) {
  Word& w = word(me, from);
  while (w.stamp < stamp) {
    w.sleeping.push_back(&me);
    me.machine->suspend(me, Collective::wait_stamped);
  }
  if (w.cleared) fault(FaultKind::race, me, from, "waited for after it was cleared");
  if (w.stamp > stamp)
    fault(FaultKind::phase, me, from,
          "waits for stamp " + std::to_string(stamp) + " and finds " + std::to_string(w.stamp));
  if (w.reader_rank >= 0 && w.reader_rank != me.block->rank)
    fault(FaultKind::usage, me, from, "read by more than one block");
  w.read = true;
  w.reader_rank = me.block->rank;
  w.reader = int(me.number);
  w.read_at = me.block->hearsay.barriers();
  me.block->hearsay.hear(w.told);
  return w.x;
}

void StampedMemory::clear(Thread& me, Stamped* place) {
  Word& w = word(me, place);
  if (w.reader_rank >= 0 && w.reader_rank != me.block->rank)
    fault(FaultKind::usage, me, place, "cleared by another block than the one that reads it");
  check_read(me, w, "cleared");
  w.cleared = true;
  w.place->word_ = 0;
}

void StampedMemory::end() {
  size_t left = 0;
  for (const auto& [place, w] : words_) left += w.place->word_ != 0;
  words_.clear();
  if (left) throw Fault(FaultKind::leftover, std::to_string(left) + " stamped words are not zero at the end of the launch");
}

void store_stamped(Stamped* to, uint32_t stamp, float x) { self().machine->stamped().store(self(), to, stamp, x); }
void clear_stamped(Stamped* place) { self().machine->stamped().clear(self(), place); }
float wait_one_stamped(const Stamped* from, uint32_t stamp) { return self().machine->stamped().wait(self(), from, stamp); }

}  // namespace dtag::simt
