#include "cuda/refine/cuda_calls.h"
#include "cuda/refine/launch.h"
#include "cuda/refine/tensor_kernel.h"

namespace dtag::cuda {

void launch_tensor(const TensorParams& params, const Choice& choice, int device, void* stream) {
  const OnDevice guard(device);
  with_tensor_tile(choice, [&]<class Tile>() {
    const auto kernel = gpu::tensor_kernel<Tile>;
    allow_shared_memory(kernel, choice.shared_bytes());
    kernel<<<unsigned(choice.blocks), kThreads, choice.shared_bytes(), static_cast<cudaStream_t>(stream)>>>(params);
    check(cudaGetLastError(), "launch of the tensor kernel");
  });
}

}  // namespace dtag::cuda
