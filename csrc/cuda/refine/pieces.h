// The array of numbers that a kernel reads a critic from, as a list of matrices to be written into it.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <vector>

namespace dtag::cuda {

constexpr int64_t kMostNumbers = int64_t(1) << 30;  // places are 32-bit

// [rows][padded] floats from `offset` on, `columns` of each row given, zeros elsewhere. What it is made of: layer `layer`
// (counted as the caller does, activations included) of member `member`.
struct Piece {
  enum class What {
    forward,   // a Linear's weight transposed, (in, out); of the first layer its action inputs only
    backward,  // as it is, (out, in); of the first layer its action inputs only
    state,     // the first layer's state inputs, transposed
    bias,
    scale,     // LayerNorm
    shift,
    low,  // bounds of the action
    high
  };
  What what;
  int member, layer;
  int64_t offset;
  int rows, columns, padded;
};

struct Pieces {
  std::vector<Piece> list;
  int64_t numbers = 0;  // floats of the array

  // Appends a piece in room for `room_rows` rows of `padded` (a multiple of 4). Throws std::length_error when there is no
  // room left for 32-bit places.
  int32_t add(Piece::What what, int member, int layer, int rows, int columns, int padded, int room_rows) {
    const int64_t offset = numbers;
    list.push_back({what, member, layer, offset, rows, columns, padded});
    numbers += int64_t(room_rows) * padded;
    if (numbers > kMostNumbers) throw std::length_error("the critic has more than 2^30 weights, counted in both directions");
    return int32_t(offset);
  }
  int32_t add(Piece::What what, int member, int layer, int rows, int columns) {
    return add(what, member, layer, rows, columns, (columns + 3) / 4 * 4, rows);
  }
};

}  // namespace dtag::cuda
