// Products of a warp.
#include "cuda/refine/tensor_kernel.h"
#include "simt_host/launch_shape.h"

namespace dtag::cuda {

void launch_tensor(const TensorParams& params, const Choice& choice, int, void*) {
  with_tensor_tile(choice, [&]<class Tile>() {
    simt::launch(shape_of(choice, 1, kThreads), [&] { gpu::tensor_kernel<Tile>(params); });
  });
}

}  // namespace dtag::cuda
