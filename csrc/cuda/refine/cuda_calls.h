// Calls of the CUDA runtime, their failures as exceptions.
#pragma once
#include <cuda_runtime.h>

#include <atomic>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace dtag::cuda {

inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // this runtime must not report it again at the next call
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

// Makes a device the calling thread's, and puts the former one back at the end.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    check(cudaGetDevice(&before_), "cudaGetDevice");
    if (before_ == device) return;
    check(cudaSetDevice(device), "cudaSetDevice");
    changed_ = true;
  }
  ~OnDevice() {
    if (changed_) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

// Whether the build has this kernel's code for the current device.
template <class Function>
bool has_code(Function* kernel) {
  cudaFuncAttributes attributes;
  const bool found = cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess;
  if (!found) cudaGetLastError();  // the next call must not report it
  return found;
}

inline cudaLaunchAttribute cluster_of(int blocks) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = unsigned(blocks);
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  return attribute;
}

// Lets the kernel have all the shared memory that a block of `device`, the current one, can ask for: once, as the device
// remembers it.
template <auto kernel>
void allow_shared_memory(int device) {
  static std::atomic<uint64_t> allowed{0};
  const uint64_t bit = device < 64 ? uint64_t(1) << device : 0;
  if (allowed.load(std::memory_order_relaxed) & bit) return;
  int most = 0;
  check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "cudaDeviceGetAttribute");
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most), "cudaFuncSetAttribute");
  allowed.fetch_or(bit, std::memory_order_relaxed);
}

struct Grid {
  int blocks, threads;
  uint32_t shared_bytes;
};

// Queues a kernel on `stream` of `device`, with an attribute of the launch or without. what: for the message of a failure.
template <auto kernel, class Params>
void launch(const Params& params, const Grid& grid, int device, void* stream, const char* what,
            const cudaLaunchAttribute* attribute = nullptr) {
  const OnDevice guard(device);
  allow_shared_memory<kernel>(device);
  cudaLaunchAttribute given{};
  if (attribute) given = *attribute;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(grid.blocks));
  config.blockDim = dim3(unsigned(grid.threads));
  config.dynamicSmemBytes = grid.shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &given;
  config.numAttrs = attribute ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, params), what);
}

}  // namespace dtag::cuda
