// Every tuning decision of the CPU backend: which kernel, how many threads, how large a tile.
#pragma once
#include <algorithm>
#include <cstdint>

#include "cpu/packed.h"

namespace dtag {

// What a decision depends on.
struct Shape {
  Geometry geometry;
  int members = 1;
  int64_t rows = 1;            // states x candidates
  int64_t steps = 1;
  int64_t weights = 0;         // numbers in all weight matrices, the state's columns left out
  int64_t units = 0;           // numbers per row that a tile keeps
  int threads = 1;             // allowed
};

struct Choice {
  bool tiles = false;
  int threads = 1;
  int team = 1;       // threads on one row, each with its members (row kernel)
  int tile_rows = 0;
};

// Row kernel against tile kernel: rows up to which one row at a time, dead units skipped, is faster than a vector of
// rows of which part is padding.
constexpr int kRowsPerLane(int lanes) { return lanes / 2; }

// Multiply-adds below which a second thread costs more than it brings (waking one takes tens of microseconds).
constexpr int64_t kThreadWork = 2'000'000;
// The same for threads that meet at every iteration.
constexpr int64_t kTeamWork = 10'000'000;

// What a tile keeps per thread should stay in the second-level cache together with one layer's weights.
constexpr int64_t kTileBytes = 384 * 1024;
constexpr int kMaxTileRows = 128;

inline int64_t work(const Shape& s) { return s.rows * s.weights * (2 * s.steps + 1); }

// Whether more than one thread could be chosen; asking how many are allowed costs the caller time.
inline bool may_use_threads(const Shape& s) { return work(s) >= kThreadWork; }

// `only`: -1 by the rule, 0 the row kernel, 1 the tile kernel.
inline Choice choose(const Shape& s, int only = -1) {
  Choice c;
  const int64_t threads = may_use_threads(s) ? s.threads : 1;
  if (only == 0 || (only < 0 && s.rows <= kRowsPerLane(s.geometry.lanes))) {
    c.threads = int(std::min(threads, s.rows));
    if (s.rows == 1 && work(s) >= kTeamWork) c.team = int(std::min<int64_t>(threads, s.members));
    return c;
  }
  c.tiles = true;
  const int64_t strip = s.geometry.lanes * s.geometry.vectors;
  const auto strips = [&](int64_t rows) { return (rows + strip - 1) / strip; };
  const int64_t fitting = std::max<int64_t>(1, kTileBytes / 4 / std::max<int64_t>(1, s.units) / strip);
  const int64_t share = strips((s.rows + threads - 1) / threads);
  const int64_t tile = std::min({fitting, share, int64_t(kMaxTileRows) / strip});
  c.tile_rows = int(std::max<int64_t>(1, tile) * strip);
  c.threads = int(std::min(threads, (s.rows + c.tile_rows - 1) / c.tile_rows));
  return c;
}

}  // namespace dtag
