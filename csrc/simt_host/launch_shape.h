// How a launch looks to the machine on the host that stands in for a GPU.
#pragma once
#include "cuda/refine/launch.h"
#include "simt_host/device.h"
#include "simt_host/machine.h"

namespace dtag::cuda {

inline simt::Shape shape_of(const Choice& choice, int cluster, int threads) {
  simt::Shape shape;
  shape.grid = choice.blocks;
  shape.cluster = cluster;
  shape.threads = threads;
  shape.shared_bytes = choice.shared_bytes();
  shape.shared_limit = simt::device().traits.shared_bytes;
  shape.seed = simt::device().seed;
  shape.capability = simt::device().traits.capability;
  return shape;
}

}  // namespace dtag::cuda
