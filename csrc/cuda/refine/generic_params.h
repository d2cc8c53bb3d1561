#pragma once
#include "cuda/refine/device_program.h"
#include "cuda/refine/tile.h"
#include "refine/params.h"

namespace dtag::cuda {

// One launch of the generic kernel; arrays of `call` and bounds of `settings` in device memory. With call.row_steps,
// call.steps is the length of the traces less one, or the largest int32 without traces.
struct GenericParams {
  DeviceProgram program;
  Settings settings;
  Call call;
  TileMemory memory;
  const Settings* variants;  // [variant_count] in device memory, their bounds too; null: all rows have `settings`
  int32_t variant_count;
  float* folded;  // [blocks][base_units][rows]: the state's share of the first layers
};

}  // namespace dtag::cuda
