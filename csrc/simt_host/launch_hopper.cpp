// Products of a warpgroup.
#include "cuda/refine/hopper_kernel.h"
#include "simt_host/launch_shape.h"

namespace dtag::cuda {

void launch_hopper(const HopperParams& params, const HopperLayout& layout, const Choice& choice, int, void*) {
  with_hopper_shape(layout, [&]<class Shape>() {
    simt::launch(shape_of(choice, layout.facts.members, params.groups * kHopperGroupThreads),
                 [&] { gpu::hopper_kernel<Shape>(params); });
  });
}

}  // namespace dtag::cuda
