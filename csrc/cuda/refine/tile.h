// A tile: rows that one block carries through all iterations, and where their numbers lie in shared memory.
#pragma once
#include <cstdint>

namespace dtag::cuda {

constexpr int kThreads = 256;
constexpr int kNarrow = 16;  // products with at most this many outputs divide their inputs, not their outputs, among threads

// How 256 threads share the product of a tile: a thread makes `rows_each` rows of `kOutputsEach` outputs; threads left over
// divide the inputs (`split` groups, summed in order afterwards). Matrices pass through shared memory `kColumns` columns
// and `chunk` inputs at a time, `kBuffers` of these under way.
template <int rows_, int rows_each_, int chunk_>
struct TileShape {
  static constexpr int kRows = rows_, kRowsEach = rows_each_, kChunk = chunk_;
  static constexpr int kOutputsEach = 8, kColumns = 256, kBuffers = 3;
  static constexpr int kRowGroups = kRows / kRowsEach, kColumnGroups = kColumns / kOutputsEach;
  static constexpr int kSplit = kThreads / (kRowGroups * kColumnGroups);
  static_assert(kRowGroups * kColumnGroups * kSplit == kThreads && kChunk % kSplit == 0 && kRowsEach % 4 == 0);

  static constexpr int largest(int a, int b) { return a > b ? a : b; }
  // The buffers of a product, then its partial sums in the same place.
  static constexpr int kScratchFloats =
      largest(kBuffers * kChunk * kColumns, largest(kSplit > 1 ? kSplit * kColumns * kRows : 0, kNarrow * kThreads));
};

using Tile64 = TileShape<64, 8, 8>;
using Tile32 = TileShape<32, 4, 16>;
using Tile16 = TileShape<16, 4, 16>;
using Tile8 = TileShape<8, 4, 16>;
using Tile4 = TileShape<4, 4, 16>;

// Offsets in bytes. Arrays of w units are [w][rows] floats.
struct TileMemory {
  uint32_t action, start, best, grad, first_moment, second_moment, lr;  // A units each
  uint32_t q, q_first, q_best, q_member;                                // one unit each
  uint32_t steps, alive, best_index, take;                              // one int32 per row
  uint32_t winner_q, winner_cost;                                       // of the best candidate so far: Q and Q - F
  uint32_t units;                                                       // all units of a member
  uint32_t scratch;
  uint32_t bytes;
};

// From offset `first` on, up to offset `bytes`.
constexpr TileMemory tile_memory(int rows, int action_dim, int64_t units, int64_t scratch_floats, uint32_t first = 0) {
  TileMemory m{};
  int64_t at = first;
  const auto take = [&](int64_t floats) {
    const uint32_t offset = uint32_t(at);
    at += (floats * 4 + 15) / 16 * 16;
    return offset;
  };
  const int64_t dims = int64_t(action_dim) * rows;
  m.action = take(dims);
  m.start = take(dims);
  m.best = take(dims);
  m.grad = take(dims);
  m.first_moment = take(dims);
  m.second_moment = take(dims);
  m.lr = take(dims);
  m.q = take(rows);
  m.q_first = take(rows);
  m.q_best = take(rows);
  m.q_member = take(rows);
  m.steps = take(rows);
  m.alive = take(rows);
  m.best_index = take(rows);
  m.take = take(rows);
  m.winner_q = take(rows);
  m.winner_cost = take(rows);
  m.units = take(units * rows);
  m.scratch = take(scratch_floats);
  m.bytes = at < (int64_t(1) << 31) ? uint32_t(at) : ~uint32_t(0);
  return m;
}

}  // namespace dtag::cuda
