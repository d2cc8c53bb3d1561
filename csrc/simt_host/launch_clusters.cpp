// The latency kernel in clusters of blocks.
#include "cuda/refine/latency_kernel.h"
#include "cuda/refine/meet_in_cluster.h"
#include "simt_host/launch_shape.h"

namespace dtag::cuda {

void launch_clusters(const LatencyParams& params, const LatencyLayout& layout, const Choice& choice, int, void*) {
  with_latency_shape<true>(layout, [&]<class Shape, bool relu>() {
    const simt::Shape shape = shape_of(choice, layout.group(), kLatencyThreads);
    simt::launch(shape, [&] { gpu::latency_kernel<Shape, gpu::MeetInCluster, relu>(params); });
  });
}

}  // namespace dtag::cuda
