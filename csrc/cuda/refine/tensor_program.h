// A critic as the tensor-core kernels read it: tables of plain structs and one array of numbers, both in device memory. Made
// by tensor_layout.cpp.
#pragma once
#include <cstdint>

#include "refine/activation_kind.h"

namespace dtag::cuda {

// Places in the array of numbers are counted in floats. Matrices are bf16, [inputs][outputs], both padded with zeros to a
// multiple of 16; with two parts, the matrix of what rounding left follows. Each hidden matrix stands there for both
// directions: streamed from the L2 cache, a second copy costs no time, and every product reads its matrix the same way.
//
// A "plane" holds bf16 numbers of the rows of a tile, [row][width padded to 16, + 8]: the 8 more make ldmatrix free of bank
// conflicts. With two parts, the plane of what rounding left follows. Places of planes are counted in columns, per member:
// members take turns and share the same memory.

struct TensorOp {
  int32_t is_norm;
  Activation kind;
  float p0, p1;          // as in PostOp
  int32_t scale, shift;  // LayerNorm: [width] floats
  int32_t saved;         // plane: slope, or normalised value
  int32_t saved_rstd;    // LayerNorm: one float per row in two columns, 1 / standard deviation
};

// A hidden layer. `in` and `out` are padded, `width` is what the caller calls out.
struct TensorStage {
  int32_t in, out, width;
  int32_t forward;        // [in][out]; the first layer: of its inputs as below
  int32_t backward;       // [out][in]; not of the first layer
  int32_t bias;           // [out] floats
  int32_t ops, op_count;  // place in the table of ops; a ReLU at the end is not among them
  int32_t relu;           // ends in a ReLU, whose slope is read off its output
  int32_t value;          // plane: the output, later the gradient with respect to it
};

// The first layer's inputs come in parts that together are nearly exact: the numbers rounded to bf16, what that left, and
// with matrices of two parts the rounded numbers again, which meet what rounding left of the matrix. All are columns of one
// plane, part by part, so that one product takes them all. An input is a dimension of the action or, after these, of the
// state; with `fold`, the states have a product of their own, made once and added to each iterate's.
struct TensorMember {
  int32_t stages, depth;  // place in the table of stages; hidden layers
  int32_t head;           // [out of the last stage] floats: the weights of the output
  int32_t head_bias;      // one float
  int32_t state;          // with fold: matrices of the slabs of states, one after the other
  int32_t base;           // with fold: panels (tensor_tile.h) of the folded states of the members before
};

// A matrix as it streams through shared memory.
struct TensorMatrix {
  int32_t place, inputs, outputs;
  int32_t parts;
  int32_t narrow;    // of 16 of the action's dimensions, as the narrow product takes them
  int32_t gradient;  // left out of evaluations without gradient
};

struct TensorProgram {
  const TensorMember* members;
  const TensorStage* stages;
  const TensorOp* ops;
  const TensorMatrix* stream;  // first those that fold the states, then those of one evaluation
  const float* numbers;
  int32_t fold_matrices, stream_matrices;  // of the former; of both
  int32_t state_dim, action_dim, member_count;
  int32_t fold, slab;      // slab: states folded at a time
  int32_t inputs;          // of the first layer: A or A + S
  int32_t input_columns;   // of their plane, without the 8
  int32_t columns;         // of all planes of the member with most
  int32_t base_panels;     // of all members together
};

}  // namespace dtag::cuda
