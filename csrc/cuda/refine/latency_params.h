// The latency kernel's shape, memory and parameters. Knows nothing of the GPU: the host lays everything out by it.
#pragma once
#include <cstdint>

#include "refine/activation_kind.h"
#include "refine/params.h"

namespace dtag::cuda {

constexpr int kLatencyThreads = 256, kLatencyWarps = 8;
constexpr int kLatencyRows = 8;      // rows of a group of blocks at most: a warp walks one
constexpr int kLatencyActions = 31;  // a lane walks one dimension; gradient and Q fit one warp
constexpr int kLatencyMembers = 8;
constexpr int kLatencyCluster = 8;  // blocks of a group at most: what every device with clusters grants
constexpr int kLatencyGroup = 16;   // where they meet in global memory

// How many of a warp's rows its registers hold: up to 128 numbers a thread over all matrices, 96 where more would overflow.
constexpr int held_rows(int quads, int rows, int depth) {
  const int room = (depth == 3 && quads == 2 ? 24 : 32) / (quads * (depth - 1));
  return room < rows ? room : rows;
}

// Hidden layers are `128 * quads` wide, padded with zeros; a warp has `rows` rows of each hidden matrix between two of them,
// of which `held` lie in its registers and the others in shared memory; there are `depth` hidden layers.
template <int quads, int rows, int depth>
struct LatencyShape {
  static constexpr int kQuads = quads, kRows = rows, kDepth = depth;
  static constexpr int kWidth = 128 * quads, kSlice = kLatencyWarps * rows;
  static constexpr int kHeld = held_rows(quads, rows, depth);
  static constexpr int64_t kRestFloats = int64_t(kLatencyWarps) * (rows - kHeld) * kWidth;
};

// The shapes that are compiled, smaller ones first. clusters: only in clusters; no device without them has the shared memory.
struct LatencyShapeRule {
  int quads, rows, depth;
  bool clusters;
};
constexpr LatencyShapeRule kLatencyShapes[] = {{1, 8, 2, false}, {1, 8, 3, false},  {2, 4, 2, false},  {2, 4, 3, false},
                                               {2, 8, 2, false}, {2, 8, 3, false},  {2, 16, 2, false}, {2, 16, 3, true},
                                               {4, 8, 2, false}, {4, 8, 3, true},   {4, 16, 2, true}};

// What follows a hidden layer: LayerNorm, or not, then an activation.
struct LatencyOp {
  int32_t norm;          // 0 or 1
  float eps;
  int32_t scale, shift;  // places of [width]
  int32_t width;         // without padding
  Activation kind;
  float p0, p1;
};

// Places in the array of numbers, in floats, all multiples of 4. `width` = kWidth, `slices` blocks share a member.
struct LatencyMember {
  int32_t state;   // [state_dim][width]
  int32_t bias[3];  // [width], [slices * kSlice], [width]
  int32_t action;  // [action_dim][width]
  int32_t second;  // [slices * kSlice][width], W2
  int32_t third;   // [slices * kSlice][width], W3 transposed
  int32_t last;    // output weights, of the last hidden layer's length
  int32_t last_bias;
  LatencyOp op[3];
};

// Offsets in bytes. r: rows of a group.
struct LatencyMemory {
  uint32_t action, start, best, grad, first_moment, second_moment, lr;  // [A][8], as in TileMemory
  uint32_t q, q_first, q_best, steps, alive, best_index, winner_q, winner_cost;
  uint32_t left;      // [8] int32: 0 where row r has ended, else 1 + its number of steps
  uint32_t weights;   // [A][width], first layer
  uint32_t base;      // [r][width], folded state
  uint32_t value;     // [r][width], first hidden layer; later the gradient of the third
  uint32_t slope;     // [r][width], first hidden layer
  uint32_t normal;    // [r][width], first hidden layer normalised, with LayerNorm
  uint32_t slope_3, normal_3;  // the same of the third
  uint32_t q_terms;   // [r][width], what Q is the sum of
  uint32_t slice;     // [r][kSlice], second layer's slice: output, later gradient
  uint32_t slope_2, normal_2;  // [r][kSlice]
  uint32_t part;      // [r][8 warps][width]
  uint32_t sums;      // [8 warps][r][32]
  uint32_t stats;     // [3 layers][8][2]: 1 / standard deviation of a row; means of its backward pass
  uint32_t rest;      // rows of the slices that are not in registers
  uint32_t inbox[4];  // [2][senders][count]
  uint32_t barrier[4];  // [2]
  int32_t count[4];
  int32_t first_word[4], words;  // of a block, in global memory: its inboxes, where blocks meet there
  uint32_t bytes;
};

struct LatencyProgram {
  const float* numbers;
  int32_t state_dim, action_dim, member_count, slices;
  LatencyMember members[kLatencyMembers];
};

// One launch; a member's description comes with the parameters, which are cached where every iteration can read them.
struct LatencyParams {
  LatencyProgram program;
  Settings settings;
  Call call;
  LatencyMemory memory;
  int32_t rows;         // of a group, at most kLatencyRows
  int32_t norm_second;  // some member has LayerNorm after its second layer
  int32_t tiles;        // of `rows` rows or less
  void* workspace;      // [blocks][memory.words] of 8 bytes, all zero, where blocks meet in global memory
};

enum LatencyInbox { kResult, kNormForward, kNormBackward, kThirdLayer };

// What the memory depends on. norm: which hidden layers have LayerNorm, in any member.
struct LatencyFacts {
  int action_dim, width, slice, depth;
  int64_t rest_floats;  // of all matrices
  int members, slices;
  bool norm[3];
};

inline LatencyMemory latency_memory(const LatencyFacts& f, int rows) {
  LatencyMemory m{};
  int64_t at = 0;
  const auto take = [&](int64_t floats) {
    const uint32_t offset = uint32_t(at);
    at += (floats * 4 + 15) / 16 * 16;
    return offset;
  };
  const int64_t dims = int64_t(f.action_dim) * kLatencyRows, wide = int64_t(rows) * f.width, slice = int64_t(rows) * f.slice;
  uint32_t* walks[] = {&m.action, &m.start, &m.best, &m.grad, &m.first_moment, &m.second_moment, &m.lr};
  for (uint32_t* array : walks) *array = take(dims);
  uint32_t* units[] = {&m.q, &m.q_first, &m.q_best, &m.steps, &m.alive, &m.best_index, &m.winner_q, &m.winner_cost, &m.left};
  for (uint32_t* array : units) *array = take(kLatencyRows);
  m.weights = take(int64_t(f.action_dim) * f.width);
  m.base = take(wide);
  m.value = take(wide);
  m.slope = take(wide);
  m.normal = take(f.norm[0] ? wide : 0);
  m.slope_3 = take(f.depth == 3 ? wide : 0);
  m.normal_3 = take(f.norm[2] ? wide : 0);
  m.q_terms = take(wide);
  m.slice = take(slice);
  m.slope_2 = take(slice);
  m.normal_2 = take(f.norm[1] ? slice : 0);
  m.part = take(wide * kLatencyWarps);
  m.sums = take(int64_t(kLatencyWarps) * rows * 32);
  m.stats = take(3 * kLatencyRows * 2);
  m.rest = take(f.rest_floats);
  for (int which : {kResult, kNormForward, kNormBackward, kThirdLayer}) {
    const bool used = which == kResult || (which == kThirdLayer ? f.depth == 3 : f.norm[1]);
    if (!used) continue;
    const int64_t senders = which == kResult ? f.members * f.slices : f.slices;
    m.count[which] = which == kResult ? rows * (f.action_dim + 1) : which == kThirdLayer ? rows * f.width : rows * 2;
    m.inbox[which] = take(2 * senders * m.count[which]);
    m.barrier[which] = take(4);
    m.first_word[which] = m.words;
    m.words += int32_t((2 * senders * m.count[which] + 15) / 16 * 16);  // lines of 128 bytes
  }
  m.bytes = at < (int64_t(1) << 31) ? uint32_t(at) : ~uint32_t(0);
  return m;
}

}  // namespace dtag::cuda
