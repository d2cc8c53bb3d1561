// Every tuning decision of the CPU backend: which kernel, how many threads, how large a tile.
#pragma once
#include <algorithm>
#include <cstdint>

#include "cpu/packed.h"

namespace dtag {

// What a decision depends on. The kernel never depends on the number of threads: that would change a row's bits.
struct Shape {
  Geometry geometry;
  int members = 1;
  int64_t rows = 1;      // states x candidates
  int64_t steps = 1;
  int64_t weights = 0;   // numbers in all weight matrices, the state's columns left out
  int64_t units = 0;     // numbers per row that a tile keeps
  bool skips = false;    // ReLU everywhere: the row kernel reads about half of the weights
  bool relu_alone = false;    // and no LayerNorm
  bool matrix_tiles = false;  // the tile kernel multiplies hidden layers in tile registers
  int threads = 1;       // allowed
  bool shared = false;   // they are torch's, which are often still spinning when a call comes
};

struct Choice {
  bool tiles = false;
  int threads = 1;
  int team = 1;       // threads on one row, each with its members (row kernel)
  int tile_rows = 0;  // places in a tile
  int chunk = 1;      // rows a thread takes at a time, at most tile_rows
};

// Row kernel up to this many rows. Twin [256, 256] ReLU, 10 steps, AVX2: a row costs 65 us, one vector of 8 rows costs
// 680 us however many of them are in use; without dead units to skip a row costs twice as much.
// In tile registers (bf16, 16 lanes) a vector of rows of that critic costs 170 us and a row 40: 4 rows. Where matrices, kept
// for both directions, outgrow the second-level cache, or LayerNorm or smooth activations take longer than the products, it is
// 5 to 10 rows: 8.
constexpr int64_t kTileWeightBytes = 1536 * 1024;
inline int64_t rows_for_row_kernel(const Shape& s) {
  if (!s.matrix_tiles) return s.skips ? s.geometry.lanes : s.geometry.lanes / 2;
  const bool cached = 4 * s.weights <= kTileWeightBytes;  // two copies of 2 bytes
  return s.relu_alone && cached ? s.geometry.lanes / 4 : s.geometry.lanes / 2;
}

// Threads of a runtime: all of them enter a region, however few are needed, so more of them ask for more work (on machines
// with many cores not measured yet). One row of the twin [256, 256] critic with 10 steps has 2.8 million multiply-adds, and on
// two of torch's threads, each with its member, takes 60 us instead of 110 right after a torch loop, 95 instead of 130 in a
// loop with a policy and 100 us of Python, 175 instead of 125 after 5 ms of Python alone.
inline int64_t region_work(const Shape& s) { return std::max<int64_t>(2'000'000, 500'000 * int64_t(s.threads)); }
// Multiply-adds below which a second thread costs more than it brings: waking one of ours takes tens of microseconds.
inline int64_t thread_work(const Shape& s) { return s.shared ? region_work(s) : 3'000'000; }
// The same for threads that meet at every iteration.
inline int64_t team_work(const Shape& s) { return s.shared ? region_work(s) : 10'000'000; }

// A larger tile wastes less on the last, partly filled vectors of each member's backward pass, but outgrows the caches.
// Twin [256, 256] on Zen 3 (512 KB L2): 32 rows 7 % slower than 64, 128 (1 MB) or 256, which are equal within the noise.
constexpr int64_t kTileBytes = 1280 * 1024;
constexpr int64_t kMaxTileRows = 128;

inline int64_t ceil_div(int64_t n, int64_t m) { return (n + m - 1) / m; }

inline int64_t work(const Shape& s) { return s.rows * s.weights * (2 * s.steps + 1); }

// Whether more than one thread could be chosen; asking how many are allowed costs the caller time.
inline bool may_use_threads(const Shape& s) { return work(s) >= thread_work(s); }

// `only`: -1 by the rule, 0 the row kernel, 1 the tile kernel.
inline Choice choose(const Shape& s, int only = -1) {
  Choice c;
  const int64_t threads = may_use_threads(s) ? s.threads : 1;
  if (only == 0 || (only < 0 && s.rows <= rows_for_row_kernel(s))) {
    c.threads = int(std::min(threads, s.rows));
    if (s.rows == 1 && work(s) >= team_work(s)) c.team = int(std::min<int64_t>(threads, s.members));
    return c;
  }
  c.tiles = true;
  const int64_t lanes = s.geometry.lanes, strip = lanes * s.geometry.vectors;
  const int64_t fitting = std::max<int64_t>(1, kTileBytes / 4 / std::max<int64_t>(1, s.units) / strip) * strip;
  const int64_t most = std::min(fitting, kMaxTileRows / strip * strip);
  // The same number of chunks for every thread, of nearly equal size in whole vectors.
  const int64_t chunks = threads * ceil_div(s.rows, threads * most);
  c.chunk = int(std::min(most, ceil_div(ceil_div(s.rows, chunks), lanes) * lanes));
  c.tile_rows = int(ceil_div(c.chunk, strip) * strip);
  c.threads = int(std::min(threads, ceil_div(s.rows, c.chunk)));
  return c;
}

}  // namespace dtag
