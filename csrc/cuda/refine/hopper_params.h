// The Hopper kernel's shape, memory and parameters. Knows nothing of the GPU: the host lays everything out by it.
#pragma once
#include <cstdint>

#include "cuda/refine/tile.h"
#include "refine/activation_kind.h"
#include "refine/params.h"

namespace dtag::cuda {

constexpr int kHopperGroupThreads = 128;  // of a warpgroup
constexpr int kHopperRows = 64;        // it carries: what its products take
constexpr int kHopperGroups = 2;       // warpgroups of a block at most
constexpr int kHopperCluster = 8;      // blocks at most, one per member
constexpr int kHopperInputs = 64;      // of the first layer, at most
constexpr int kHopperActions = 32;

// Both hidden layers are `width` wide, padded with zeros, and end in the same activation.
template <int width, Activation kind_>
struct HopperShape {
  static constexpr int kWidth = width;
  static constexpr Activation kKind = kind_;
};

// Places in the array of numbers, in floats, all multiples of 4.
struct HopperMember {
  int32_t state;      // [state_dim][width]
  int32_t action;     // [action_dim][width]
  int32_t bias[2];    // [width]
  int32_t hidden;     // [width][width] bf16: a row for each unit of the second layer
  int32_t head;       // [width]
  int32_t head_bias;
  float p0[2], p1[2];  // of the activations, as in PostOp
};

// The inputs of the first layer: the action, the state, and two ones, which meet the bias and what rounding it to bf16 left.
// Rows of a plane hold them rounded to bf16 and then, for the same columns of the matrix, what that rounding left of each.
constexpr int hopper_inputs(int state_dim, int action_dim) { return action_dim + state_dim + 2; }

// What one warpgroup has for itself. Offsets in bytes.
struct HopperGroup {
  TileMemory walk;
  uint32_t inputs;   // [64][2 parts, 16 * steps each, + 8] bf16
  uint32_t slopes;   // of the first layer, as the threads hold its sums: [width / 4][128] pairs of bf16; ReLU: [width / 64][128] bits
  uint32_t clock;    // [2][64] doubles
  uint32_t inbox;    // [2][members][action_dim + 1][64]
  uint32_t barrier;  // [2]
};

struct HopperMemory {
  uint32_t hidden;   // [width][width] bf16 for both directions, swizzled (cuda/warpgroup.h)
  uint32_t first;    // [width][64] bf16, swizzled; its first columns, the action's, also for the gradient
  uint32_t bias, head;  // [width]
  HopperGroup group[kHopperGroups];
  uint32_t bytes;
};

// What the memory depends on.
struct HopperFacts {
  int state_dim = 0, action_dim = 0, width = 0, members = 0;
  bool slopes = false;
};

constexpr HopperMemory hopper_memory(const HopperFacts& f, int groups) {
  HopperMemory m{};
  int64_t at = 0;
  const auto take = [&](int64_t bytes) {
    const uint32_t offset = uint32_t(at);
    at += (bytes + 15) / 16 * 16;
    return offset;
  };
  const int steps = (hopper_inputs(f.state_dim, f.action_dim) + 15) / 16;
  // First, since their starts are multiples of 1024 bytes.
  m.hidden = take(int64_t(f.width) * f.width * 2);
  m.first = take(int64_t(f.width) * kHopperInputs * 2);
  m.bias = take(f.width * 4);
  m.head = take(f.width * 4);
  for (int g = 0; g < groups; ++g) {
    HopperGroup& group = m.group[g];
    group.walk = tile_memory(kHopperRows, f.action_dim, 0, 0, uint32_t(at));
    at = group.walk.bytes;
    group.inputs = take(int64_t(kHopperRows) * (2 * 16 * steps + 8) * 2);
    group.slopes = take(int64_t(f.width) * kHopperRows * 2 / (f.slopes ? 1 : 16));
    group.clock = take(2 * kHopperRows * 8);
    group.inbox = take(int64_t(2) * f.members * (f.action_dim + 1) * kHopperRows * 4);
    group.barrier = take(16);
  }
  m.bytes = at < (int64_t(1) << 31) ? uint32_t(at) : ~uint32_t(0);
  return m;
}

struct HopperProgram {
  const float* numbers;
  int32_t state_dim, action_dim, member_count, input_steps;
  HopperMember members[kHopperCluster];
};

struct HopperParams {
  HopperProgram program;
  Settings settings;
  Call call;
  HopperMemory memory;
  int32_t groups;  // warpgroups of a block
  int32_t tiles;   // of 64 rows or less
};

}  // namespace dtag::cuda
