// Which kernel runs a call, and how: the one place where it is decided. Every number here is a prediction from the machine's
// data sheet until docs/performance-notes.md names a measurement.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "cuda/refine/hopper_layout.h"
#include "cuda/refine/latency_layout.h"
#include "cuda/refine/layout.h"
#include "cuda/refine/tensor_layout.h"
#include "cuda/refine/tensor_tile.h"
#include "cuda/refine/tile.h"

namespace dtag::cuda {

struct DeviceTraits {
  int capability = 80;           // 10 * major + minor
  int multiprocessors = 108;
  int64_t shared_bytes = 166912;  // dynamic shared memory that one block can have
  bool clusters = true;           // the build has code with clusters for it; nothing below capability 9.0 has any
  bool hopper = true;             // the build has the Hopper kernel for it; nothing but capability 9.0 can have it
  bool cooperative = true;        // it can be made to run all blocks of a launch together

  bool has_clusters() const { return clusters && capability >= 90; }
};

enum class Kernel { none, generic, latency, tensor, hopper };
constexpr const char* kKernelNames[] = {"none", "generic", "latency", "tensor", "hopper"};
constexpr const char* name_of(Kernel kernel) { return kKernelNames[int(kernel)]; }

struct Choice {
  Kernel kernel = Kernel::none;
  int rows = 0;    // of a tile, or of a group of blocks (latency kernel)
  int blocks = 0;  // of the grid
  int64_t tiles = 0;
  int parts = 1;   // tensor kernel: TensorTile
  int64_t folded_floats = 0;  // global memory for the folded states
  int64_t workspace_bytes = 0;  // global memory where the latency kernel's blocks meet, 0: in clusters
  double clocks = 0.;         // predicted, per iteration
  TileMemory tile{};
  LatencyMemory latency{};
  TensorMemory tensor{};
  HopperMemory hopper{};
  std::string reason;  // how it runs, or why it cannot

  uint32_t shared_bytes() const {
    switch (kernel) {
      case Kernel::latency: return latency.bytes;
      case Kernel::tensor: return tensor.bytes;
      case Kernel::hopper: return hopper.bytes;
      default: return tile.bytes;
    }
  }
};

// What a caller may insist on: one kernel, one number of rows; none and 0 for the rule.
struct Only {
  Kernel kernel = Kernel::none;
  int rows = 0;
};

struct TileRule {
  int rows;
  int scratch_floats;
  double efficiency;  // share of the multiprocessor's multiply-adds
};
constexpr TileRule kTileRules[] = {{64, Tile64::kScratchFloats, 0.75},
                                   {32, Tile32::kScratchFloats, 0.60},
                                   {16, Tile16::kScratchFloats, 0.55},
                                   {8, Tile8::kScratchFloats, 0.50},
                                   {4, Tile4::kScratchFloats, 0.45}};
// Weights from the L2 cache into one multiprocessor: what it can take alone, and its share where all of them read.
inline double streamed_bytes_per_clock(int blocks) {
  const double share = 27. * 132. / blocks;
  return share < 48. ? share : 48.;
}
// Multiply-adds in float32.
inline double fma_per_clock(int capability) { return capability == 80 ? 64. : 128.; }
constexpr double kClocksPerLayer = 1500.;       // barriers, narrow products, the walk
// Latency kernel, per product of a hidden layer: the chain of everything but the product; for every further row of a group
// and the standard slice of 64 x 256, that too; the product itself.
constexpr double kClocksChain = 1650., kClocksMoreRows = 500., kClocksSlice = 250.;
constexpr double kClocksGlobalMeeting = 800.;  // more for an exchange through the L2 cache than within a cluster
constexpr double kSharedBytesPerClock = 128.;
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
    const double multiply = 2. * double(layout.weights) * rule.rows / (fma_per_clock(device.capability) * rule.efficiency);
    const int blocks = int(tiles < device.multiprocessors ? tiles : device.multiprocessors);
    const double stream = 2. * 4. * double(layout.weights) / streamed_bytes_per_clock(blocks);
    const double clocks = waves * double(rounds_of(candidates, rule.rows)) *
                          ((multiply > stream ? multiply : stream) + kClocksPerLayer * double(layout.stages.size()));
    if (best.rows && clocks >= best.clocks) continue;
    best.kernel = Kernel::generic;
    best.clocks = clocks;
    best.rows = rule.rows;
    best.blocks = blocks;
    best.tile = memory;
    best.folded_floats = int64_t(best.blocks) * layout.base_units * rule.rows;
  }
  best.reason = best.rows ? "generic kernel, tiles of " + std::to_string(best.rows) + " rows, fp32"
                          : "the generic kernel's smallest tile needs " + kib(least) +
                                " of shared memory, the device has " + kib(device.shared_bytes) + " per block";
  return best;
}

