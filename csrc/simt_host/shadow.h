// The shared memory of one block and, for every word of it, who wrote it last and who has read it since. Exact for
// accesses of 4 bytes; a word touched in smaller pieces is followed byte by byte.
#pragma once
#include <array>
#include <cstring>
#include <string>

#include "simt_host/thread.h"

namespace dtag::simt {

// Lanes of one warp that read at the same tick.
struct Readers {
  uint32_t warp = 0, lanes = 0;
  Tick tick = 0;
};

struct Cell {
  uint32_t writer = 0;  // a thread of the cluster, or an mbarrier's entry for what was stored with it
  Tick write_tick = 0;  // 0: before everything
  Readers readers;
  uint32_t more = 0;  // place + 1 of further readers
};

// Low four bits: bytes written. Only a word with exactly those takes the short way.
enum : uint8_t { kWritten = 0x0f, kCopyInFlight = 0x10, kStoreInFlight = 0x20, kMbarrier = 0x40, kSplit = 0x80 };

struct Word {
  Cell cell;
  uint32_t split = 0;  // place + 1 of its bytes' cells
  uint8_t flags = 0;
};

// What an access is part of, for messages.
struct Part {
  uint32_t begin = 0, end = 0;
};

class SharedMemory {
 public:
  // All undefined again.
  void reset(int block, int threads, int first_thread, int64_t bytes);

  template <class T>
  T read(Thread& me, int64_t offset, Part part) {
    check_place(me, offset, sizeof(T), part, "read");
    if constexpr (sizeof(T) < 4) {
      read_bytes(me, uint32_t(offset), sizeof(T), part);
    } else {
      for (size_t i = 0; i < sizeof(T) / 4; ++i) read_word(me, uint32_t(offset) + uint32_t(4 * i), part);
    }
    T x;
    std::memcpy(&x, data_.data() + offset, sizeof(T));
    return x;
  }
  template <class T>
  void write(Thread& me, int64_t offset, Part part, const T& x) {
    check_place(me, offset, sizeof(T), part, "write");
    if constexpr (sizeof(T) < 4) {
      write_bytes(me, uint32_t(offset), sizeof(T), part);
    } else {
      for (size_t i = 0; i < sizeof(T) / 4; ++i) write_word(me, uint32_t(offset) + uint32_t(4 * i), part);
    }
    std::memcpy(data_.data() + offset, &x, sizeof(T));
  }

  // A word for a product of a warpgroup: whoever wrote it must have published it (warpgroup.h).
  void read_for_product(Thread& me, uint32_t offset, Part part);
  const unsigned char* bytes_at(int64_t offset) const { return data_.data() + offset; }

  // Whether the bytes lie in the part and the pointer is of the thread's own block.
  void check_place(const Thread& me, int64_t offset, size_t bytes, Part part, const char* what) const {
    if (me.memory != this) foreign(me, what);
    check_bounds(me, offset, bytes, part, what);
  }
  void check_bounds(const Thread& me, int64_t offset, size_t bytes, Part part, const char* what) const {
    if (offset < int64_t(part.begin) || offset + int64_t(bytes) > int64_t(part.end)) outside(me, offset, bytes, part, what);
  }
  void check_aligned(const Thread& me, int64_t offset, int64_t bytes, Part part, const char* what) const {
    if (offset % bytes != 0) misaligned(me, offset, bytes, part, what);
  }

  // A write by `me` that lands later: checked now, marked by `flag` until land_word().
  void begin_word(Thread& me, uint32_t offset, Part part, uint8_t flag);
  void land_word(uint32_t offset, uint32_t writer, Tick tick, const void* x);
  void make_mbarrier(Thread& me, uint32_t offset, Part part);

  int64_t bytes() const { return bytes_; }
  int block() const { return block_; }

 private:
  void read_word(Thread& me, uint32_t offset, Part part) {
    Word& w = words_[offset / 4];
    if (w.flags != kWritten) return read_bytes(me, offset, 4, part);
    read_cell(me, w.cell, offset, part);
  }
  void write_word(Thread& me, uint32_t offset, Part part) {
    Word& w = words_[offset / 4];
    if (w.flags > kWritten) return write_unusual_word(me, offset, part);
    write_cell(me, w.cell, offset, part);
    w.flags = kWritten;
  }
  void read_cell(Thread& me, Cell& c, uint32_t offset, Part part) {
    if (!me.after(c.writer, c.write_tick)) race(me, "read", offset, part, "write", c.writer);
    const uint32_t warp = me.number / 32, lane = 1u << (me.number % 32);
    if (c.readers.lanes == 0)
      c.readers = {warp, lane, me.tick};
    else if (c.readers.warp == warp && c.readers.tick == me.tick)
      c.readers.lanes |= lane;
    else
      add_reader(me, c);
  }
  void write_cell(Thread& me, Cell& c, uint32_t offset, Part part) {
    if (!me.after(c.writer, c.write_tick)) race(me, "write", offset, part, "write", c.writer);
    if (c.readers.lanes) check_readers(me, c, offset, part);
    c.writer = me.number;
    c.write_tick = me.tick;
  }

  void read_bytes(Thread& me, uint32_t offset, size_t count, Part part);
  void write_bytes(Thread& me, uint32_t offset, size_t count, Part part);
  void write_unusual_word(Thread& me, uint32_t offset, Part part);
  void refuse_unusual(const Thread& me, const Word& w, uint32_t offset, Part part, const char* what) const;
  std::array<Cell, 4>& split(Word& w);
  void add_reader(const Thread& me, Cell& c);
  void check_readers(const Thread& me, Cell& c, uint32_t offset, Part part);

  std::string place(const Thread& me, const char* what, int64_t offset, Part part) const;
  std::string thread_name(uint32_t number) const;
  [[noreturn]] void race(const Thread& me, const char* what, uint32_t offset, Part part, const char* other,
                         uint32_t who) const;
  [[noreturn]] void foreign(const Thread& me, const char* what) const;
  [[noreturn]] void outside(const Thread& me, int64_t offset, size_t bytes, Part part, const char* what) const;
  [[noreturn]] void misaligned(const Thread& me, int64_t offset, int64_t bytes, Part part, const char* what) const;

  int block_ = 0, threads_ = 0, first_thread_ = 0;
  int64_t bytes_ = 0;
  std::vector<unsigned char> data_;
  std::vector<Word> words_;
  std::vector<std::array<Cell, 4>> splits_;
  std::vector<std::vector<Readers>> more_;
  std::vector<uint32_t> free_more_;
};

}  // namespace dtag::simt
