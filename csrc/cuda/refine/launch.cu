#include "cuda/refine/launch.h"

#include "cuda/refine/cuda_calls.h"
#include "cuda/refine/generic_kernel.h"
#include "cuda/refine/stream.h"

namespace dtag::cuda {
namespace {

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

}  // namespace

DeviceTraits device_traits(int device) {
  DeviceTraits traits;
  traits.capability = 10 * attribute(cudaDevAttrComputeCapabilityMajor, device) +
                      attribute(cudaDevAttrComputeCapabilityMinor, device);
  traits.multiprocessors = attribute(cudaDevAttrMultiProcessorCount, device);
  traits.shared_bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  traits.clusters = traits.capability >= 90 && has_clusters(device);
  traits.hopper = traits.capability == 90 && has_hopper(device);
  traits.cooperative = attribute(cudaDevAttrCooperativeLaunch, device) != 0;
  const OnDevice guard(device);
  cudaFuncAttributes attributes;  // asked for so that a device without code is refused here, not at the first call
  check(cudaFuncGetAttributes(&attributes, gpu::generic_kernel<Tile64, false>), "the CUDA kernels of this build");
  return traits;
}

bool is_capturing(void* stream) {
  if (!stream) return false;  // the default stream never is, and must not be asked while another one is
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  if (cudaStreamIsCapturing(static_cast<cudaStream_t>(stream), &status) == cudaSuccess)
    return status != cudaStreamCaptureStatusNone;
  cudaGetLastError();  // the next call must not report it
  return true;
}

void launch_generic(const GenericParams& params, const Choice& choice, int device, void* stream) {
  const auto with_tile = [&]<class Tile>() {
    const Grid grid{choice.blocks, kThreads, choice.shared_bytes()};
    if (params.variants)
      launch<gpu::generic_kernel<Tile, true>>(params, grid, device, stream, "launch of the generic kernel");
    else
      launch<gpu::generic_kernel<Tile, false>>(params, grid, device, stream, "launch of the generic kernel");
  };
  switch (choice.rows) {
    case 64: return with_tile.template operator()<Tile64>();
    case 32: return with_tile.template operator()<Tile32>();
    case 16: return with_tile.template operator()<Tile16>();
    case 8: return with_tile.template operator()<Tile8>();
    case 4: return with_tile.template operator()<Tile4>();
    default: throw std::runtime_error("generic kernel: no tile of " + std::to_string(choice.rows) + " rows");
  }
}

}  // namespace dtag::cuda
