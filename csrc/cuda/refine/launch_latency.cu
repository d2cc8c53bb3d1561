// For compute capability 9.0 and later: clusters of blocks.
#include "cuda/refine/cuda_calls.h"
#include "cuda/refine/launch.h"
#ifndef DTAG_NO_CLUSTERS  // its words are unknown to devices without clusters
#include "cuda/refine/latency_kernel.h"
#endif

namespace dtag::cuda {

#ifdef DTAG_NO_CLUSTERS  // built for devices without clusters only, where nothing chooses this kernel
bool has_latency(int) { return false; }
void launch_latency(const LatencyParams&, const LatencyLayout&, const Choice&, int, void*) {
  throw std::runtime_error("the latency kernel is not in this build: its CUDA architectures have no clusters");
}
#else
bool has_latency(int device) {
  const OnDevice guard(device);
  cudaFuncAttributes attributes;
  const bool found = cudaFuncGetAttributes(&attributes, gpu::latency_kernel<LatencyShape<1, 8, 2>>) == cudaSuccess;
  if (!found) cudaGetLastError();  // the next call must not report it
  return found;
}

void launch_latency(const LatencyParams& params, const LatencyLayout& layout, const Choice& choice, int device, void* stream) {
  const OnDevice guard(device);
  with_latency_shape(layout, [&]<class Shape>() {
    const auto kernel = gpu::latency_kernel<Shape>;
    allow_shared_memory(kernel, choice.shared_bytes());
    cudaLaunchAttribute cluster{};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = unsigned(layout.cluster());
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(unsigned(choice.blocks));
    config.blockDim = dim3(kLatencyThreads);
    config.dynamicSmemBytes = choice.shared_bytes();
    config.stream = static_cast<cudaStream_t>(stream);
    config.attrs = &cluster;
    config.numAttrs = 1;
    check(cudaLaunchKernelEx(&config, kernel, params), "launch of the latency kernel");
  });
}
#endif

}  // namespace dtag::cuda