// Clusters lie within one of the chip's processing clusters, whose sizes leave some blocks over.
inline int resident_clusters(int multiprocessors, int blocks) {
  const int clusters = blocks <= 2 ? multiprocessors / blocks : multiprocessors / blocks * 15 / 16;
  return clusters > 0 ? clusters : 1;
}

inline Choice choose_latency(const LatencyLayout& layout, const DeviceTraits& device, int64_t states, int candidates,
                             int only_rows) {
  Choice best;
  const bool clusters = device.has_clusters();
  if (!layout.refusal.empty()) {
    best.reason = "the latency kernel: " + layout.refusal;
    return best;
  }
  if (!clusters && !device.cooperative) {
    best.reason = "the latency kernel needs clusters (compute capability 9.0) or cooperative launches, the device has neither";
    return best;
  }
  const int group = layout.group();
  const int resident = clusters ? resident_clusters(device.multiprocessors, group) : device.multiprocessors / group;
  if (!clusters && !resident) {
    best.reason = "the latency kernel needs " + std::to_string(group) + " multiprocessors at once, the device has " +
                  std::to_string(device.multiprocessors);
    return best;
  }
  int64_t least = 0;
  for (const int rows : kLatencyRowRules) {
    if (only_rows && rows != only_rows) continue;
    const LatencyMemory memory = latency_memory(layout.facts, rows);
    if (!least) least = memory.bytes;
    if (memory.bytes > device.shared_bytes) continue;
    const int64_t tiles = tiles_of(states, candidates, rows);
    if (tiles > INT32_MAX) continue;  // it counts them in 32 bits
    const int64_t at_once = resident;
    const double waves = double((tiles + at_once - 1) / at_once);
    const double size = double(layout.facts.width) / 256. * double(layout.facts.slice) / 64. * (layout.depth - 1);
    const int meetings = layout.depth - 1 + (layout.facts.norm[1] ? 2 : 0);
    // What registers do not hold is read twice an iteration.
    const double product = kClocksSlice * size * 128. / fma_per_clock(device.capability) +
                           2. * 4. * double(layout.facts.rest_floats) / kSharedBytesPerClock;
    const double clocks = waves * double(rounds_of(candidates, rows)) *
                          (kClocksChain * (layout.depth - 1) + kClocksMoreRows * size * (rows - 1) + product * rows +
                           (clusters ? 0. : kClocksGlobalMeeting * meetings));
    if (best.rows && clocks >= best.clocks) continue;
    best.kernel = Kernel::latency;
    best.clocks = clocks;
    best.rows = rows;
    best.blocks = int(tiles < at_once ? tiles : at_once) * group;
    best.latency = memory;
    best.tiles = tiles;
    best.workspace_bytes = clusters ? 0 : int64_t(best.blocks) * memory.words * 8;
  }
  const std::string blocks = std::to_string(group) + " blocks";
  const std::string where = clusters ? "cluster of " + blocks : "group of " + blocks + " that meet in global memory";
  best.reason = best.rows ? "latency kernel, " + std::to_string(best.rows) + " rows in a " + where + ", fp32"
                          : "the latency kernel needs " + kib(least) + " of shared memory, the device has " +
                                kib(device.shared_bytes) + " per block";
  return best;
}

constexpr int kTensorRows[] = {128, 64, 32};
constexpr int kTensorSmallest = 32;
// Clocks of mma.sync per multiply-add, 8 warps: 63 % of the tensor cores' peak on 9.0 and later, which other instructions
// reach; about 90 % of it on 8.0 (2048 FLOP a clock) and on 8.6 and 8.9, where float32 sums halve it (512).
inline double mma_clocks(int capability) { return 2. / (capability >= 90 ? 2680. : capability == 80 ? 1850. : 460.); }
constexpr double kClocksPerStage = 1200.;        // what follows a product: its sums stored, masked, read again

// Two parts of 128 rows need more registers for operands than sums leave.
constexpr bool tensor_tile_exists(int rows, int parts) { return parts == 1 || rows <= 64; }

inline int64_t tensor_bytes(const TensorLayout& layout, int action_dim, int rows) {
  return tensor_memory(rows, action_dim, layout.input_columns, layout.columns).bytes;
}

// The largest tile that fits, or 0.
inline int largest_tensor_tile(const TensorLayout& layout, int action_dim, const DeviceTraits& device) {
  for (int rows : kTensorRows)
    if (tensor_tile_exists(rows, layout.parts) && tensor_bytes(layout, action_dim, rows) <= device.shared_bytes) return rows;
  return 0;
}

