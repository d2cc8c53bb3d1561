#include "simt_host/shadow.h"

#include <algorithm>

#include "simt_host/machine.h"

namespace dtag::simt {

void SharedMemory::reset(int block, int threads, int first_thread, int64_t bytes) {
  block_ = block;
  threads_ = threads;
  first_thread_ = first_thread;
  bytes_ = bytes;
  const size_t words = size_t(bytes + 3) / 4;
  data_.assign(words * 4, 0xff);  // a NaN, should a defect here let it be read
  words_.assign(words, Word{});
  splits_.clear();
  more_.clear();
  free_more_.clear();
}

void SharedMemory::refuse_unusual(const Thread& me, const Word& w, uint32_t offset, Part part, const char* what) const {
  if (w.flags & kCopyInFlight)
    throw Fault(FaultKind::async_copy, place(me, what, offset, part) + " while an asynchronous copy to it is under way");
  if (w.flags & kStoreInFlight)
    throw Fault(FaultKind::race, place(me, what, offset, part) + " while a store from another block is under way");
  if (w.flags & kMbarrier) throw Fault(FaultKind::usage, place(me, what, offset, part) + ", which is an mbarrier");
}

// Bytes written in pieces get cells of their own, which begin as copies of the word's.
std::array<Cell, 4>& SharedMemory::split(Word& w) {
  if (!w.split) {
    splits_.emplace_back();
    w.split = uint32_t(splits_.size());
  }
  auto& cells = splits_[w.split - 1];
  if (!(w.flags & kSplit)) {
    for (Cell& c : cells) {
      c = w.cell;
      if (w.cell.more) {
        more_.push_back(more_[w.cell.more - 1]);
        c.more = uint32_t(more_.size());
      }
    }
    w.flags |= kSplit;
  }
  return cells;
}

void SharedMemory::read_bytes(Thread& me, uint32_t offset, size_t count, Part part) {
  Word& w = words_[offset / 4];
  refuse_unusual(me, w, offset, part, "read");
  const uint32_t first = offset % 4, mask = ((1u << count) - 1) << first;
  if ((w.flags & mask) != mask) throw Fault(FaultKind::unwritten, place(me, "read", offset, part) + ", never written");
  auto& cells = split(w);
  for (size_t i = 0; i < count; ++i) read_cell(me, cells[first + i], offset + uint32_t(i), part);
}

void SharedMemory::read_for_product(Thread& me, uint32_t offset, Part part) {
  check_place(me, offset, 4, part, "product");
  read_word(me, offset, part);
  const Word& w = words_[offset / 4];
  const auto check = [&](const Cell& c) {
    const bool from_thread = int(c.writer) < me.machine->running_threads();
    if (!from_thread || me.machine->thread(int(c.writer)).published < c.write_tick)
      throw Fault(FaultKind::unpublished, place(me, "product", offset, part) + ", written by " + thread_name(c.writer) +
                                              " without publish_to_wgmma() behind");
  };
  if (!(w.flags & kSplit)) return check(w.cell);
  for (const Cell& c : splits_[w.split - 1]) check(c);
}

void SharedMemory::write_bytes(Thread& me, uint32_t offset, size_t count, Part part) {
  Word& w = words_[offset / 4];
  refuse_unusual(me, w, offset, part, "write");
  const uint32_t first = offset % 4;
  auto& cells = split(w);
  for (size_t i = 0; i < count; ++i) write_cell(me, cells[first + i], offset + uint32_t(i), part);
  w.flags |= uint8_t(((1u << count) - 1) << first);
}

void SharedMemory::write_unusual_word(Thread& me, uint32_t offset, Part part) {
  Word& w = words_[offset / 4];
  refuse_unusual(me, w, offset, part, "write");
  for (Cell& c : split(w)) write_cell(me, c, offset, part);
  w.cell = splits_[w.split - 1][0];
  w.flags = kWritten;
}

void SharedMemory::begin_word(Thread& me, uint32_t offset, Part part, uint8_t flag) {
  write_word(me, offset, part);
  words_[offset / 4].flags |= flag;
}

void SharedMemory::land_word(uint32_t offset, uint32_t writer, Tick tick, const void* x) {
  Word& w = words_[offset / 4];
  w.cell.writer = writer;
  w.cell.write_tick = tick;
  w.flags = kWritten;
  std::memcpy(data_.data() + offset, x, 4);
}

void SharedMemory::make_mbarrier(Thread& me, uint32_t offset, Part part) {
  for (uint32_t at : {offset, offset + 4}) {
    if (!(words_[at / 4].flags & kMbarrier)) write_word(me, at, part);
    words_[at / 4].flags |= kMbarrier;
  }
}

namespace {

bool all_before(const Thread& me, const Readers& r) {
  for (uint32_t lanes = r.lanes; lanes; lanes &= lanes - 1)
    if (!me.after(r.warp * 32 + uint32_t(__builtin_ctz(lanes)), r.tick)) return false;
  return true;
}

}  // namespace

// Readers that `me` comes after need not be kept: what is ordered after `me` is ordered after them.
void SharedMemory::add_reader(const Thread& me, Cell& c) {
  const uint32_t warp = me.number / 32, lane = 1u << (me.number % 32);
  if (c.more)
    for (Readers& r : more_[c.more - 1])
      if (r.warp == warp && r.tick == me.tick) {
        r.lanes |= lane;
        return;
      }
  if (all_before(me, c.readers)) {
    c.readers = {warp, lane, me.tick};
    return;
  }
  if (!c.more) {
    if (free_more_.empty()) {
      more_.emplace_back();
      free_more_.push_back(uint32_t(more_.size()));
    }
    c.more = free_more_.back();
    free_more_.pop_back();
  }
  auto& more = more_[c.more - 1];
  more.erase(std::remove_if(more.begin(), more.end(), [&](const Readers& r) { return all_before(me, r); }), more.end());
  more.push_back({warp, lane, me.tick});
}

void SharedMemory::check_readers(const Thread& me, Cell& c, uint32_t offset, Part part) {
  const auto check = [&](const Readers& r) {
    for (uint32_t lanes = r.lanes; lanes; lanes &= lanes - 1) {
      const uint32_t reader = r.warp * 32 + uint32_t(__builtin_ctz(lanes));
      if (!me.after(reader, r.tick)) race(me, "write", offset, part, "read", reader);
    }
  };
  check(c.readers);
  c.readers = {};
  if (!c.more) return;
  for (const Readers& r : more_[c.more - 1]) check(r);
  more_[c.more - 1].clear();
  free_more_.push_back(c.more);
  c.more = 0;
}

std::string SharedMemory::thread_name(uint32_t number) const {
  return name_thread(int(number), threads_, block_ - first_thread_ / threads_);
}

std::string SharedMemory::place(const Thread& me, const char* what, int64_t offset, Part part) const {
  return thread_name(me.number) + ": " + what + " of shared memory of block " + std::to_string(block_) + " at byte " +
         std::to_string(offset) + ", byte " + std::to_string(offset - int64_t(part.begin)) + " of the part [" +
         std::to_string(part.begin) + ", " + std::to_string(part.end) + ")";
}

void SharedMemory::race(const Thread& me, const char* what, uint32_t offset, Part part, const char* other,
                        uint32_t who) const {
  throw Fault(FaultKind::race, place(me, what, offset, part) + ", not ordered after its " + other + " by " +
                                   me.machine->name_of(who));
}

void SharedMemory::foreign(const Thread& me, const char* what) const {
  throw Fault(FaultKind::foreign_block, thread_name(me.number) + ": " + what +
                                            " through a pointer to shared memory of block " + std::to_string(block_));
}

void SharedMemory::outside(const Thread& me, int64_t offset, size_t bytes, Part part, const char* what) const {
  throw Fault(FaultKind::bounds, place(me, what, offset, part) + ": " + std::to_string(bytes) + " bytes are not inside");
}

void SharedMemory::misaligned(const Thread& me, int64_t offset, int64_t bytes, Part part, const char* what) const {
  throw Fault(FaultKind::alignment, place(me, what, offset, part) + ": must be a multiple of " + std::to_string(bytes));
}

}  // namespace dtag::simt
