#include "cuda/refine/cuda_calls.h"
#include "cuda/refine/launch.h"
#include "cuda/refine/tensor_kernel.h"

namespace dtag::cuda {

void launch_tensor(const TensorParams& params, const Choice& choice, int device, void* stream) {
  with_tensor_tile(choice, [&]<class Tile>() {
    launch<gpu::tensor_kernel<Tile>>(params, {choice.blocks, kThreads, choice.shared_bytes()}, device, stream,
                                     "launch of the tensor kernel");
  });
}

}  // namespace dtag::cuda