// States of few dimensions are multiplied again at every iterate, which costs less than reading their float32 share of the
// first layer from the L2 cache; unless their columns cost the larger tile.
constexpr int kMostUnfoldedInputs = 32;
inline TensorLayout tensor_layout(const Program& program, bool bounded, int parts, const DeviceTraits& device) {
  TensorLayout folded(program, bounded, parts, true);
  if (program.state_dim + program.action_dim > kMostUnfoldedInputs) return folded;
  TensorLayout whole(program, bounded, parts, false);
  const int dims = program.action_dim;
  return largest_tensor_tile(whole, dims, device) < largest_tensor_tile(folded, dims, device) ? folded : whole;
}

inline Choice choose_tensor(const TensorLayout& layout, int action_dim, const DeviceTraits& device, int64_t states,
                            int candidates, int only_rows) {
  Choice best;
  best.parts = layout.parts;
  best.reason = "the tensor kernel: " + layout.refusal;
  if (!layout.refusal.empty()) return best;
  for (int rows : kTensorRows) {
    if ((only_rows && rows != only_rows) || !tensor_tile_exists(rows, layout.parts)) continue;
    const TensorMemory memory = tensor_memory(rows, action_dim, layout.input_columns, layout.columns);
    if (memory.bytes > device.shared_bytes) continue;
    const int64_t tiles = tiles_of(states, candidates, rows);
    const int64_t rounds = rounds_of(candidates, rows);
    const double waves = double((tiles + device.multiprocessors - 1) / device.multiprocessors);
    // A warp's operands per product: its rows and its outputs, from shared memory; `work` counts three products for two parts.
    const int down = rows > 64 ? rows / 64 : 1, across = 8 / down;
    const double each = layout.parts == 2 ? 2. / 3. : 1.;
    const double multiply = layout.work * rows * mma_clocks(device.capability);
    const double shared = layout.work * each * 2. * (across * double(rows) + (down + 1) * double(kPanel)) / kPanel /
                          kSharedBytesPerClock;
    const int blocks = int(tiles < device.multiprocessors ? tiles : device.multiprocessors);
    const double streamed = layout.stream_bytes / streamed_bytes_per_clock(blocks);
    double clocks = multiply > shared ? multiply : shared;
    if (streamed > clocks) clocks = streamed;
    const double clocks_of_all = waves * double(rounds) *
                        (clocks + kClocksPerStage * 2. * double(layout.stages.size()) * (rows / 128. + 0.25));
    if (best.rows && clocks_of_all >= best.clocks) continue;
    best.clocks = clocks_of_all;
    best.kernel = Kernel::tensor;
    best.rows = rows;
    best.tiles = tiles;
    best.blocks = blocks;
    best.tensor = memory;
    best.folded_floats = layout.fold ? int64_t(best.blocks) * layout.base_panels * kPanel * rows : 0;
  }
  if (best.rows) {
    best.reason = "tensor kernel, tiles of " + std::to_string(best.rows) + " rows, " + (layout.parts == 2 ? "bf16x3" : "bf16");
    return best;
  }
  const int rows = only_rows ? only_rows : kTensorSmallest;
  best.reason = tensor_tile_exists(rows, layout.parts)
                    ? "the tensor kernel's tile of " + std::to_string(rows) + " rows needs " +
                          kib(tensor_bytes(layout, action_dim, rows)) + " of shared memory, the device has " +
                          kib(device.shared_bytes) + " per block"
                    : "the tensor kernel has no tiles of " + std::to_string(rows) + " rows";
  return best;
}

constexpr double kClocksHopperWalk = 1200.;  // exchange and walk, of which nothing runs beside the same rows' products

// Clocks of one iteration of 64 rows in one block: its products, and the arithmetic between them.
struct HopperClocks {
  double products, between;
};
inline HopperClocks hopper_clocks(const HopperLayout& layout) {
  const double width = layout.facts.width, each = width / 2. + 1.;  // of m64nNk16
  const double narrow = width / 16. * 10. * double((layout.facts.action_dim + 15) / 16) + 60.;
  return {(2. * layout.input_steps() + width / 8.) * each + narrow, (layout.facts.slopes ? 24. : 7.) * width};
}

