// The array of numbers that a kernel reads a critic from, as a list of matrices to be written into it.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "refine/program.h"

namespace dtag::cuda {

constexpr int64_t kMostNumbers = int64_t(1) << 30;  // places are 32-bit

// A matrix [rows][padded] from `offset` (in floats) on, `columns` of each row given, zeros elsewhere. `what` it holds of layer
// `layer` (counted as the caller does, activations included) of member `member`:
//   forward   a Linear's weight transposed, (in, out); of the first layer its action inputs only
//   backward  as it is, (out, in); of the first layer its action inputs from, from + 1, ...
//   state     the first layer's state inputs from, from + 1, ..., transposed
//   inputs    the first layer's action inputs, then as many of its state inputs as there are rows, transposed
//   bias, scale, shift (of a LayerNorm), low, high (bounds of the action)
// numbers: as float32, rounded to bf16, or, as bf16, what that rounding left.
struct Piece {
  enum class Numbers { float32, bf16, bf16_rest };
  const char* what;
  int member, layer;
  int64_t offset;
  int rows, columns, padded;
  Numbers numbers = Numbers::float32;
  int from = 0;
};

struct Pieces {
  std::vector<Piece> list;
  int64_t numbers = 0;  // floats of the array

  // Appends a piece in room for `room_rows` rows of `padded` (a multiple of 4). Throws std::length_error when there is no
  // room left for 32-bit places.
  int32_t add(const char* what, int member, int layer, int rows, int columns, int padded, int room_rows) {
    const int64_t offset = numbers;
    list.push_back({what, member, layer, offset, rows, columns, padded});
    numbers += int64_t(room_rows) * padded;
    if (numbers > kMostNumbers) throw std::length_error("the critic has more than 2^30 weights, counted in both directions");
    return int32_t(offset);
  }
  int32_t add(const char* what, int member, int layer, int rows, int columns) {
    return add(what, member, layer, rows, columns, (columns + 3) / 4 * 4, rows);
  }
};

// Ops of a stage that compute something, without a ReLU at the end, which `relu` tells of.
inline std::vector<const PostOp*> kept_ops(const Stage& stage, bool* relu) {
  std::vector<const PostOp*> kept;
  for (const PostOp& op : stage.post)
    if (op.is_norm || op.kind != Activation::identity) kept.push_back(&op);
  *relu = !kept.empty() && !kept.back()->is_norm && kept.back()->kind == Activation::relu;
  if (*relu) kept.pop_back();
  return kept;
}

inline size_t aligned_to_16(size_t bytes) { return (bytes + 15) / 16 * 16; }

}  // namespace dtag::cuda
