// The latency kernel of blocks that meet in global memory.
#include "cuda/refine/latency_kernel.h"
#include "cuda/refine/meet_in_global_memory.h"
#include "simt_host/launch_shape.h"

namespace dtag::cuda {

void launch_groups(const LatencyParams& params, const LatencyLayout& layout, const Choice& choice, int, void*) {
  simt::Shape shape = shape_of(choice, 1, kLatencyThreads);
  shape.cooperative = true;
  shape.resident = simt::device().traits.multiprocessors;
  with_latency_shape<false>(layout, [&]<class Shape, bool relu>() {
    simt::launch(shape, [&] { gpu::latency_kernel<Shape, gpu::MeetInGlobalMemory, relu>(params); });
  });
}

}  // namespace dtag::cuda
