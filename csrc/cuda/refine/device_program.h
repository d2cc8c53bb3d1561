// A critic as the CUDA kernels read it: tables of plain structs and one array of numbers, both in device memory. Made by
// layout.cpp, which needs no numbers; the numbers are written on the device (dtag_fast/ops/refine/cuda.py).
#pragma once
#include <cstdint>

#include "refine/activation_kind.h"

namespace dtag::cuda {

// Places in the array of numbers are counted in floats; every matrix starts at a multiple of 4 and has rows padded with
// zeros to a multiple of 4.
//
// A "unit" is one number per row of a tile. Places of units are counted in units, per member: members follow each other, so
// they share the same units.

struct DeviceOp {
  int32_t is_norm;
  Activation kind;
  float p0, p1;           // as in PostOp
  int32_t scale, shift;   // LayerNorm: [width]
  int32_t saved;          // units [width]: slope, or normalised value
  int32_t saved_rstd;     // LayerNorm: one unit, 1 / standard deviation
};

struct DeviceStage {
  int32_t in, out;             // first stage: `in` counts action inputs only
  int32_t in_padded, out_padded;
  int32_t forward;             // [in][out_padded]
  int32_t backward;            // [out][in_padded]
  int32_t bias;                // [out]
  int32_t ops, op_count;       // place in the table of ops; a ReLU at the end is not among them
  int32_t relu;                // ends in a ReLU, whose slope is read off its output
  int32_t value;               // units [out]: the output, later the gradient with respect to it
};

struct DeviceMember {
  int32_t stages, depth;  // place in the table of stages
  int32_t state;          // [state_dim][out_padded of the first stage]
  int32_t base;           // units [out of the first stage] of the folded state, counted over all members
};

struct DeviceProgram {
  const DeviceMember* members;
  const DeviceStage* stages;
  const DeviceOp* ops;
  const float* numbers;
  int32_t state_dim, action_dim, member_count;
  int32_t units;       // of the member with most
  int32_t base_units;  // of all members together
};

}  // namespace dtag::cuda
