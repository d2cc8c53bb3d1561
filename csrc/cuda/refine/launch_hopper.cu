// For compute capability 9.0a alone: products of a warpgroup.
#include "cuda/refine/cuda_calls.h"
#include "cuda/refine/launch.h"
#ifndef DTAG_NO_HOPPER  // its words are unknown to other devices
#include "cuda/refine/hopper_kernel.h"
#endif

namespace dtag::cuda {

#ifdef DTAG_NO_HOPPER  // built for other devices only, where nothing chooses this kernel
bool has_hopper(int) { return false; }
void launch_hopper(const HopperParams&, const HopperLayout&, const Choice&, int, void*) {
  throw std::runtime_error("the Hopper kernel is not in this build: its CUDA architectures are without 90a");
}
#else
bool has_hopper(int device) {
  const OnDevice guard(device);
  return has_code(gpu::hopper_kernel<HopperShape<256, Activation::relu>>);
}

void launch_hopper(const HopperParams& params, const HopperLayout& layout, const Choice& choice, int device, void* stream) {
  const cudaLaunchAttribute cluster = cluster_of(layout.facts.members);
  with_hopper_shape(layout, [&]<class Shape>() {
    launch<gpu::hopper_kernel<Shape>>(params, {choice.blocks, params.groups * kHopperGroupThreads, choice.shared_bytes()}, device,
                                      stream, "launch of the Hopper kernel", &cluster);
  });
}
#endif

}  // namespace dtag::cuda
