// Where everything of a critic lies in the tensor-core kernels' memory. Knows the program's structure, not its numbers.
#pragma once
#include <string>
#include <vector>

#include "cuda/refine/pieces.h"
#include "cuda/refine/tensor_program.h"
#include "refine/program.h"

namespace dtag::cuda {

struct TensorLayout {
  std::vector<TensorMember> members;
  std::vector<TensorStage> stages;
  std::vector<TensorOp> ops;
  std::vector<TensorMatrix> stream;
  Pieces pieces;
  int64_t columns = 0, base_panels = 0;
  int parts = 1;
  int input_columns = 0;
  bool fold = false;
  double work = 0.;        // inputs times outputs of one evaluation's products, padded, per row
  double stream_bytes = 0.;  // of its matrices
  std::string refusal;  // why no tile can run it, or empty

  // parts: as TensorTile. fold: the states have a product of their own. Throws std::length_error for a critic whose places
  // do not fit 31 bits.
  TensorLayout() = default;
  TensorLayout(const Program& program, bool bounded, int parts, bool fold);

  // The four tables in one block of bytes, each at a multiple of 16.
  std::vector<unsigned char> tables() const;
  TensorProgram program(const unsigned char* tables, const float* numbers) const;
  int32_t low = -1, high = -1;  // places of the bounds

 private:
  int state_dim_ = 0, action_dim_ = 0, inputs_ = 0, slab_ = 0, fold_matrices_ = 0;
  int32_t add_floats(const char* what, int member, int layer, int count);
  int32_t add_matrix(const char* what, int member, int layer, int rows, int columns, int from = 0);
  int32_t add_inputs(const char* what, int member, int rows, int columns, int from);
  int64_t take(int64_t floats);
  void add_stream(int32_t place, int inputs, int outputs, int matrix_parts, bool narrow, bool gradient);
};

}  // namespace dtag::cuda
