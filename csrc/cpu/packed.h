// Weights in the order the kernels read them, and where each intermediate lives in scratch. Built once per set of
// weights by pack.cpp (plain C++, no instruction set of its own) and only read afterwards. Plain structs: the
// translation units of wider instruction sets include this, and must share no inline function with the others.
#pragma once
#include <cstdint>

#include "refine/activation_kind.h"

namespace dtag {

// What a kernel wants of its packing; one constant per instruction set.
struct Geometry {
  int lanes = 4;        // floats in a vector
  int panel = 8;        // row kernel: accumulator vectors, a panel is panel * lanes columns wide
  int block = 6;        // tile kernel: outputs computed together
  int vectors = 2;      // tile kernel: row vectors computed together; a strip is vectors * lanes rows
  bool bf16_dot = false;  // tile kernel: has a bf16 dot product
  bool tiles = false;     // tile kernel: and that is one of tile registers
};

// A matrix for products with one vector. Columns are cut into panels of up to `panel` vectors (then halves of it, to
// one vector); in a panel the rows follow each other. Column count is padded with zeros.
//   float32: panel p, row r: width(p) floats.  bf16: width(p) bf16, in groups of 2 * lanes columns where word i
//   holds column i below and column lanes + i above.
struct RowMatrix {
  int rows = 0, cols = 0, padded = 0;
  bool bf16 = false;
  const void* data = nullptr;
};

// A matrix for products with a strip of rows (samples). Outputs are cut into blocks of `block`, the last one
// narrower; in a block, for each input k (bf16: pair of inputs), the weights of the block's outputs follow each other.
// With tiles a bf16 matrix is cut into tiles of 16 outputs and 32 inputs, zeros behind the last of both; those of the same
// outputs follow each other, a tile's rows are outputs.
struct BlockMatrix {
  int in = 0, out = 0;
  bool bf16 = false;
  const void* data = nullptr;
};

struct PackedOp {
  bool is_norm = false;
  Activation kind = Activation::identity;
  float p0 = 0.f, p1 = 0.f;
  const float *scale = nullptr, *shift = nullptr;  // LayerNorm, zero-padded
  bool in_place = false;  // ReLU at the end of a stage: its derivative is read off its output, nothing is saved
  int64_t saved = -1;     // slope or normalised value, [width]; offset in units (see Layout)
  int64_t saved_rstd = -1;  // LayerNorm: 1 / standard deviation, one unit
};

struct PackedStage {
  int in = 0, out = 0;  // first stage: `in` counts action inputs only
  const float* bias = nullptr;
  bool skip_in = false;   // inputs are ReLU outputs and weights are finite: zero inputs may be skipped
  const PackedOp* ops = nullptr;
  int op_count = 0;
  int64_t value = 0;  // outputs after the post-ops, [out]; offset in units
  // Row kernel, one of the two: `by_input` has a row per input, `by_output`, for a few outputs, a row per output.
  RowMatrix by_input, by_output;
  // Tile kernel.
  BlockMatrix forward, backward;
};

struct PackedMember {
  const PackedStage* stages = nullptr;
  int depth = 0;
  RowMatrix state_rows;      // row kernel: a row per state dimension
  BlockMatrix state_blocks;  // tile kernel
  int64_t base = 0;          // folded state: bias + W_state @ s, [width of stage 0]; offset in units
  int64_t saved_units = 0;   // units that a compacted copy of everything saved would take
};

// Everything a kernel needs. A "unit" is one number per row; padded to whole vectors in the row kernel, where a unit
// array of width w takes round_up(w, 2 * lanes) floats; in the tile kernel it takes w floats per row.
struct Packed {
  Geometry geometry;
  int state_dim = 0, action_dim = 0, max_width = 0;
  const PackedMember* members = nullptr;
  int member_count = 0;
  int64_t units = 0;            // of all members together
  int64_t max_saved_units = 0;
};

}  // namespace dtag
