// Calls of the CUDA runtime, their failures as exceptions.
#pragma once
#include <cuda_runtime.h>

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

template <class Function>
void allow_shared_memory(Function* kernel, uint32_t bytes) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)), "cudaFuncSetAttribute");
}

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

template <class Params>
void launch_with(const cudaLaunchAttribute& attribute, void (*kernel)(Params), const Params& params, int blocks, int threads,
                 uint32_t shared_bytes, void* stream, const char* what) {
  allow_shared_memory(kernel, shared_bytes);
  cudaLaunchAttribute given = attribute;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(blocks));
  config.blockDim = dim3(unsigned(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &given;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, kernel, params), what);
}

}  // namespace dtag::cuda
