// Words between the blocks of a cluster: addresses in a peer's shared memory, asynchronous stores, and the waits.
#pragma once
#include <cooperative_groups.h>

#include "common.cuh"

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// The same place in the shared memory of the block of this rank.
__device__ __forceinline__ uint32_t peer_address(uint32_t address, int rank) {
  uint32_t mapped;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(mapped) : "r"(address), "r"(rank));
  return mapped;
}

// One arrival completes a phase, together with the bytes it announces.
__device__ __forceinline__ void barrier_init(uint64_t* barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barrier)) : "memory");
}

// Makes initialised barriers visible to the peers' asynchronous stores; a cluster barrier must follow.
__device__ __forceinline__ void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void expect_bytes(uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}

// `address` and `barrier` are peer_address()es of one block; the bytes count towards that block's barrier.
__device__ __forceinline__ void store_async(uint32_t address, uint32_t value, uint32_t barrier) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(address), "r"(value),
               "r"(barrier)
               : "memory");
}

__device__ __forceinline__ void store_async(uint32_t address, const uint32_t (&v)[4], uint32_t barrier) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
                   address),
               "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3]), "r"(barrier)
               : "memory");
}

// Waits for the phase of this parity. The default scope is the block's own; the cluster's costs an L1 invalidation.
template <bool CLUSTER_SCOPE>
__device__ __forceinline__ void wait_phase(uint64_t* barrier, int parity) {
  uint32_t done = 0;
  while (!done) {
    if constexpr (CLUSTER_SCOPE)
      asm volatile(
          "{.reg .pred p; mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
          : "=r"(done)
          : "r"(shared_address(barrier)), "r"(parity)
          : "memory");
    else
      asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
                   : "=r"(done)
                   : "r"(shared_address(barrier)), "r"(parity)
                   : "memory");
  }
}

__device__ __forceinline__ void cluster_sync() { cooperative_groups::this_cluster().sync(); }

struct ClusterLaunch {
  cudaLaunchAttribute attribute{};
  cudaLaunchConfig_t config{};
  ClusterLaunch(int blocks, int threads) {
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = blocks;
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    config.gridDim = dim3(blocks);
    config.blockDim = dim3(threads);
    config.attrs = &attribute;
    config.numAttrs = 1;
  }
  ClusterLaunch(const ClusterLaunch&) = delete;  // config points into it
};

// Launches one cluster of `blocks` blocks.
template <class... Parameters, class... Arguments>
void launch_cluster(void (*kernel)(Parameters...), int blocks, int threads, Arguments... arguments) {
  ClusterLaunch launch(blocks, threads);
  CHECK(cudaLaunchKernelEx(&launch.config, kernel, static_cast<Parameters>(arguments)...));
}

// "" when the device takes a cluster of this size, else why not.
template <class Kernel>
std::string why_no_cluster(Kernel kernel, int blocks, int threads) {
  CHECK(cudaFree(nullptr));  // a machine without a GPU is an error, no reason to skip
  cudaError_t status = cudaSuccess;
  if (blocks > 8)  // past the portable size a kernel must say that it means it
    status = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  int clusters = 0;
  ClusterLaunch launch(blocks, threads);
  if (status == cudaSuccess) status = cudaOccupancyMaxActiveClusters(&clusters, kernel, &launch.config);
  if (status != cudaSuccess) {
    cudaGetLastError();
    return std::string("refused: ") + cudaGetErrorString(status);
  }
  return clusters > 0 ? "" : "no cluster of this size fits on the device";
}
