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

// Choice: has blocks and shared_bytes().
template <class Params, class Choice>
void launch_cluster(void (*kernel)(Params), const Params& params, const Choice& choice, int blocks_of_cluster, int threads,
                    void* stream, const char* what) {
  allow_shared_memory(kernel, choice.shared_bytes());
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = unsigned(blocks_of_cluster);
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(choice.blocks));
  config.blockDim = dim3(unsigned(threads));
  config.dynamicSmemBytes = choice.shared_bytes();
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &cluster;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, kernel, params), what);
}

}  // namespace dtag::cuda