inline Choice choose_hopper(const HopperLayout& layout, const DeviceTraits& device, int64_t states, int candidates, int only_rows) {
  Choice best;
  if (device.capability != 90) {
    best.reason = "the Hopper kernel needs compute capability 9.0 (products of a warpgroup), the device has " +
                  std::to_string(device.capability / 10) + "." + std::to_string(device.capability % 10);
    return best;
  }
  if (!device.hopper) {
    best.reason = "the Hopper kernel was not compiled for this device (90a in CMAKE_CUDA_ARCHITECTURES)";
    return best;
  }
  if (!layout.refusal.empty()) {
    best.reason = "the Hopper kernel: " + layout.refusal;
    return best;
  }
  const int64_t tiles = tiles_of(states, candidates, kHopperRows);
  const HopperClocks of = hopper_clocks(layout);
  const double chain = of.products + of.between + kClocksHopperWalk;
  for (int groups = 1; groups <= kHopperGroups; ++groups) {
    if (only_rows && groups * kHopperRows != only_rows) continue;
    const HopperMemory memory = hopper_memory(layout.facts, groups);
    if (memory.bytes > device.shared_bytes) continue;
    const int64_t resident = resident_clusters(device.multiprocessors, layout.facts.members);
    const int64_t clusters = tiles < resident ? tiles : resident;
    const double waves = double((tiles + clusters * groups - 1) / (clusters * groups));
    const double together = 1.05 * groups * of.products;
    const double clocks = waves * double(rounds_of(candidates, kHopperRows)) * (together > chain ? together : chain);
    if (best.rows && clocks >= best.clocks) continue;
    best.kernel = Kernel::hopper;
    best.clocks = clocks;
    best.rows = groups * kHopperRows;
    best.blocks = int(clusters) * layout.facts.members;
    best.tiles = tiles;
    best.hopper = memory;
  }
  best.reason = best.rows ? "Hopper kernel, " + std::to_string(best.rows) + " rows in a cluster of " +
                                std::to_string(layout.facts.members) + " blocks, bf16"
                : only_rows && only_rows != kHopperRows && only_rows != 2 * kHopperRows
                    ? "the Hopper kernel has no tiles of " + std::to_string(only_rows) + " rows"
                    : "the Hopper kernel needs " +
                          kib(hopper_memory(layout.facts, only_rows == 2 * kHopperRows ? 2 : 1).bytes) +
                          " of shared memory, the device has " + kib(device.shared_bytes) + " per block";
  return best;
}

// A critic in the forms of all kernels. tensor: null when float32 was asked for; hopper: null unless bf16 was.
struct Layouts {
  const Layout& generic;
  const LatencyLayout& latency;
  const TensorLayout* tensor;
  const HopperLayout* hopper;
};

// The kernel of fewest predicted clocks; `why`, if given, gets a reason for each kernel that was not taken. mixed: rows have
// settings of their own.
inline Choice choose(const Layouts& layouts, int action_dim, const DeviceTraits& device, int64_t states, int candidates,
                     Only only = {}, std::vector<std::string>* why = nullptr, bool mixed = false) {
  if (mixed) {
    const std::string others = "the latency, tensor and Hopper kernels refine rows of one variant";
    if (only.kernel == Kernel::none || only.kernel == Kernel::generic) {
      if (why) why->push_back(others);
      return choose_generic(layouts.generic, action_dim, device, states, candidates, only.rows);
    }
    Choice none;
    none.reason = others;
    return none;
  }
  const auto may = [&](Kernel kernel) { return only.kernel == Kernel::none || only.kernel == kernel; };
  std::vector<Choice> choices;
  if (may(Kernel::latency)) choices.push_back(choose_latency(layouts.latency, device, states, candidates, only.rows));
  if (may(Kernel::tensor) && layouts.tensor)
    choices.push_back(choose_tensor(*layouts.tensor, action_dim, device, states, candidates, only.rows));
  if (may(Kernel::hopper) && layouts.hopper)
    choices.push_back(choose_hopper(*layouts.hopper, device, states, candidates, only.rows));
  if (may(Kernel::generic))
    choices.push_back(choose_generic(layouts.generic, action_dim, device, states, candidates, only.rows));
  if (choices.empty()) {
    Choice none;
    none.reason = only.kernel == Kernel::hopper ? "the Hopper kernel computes in bf16, more was asked for"
                                                : "the tensor kernel computes in bf16 or bf16x3, fp32 was asked for";
    return none;
  }
  size_t taken = choices.size() - 1;
  for (size_t i = 0; i < choices.size(); ++i)
    if (choices[i].rows && (!choices[taken].rows || choices[i].clocks < choices[taken].clocks)) taken = i;
  for (size_t i = 0; why && i < choices.size(); ++i) {
    if (i == taken) continue;
    const Choice& c = choices[i];
    why->push_back(c.rows ? c.reason + ": slower by prediction (" + std::to_string(int64_t(c.clocks)) + " against " +
                                std::to_string(int64_t(choices[taken].clocks)) + " clocks an iteration)"
                          : c.reason);
  }
  return choices[taken];
}

}  // namespace dtag::cuda
