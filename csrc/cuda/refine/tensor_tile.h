// How a block of 8 warps shares the tensor-core products of a tile of rows, and where the tile's numbers lie.
#pragma once
#include "cuda/refine/tile.h"

namespace dtag::cuda {

constexpr int kPanel = 256;                // outputs of a product made at a time, their sums in registers
constexpr int kPanelPitch = kPanel + 8;    // bf16 numbers of a row of a matrix in shared memory; 8 more as in planes
constexpr int kSlotRows = 32;
constexpr int kNarrowOutputs = 16;         // a product of so few divides its rows among warps, not its outputs
constexpr int kNarrowPitch = kNarrowOutputs + 8, kNarrowRows = 256;
constexpr int kSlotBytes = kSlotRows * kPanelPitch * 2;  // rows of a matrix under way, all parts together
constexpr int kSlots = 3;
static_assert(kNarrowRows * kNarrowPitch * 2 <= kSlotBytes);

// parts: bf16 numbers that stand for one: 1, or 2 (its rounded value and what that left).
template <int rows_, int parts_>
struct TensorTile {
  static constexpr int kRows = rows_, kParts = parts_;
  static constexpr int kInputParts = kParts + 1;                // tensor_program.h
  static constexpr int kWarpsDown = kRows > 64 ? kRows / 64 : 1;  // warps that divide the rows; the others divide the panel
  static constexpr int kWarpsAcross = kThreads / 32 / kWarpsDown;
  static constexpr int kRowTiles = kRows / 16 / kWarpsDown;     // of 16 rows, per warp
  static constexpr int kGroups = kPanel / 16 / kWarpsAcross;    // of 16 outputs, per warp at most
};

// What stands in shared memory beside the walk. Offsets in bytes.
struct TensorMemory {
  TileMemory walk;
  uint32_t inputs;   // plane of the first layer's inputs
  uint32_t planes;
  uint32_t slots;    // kSlots * kSlotBytes
  uint32_t clock;    // [2][rows] doubles
  uint32_t bytes;
};

constexpr TensorMemory tensor_memory(int rows, int action_dim, int64_t input_columns, int64_t columns) {
  TensorMemory m{};
  m.walk = tile_memory(rows, action_dim, 0, 0);
  int64_t at = m.walk.bytes;
  const auto take = [&](int64_t bytes) {
    const uint32_t offset = uint32_t(at);
    at += bytes;
    return offset;
  };
  m.inputs = take((input_columns + 8) * rows * 2);
  m.planes = take(columns * rows * 2);
  m.slots = take(kSlots * kSlotBytes);
  m.clock = take(2 * rows * 8);
  m.bytes = at < (int64_t(1) << 31) ? uint32_t(at) : ~uint32_t(0);
  return m;
}

}  // namespace dtag::cuda
