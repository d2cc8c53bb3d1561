// For compute capability 9.0 and later: the latency kernel in clusters of blocks.
#include "cuda/refine/cuda_calls.h"
#include "cuda/refine/launch.h"
#ifndef DTAG_NO_CLUSTERS  // its words are unknown to devices without clusters
#include "cuda/refine/latency_kernel.h"
#include "cuda/refine/meet_in_cluster.h"
#endif

namespace dtag::cuda {

#ifdef DTAG_NO_CLUSTERS  // built for devices without clusters only, where nothing chooses this form
bool has_clusters(int) { return false; }
void launch_clusters(const LatencyParams&, const LatencyLayout&, const Choice&, int, void*) {
  throw std::runtime_error("clusters of the latency kernel are not in this build: its CUDA architectures have none");
}
#else
bool has_clusters(int device) {
  const OnDevice guard(device);
  return has_code(gpu::latency_kernel<LatencyShape<1, 8, 2>, gpu::MeetInCluster, true>);
}

void launch_clusters(const LatencyParams& params, const LatencyLayout& layout, const Choice& choice, int device, void* stream) {
  const cudaLaunchAttribute cluster = cluster_of(layout.group());
  with_latency_shape<true>(layout, [&]<class Shape, bool relu>() {
    launch<gpu::latency_kernel<Shape, gpu::MeetInCluster, relu>>(params, {choice.blocks, kLatencyThreads, choice.shared_bytes()},
                                                                 device, stream, "launch of the latency kernel", &cluster);
  });
}
#endif

}  // namespace dtag::cuda
