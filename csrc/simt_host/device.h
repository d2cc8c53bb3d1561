// The GPU that the host stands in for.
#pragma once
#include <cstdint>

#include "cuda/refine/heuristics.h"

namespace dtag::simt {

struct Device {
  cuda::DeviceTraits traits;
  uint64_t seed = 0;  // order of warps and lanes (machine.h)
};
Device& device();

}  // namespace dtag::simt
