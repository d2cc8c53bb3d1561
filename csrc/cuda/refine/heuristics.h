// Which kernel runs a call, and how: the one place where it is decided. Every number here is a prediction from the machine's
// data sheet until docs/performance-notes.md names a measurement.
#pragma once
#include <string>
#include <vector>

#include "cuda/refine/latency_layout.h"
#include "cuda/refine/layout.h"
#include "cuda/refine/tile.h"

namespace dtag::cuda {

struct DeviceTraits {
  int capability = 80;           // 10 * major + minor
  int multiprocessors = 108;
  int64_t shared_bytes = 166912;  // dynamic shared memory that one block can have
};

enum class Kernel { none, generic, latency };
constexpr const char* name_of(Kernel kernel) {
  return kernel == Kernel::latency ? "latency" : kernel == Kernel::generic ? "generic" : "none";
}

struct Choice {
  Kernel kernel = Kernel::none;
  int rows = 0;    // of a tile or cluster
  int blocks = 0;  // of the grid
  int64_t folded_floats = 0;  // global memory for the folded states
  double clocks = 0.;         // predicted, per iteration
  TileMemory tile{};
  LatencyMemory latency{};
  std::string reason;  // how it runs, or why it cannot

  uint32_t shared_bytes() const { return kernel == Kernel::latency ? latency.bytes : tile.bytes; }
};

// What a caller may insist on: one kernel, one number of rows; none and 0 for the rule.
struct Only {
  Kernel kernel = Kernel::none;
  int rows = 0;
};

struct TileRule {
  int rows;
  int scratch_floats;
  double efficiency;  // share of the multiprocessor's 128 multiply-adds a clock
};
constexpr TileRule kTileRules[] = {{64, Tile64::kScratchFloats, 0.75},
                                   {32, Tile32::kScratchFloats, 0.60},
                                   {16, Tile16::kScratchFloats, 0.45},
                                   {8, Tile8::kScratchFloats, 0.30},
                                   {4, Tile4::kScratchFloats, 0.15}};
constexpr double kStreamedBytesPerClock = 48.;  // weights from the L2 cache into one multiprocessor
constexpr double kClocksPerLayer = 1500.;       // barriers, narrow products, the walk
constexpr double kClocksFirstRow = 1250., kClocksMoreRows = 750.;  // latency kernel, two hidden layers of 256 units
constexpr int kLatencyRowRules[] = {1, 2, 4, 8};

inline int64_t tiles_of(int64_t states, int candidates, int rows) {
  const int64_t each = candidates < rows ? rows / candidates : 1;
  return (states + each - 1) / each;
}
// Times that a tile is walked: more than once when candidates fill several.
inline int64_t rounds_of(int candidates, int rows) { return (candidates + rows - 1) / rows; }
inline std::string kib(int64_t bytes) { return std::to_string((bytes + 1023) / 1024) + " KiB"; }

inline Choice choose_generic(const Layout& layout, int action_dim, const DeviceTraits& device, int64_t states, int candidates,
                             int only_rows) {
  Choice best;
  int64_t least = 0;
  for (const TileRule& rule : kTileRules) {
    if (only_rows && rule.rows != only_rows) continue;
    const TileMemory memory = tile_memory(rule.rows, action_dim, layout.units, rule.scratch_floats);
    least = memory.bytes;
    if (memory.bytes > device.shared_bytes) continue;
    const int64_t tiles = tiles_of(states, candidates, rule.rows);
    const double waves = double((tiles + device.multiprocessors - 1) / device.multiprocessors);
    const double multiply = 2. * double(layout.weights) * rule.rows / (128. * rule.efficiency);
    const double stream = 2. * 4. * double(layout.weights) / kStreamedBytesPerClock;
    const double clocks = waves * double(rounds_of(candidates, rule.rows)) *
                          ((multiply > stream ? multiply : stream) + kClocksPerLayer * double(layout.stages.size()));
    if (best.rows && clocks >= best.clocks) continue;
    best.kernel = Kernel::generic;
    best.clocks = clocks;
    best.rows = rule.rows;
    best.blocks = int(tiles < device.multiprocessors ? tiles : device.multiprocessors);
    best.tile = memory;
    best.folded_floats = int64_t(best.blocks) * layout.base_units * rule.rows;
  }
  best.reason = best.rows ? "generic kernel, tiles of " + std::to_string(best.rows) + " rows, fp32"
                          : "the generic kernel's smallest tile needs " + kib(least) +
                                " of shared memory, the device has " + kib(device.shared_bytes) + " per block";
  return best;
}

inline Choice choose_latency(const LatencyLayout& layout, const DeviceTraits& device, int64_t states, int candidates,
                             int only_rows) {
  Choice best;
  if (device.capability < 90) {
    best.reason = "the latency kernel needs compute capability 9.0 (clusters), the device has " +
                  std::to_string(device.capability / 10) + "." + std::to_string(device.capability % 10);
    return best;
  }
  if (!layout.refusal.empty()) {
    best.reason = "the latency kernel: " + layout.refusal;
    return best;
  }
  // Clusters lie within one of the chip's processing clusters, whose sizes leave some blocks over.
  const int resident = device.multiprocessors / layout.cluster() * 15 / 16;
  int64_t least = 0;
  for (const int rows : kLatencyRowRules) {
    if (only_rows && rows != only_rows) continue;
    const LatencyMemory memory = latency_memory(layout.facts, rows);
    if (!least) least = memory.bytes;
    if (memory.bytes > device.shared_bytes) continue;
    const int64_t tiles = tiles_of(states, candidates, rows);
    const int64_t at_once = resident > 0 ? resident : 1;
    const double waves = double((tiles + at_once - 1) / at_once);
    const double size = double(layout.facts.width) / 256. * double(layout.facts.slice) / 64. * (layout.depth - 1);
    const double clocks = waves * double(rounds_of(candidates, rows)) *
                          (kClocksFirstRow * (layout.depth - 1) + kClocksMoreRows * size * (rows - 1));
    if (best.rows && clocks >= best.clocks) continue;
    best.kernel = Kernel::latency;
    best.clocks = clocks;
    best.rows = rows;
    best.blocks = int(tiles < at_once ? tiles : at_once) * layout.cluster();
    best.latency = memory;
  }
  best.reason = best.rows ? "latency kernel, " + std::to_string(best.rows) + " rows in a cluster of " +
                                std::to_string(layout.cluster()) + " blocks, fp32"
                          : "the latency kernel needs " + kib(least) + " of shared memory, the device has " +
                                kib(device.shared_bytes) + " per block";
  return best;
}

// The kernel of fewer predicted clocks; `why`, if given, gets a reason for each kernel that was not taken.
inline Choice choose(const Layout& layout, const LatencyLayout& latency_layout, int action_dim, const DeviceTraits& device,
                     int64_t states, int candidates, Only only = {}, std::vector<std::string>* why = nullptr) {
  const bool may_generic = only.kernel != Kernel::latency, may_latency = only.kernel != Kernel::generic;
  const Choice generic =
      may_generic ? choose_generic(layout, action_dim, device, states, candidates, only.rows) : Choice{};
  const Choice latency = may_latency ? choose_latency(latency_layout, device, states, candidates, only.rows) : Choice{};
  const bool take_latency = latency.rows && (!generic.rows || latency.clocks <= generic.clocks);
  const Choice& taken = take_latency || !may_generic ? latency : generic;
  const Choice& left = &taken == &latency ? generic : latency;
  if (why && may_generic && may_latency)
    why->push_back(left.rows ? left.reason + ": slower by prediction (" + std::to_string(int64_t(left.clocks)) + " against " +
                                   std::to_string(int64_t(taken.clocks)) + " clocks an iteration)"
                             : left.reason);
  return taken;
}

}  // namespace dtag::cuda
