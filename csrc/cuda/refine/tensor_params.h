#pragma once
#include "cuda/refine/tensor_program.h"
#include "cuda/refine/tensor_tile.h"
#include "refine/params.h"

namespace dtag::cuda {

// One launch of a tensor-core kernel; the rest as in GenericParams.
struct TensorParams {
  TensorProgram program;
  Settings settings;
  Call call;
  TensorMemory memory;
  int32_t tiles;  // of 32 rows or more: no memory has 2^31 of them
  float* folded;  // [blocks][base_panels][256][rows]: the state's share of the first layers, as the warps' registers hold it
};

}  // namespace dtag::cuda
