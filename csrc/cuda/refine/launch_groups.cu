// The latency kernel for devices without clusters: all blocks run together (a cooperative launch) and meet in global memory.
#include "cuda/refine/cuda_calls.h"
#include "cuda/refine/latency_kernel.h"
#include "cuda/refine/launch.h"
#include "cuda/refine/meet_in_global_memory.h"

namespace dtag::cuda {

void launch_groups(const LatencyParams& params, const LatencyLayout& layout, const Choice& choice, int device, void* stream) {
  cudaLaunchAttribute together{};
  together.id = cudaLaunchAttributeCooperative;
  together.val.cooperative = 1;
  with_latency_shape<false>(layout, [&]<class Shape, bool relu>() {
    launch<gpu::latency_kernel<Shape, gpu::MeetInGlobalMemory, relu>>(params, {choice.blocks, kLatencyThreads, choice.shared_bytes()},
                                                                      device, stream, "launch of the latency kernel", &together);
  });
}

}  // namespace dtag::cuda
