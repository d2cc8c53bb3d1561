// The words the kernels are written in: indices, shared memory, barriers, shuffles, asynchronous copies, exchange between
// the blocks of a cluster, matrix products of a warp and (warpgroup.h) of four. Nothing else under csrc/cuda touches any of
// these, so that the same kernel source also compiles against the second implementation in csrc/simt_host, which runs it on
// the CPU, threads as fibers, and stops at what a GPU would not forgive (simt_host/machine.h).
//
// Everything a warp does together (shuffles, votes, sync_warp, matrix products) is done by all 32 lanes.
#pragma once
#ifndef __CUDACC__
#include "simt_host/primitives.h"
#else
#include <cuda_runtime.h>
#include <stdint.h>

#define DTAG_INLINE static __device__ __forceinline__
#define DTAG_FUNCTION static __device__
#define DTAG_MEMBER __device__ __forceinline__
#define DTAG_LAMBDA
#define DTAG_GRID_CONSTANT __grid_constant__
#define DTAG_UNROLL _Pragma("unroll")
#define DTAG_KERNEL(threads) __global__ void __launch_bounds__(threads, 1)

namespace dtag::gpu {

constexpr int kWarp = 32;

DTAG_INLINE int thread_index() { return int(threadIdx.x); }
DTAG_INLINE int block_index() { return int(blockIdx.x); }
DTAG_INLINE int block_count() { return int(gridDim.x); }
DTAG_INLINE int lane_index() { return int(threadIdx.x & 31u); }
DTAG_INLINE int warp_index() { return int(threadIdx.x >> 5); }

// ---- Shared memory: parts of the block's dynamic allocation.

template <class T>
using Shared = T*;

// The part at `offset` bytes (a multiple of 16) holding `count` numbers.
template <class T>
DTAG_INLINE Shared<T> shared_part(uint32_t offset, int64_t count) {
  extern __shared__ __align__(1024) unsigned char dtag_shared_memory[];
  (void)count;
  return reinterpret_cast<T*>(dtag_shared_memory + offset);
}

struct alignas(16) Float4 {
  float v[4];
};
// 16 bytes at a 16-byte aligned address of shared or global memory.
DTAG_INLINE Float4 load4(const float* p) { return *reinterpret_cast<const Float4*>(p); }
DTAG_INLINE void store4(float* p, const Float4& x) { *reinterpret_cast<Float4*>(p) = x; }

// ---- Barriers and votes.

DTAG_INLINE void sync_block() { __syncthreads(); }
DTAG_INLINE bool sync_block_or(bool x) { return __syncthreads_or(x) != 0; }
DTAG_INLINE void sync_warp() { __syncwarp(); }
DTAG_INLINE bool vote_any(bool x) { return __any_sync(~0u, x) != 0; }
DTAG_INLINE bool vote_all(bool x) { return __all_sync(~0u, x) != 0; }
DTAG_INLINE float shuffle(float x, int lane) { return __shfl_sync(~0u, x, lane); }
DTAG_INLINE int shuffle(int x, int lane) { return __shfl_sync(~0u, x, lane); }
DTAG_INLINE float shuffle_xor(float x, int mask) { return __shfl_xor_sync(~0u, x, mask); }
DTAG_INLINE int shuffle_xor(int x, int mask) { return __shfl_xor_sync(~0u, x, mask); }

// The compiler moves no access to memory across this; the machine is not asked to do anything.
DTAG_INLINE void keep_order() { asm volatile("" ::: "memory"); }

// x, of which the compiler knows nothing here: what follows from it is computed anew instead of kept in registers over loops.
DTAG_INLINE int anew(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

// ---- Copies from global to shared memory that run beside the arithmetic. A thread sees its own after the wait, the
// others after a barrier behind it. Both addresses 16-byte aligned.

DTAG_INLINE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }
DTAG_INLINE void copy_async16(Shared<float> to, const float* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
}
DTAG_INLINE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `left` of the committed groups are under way.
template <int left>
DTAG_INLINE void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory");
}

// ---- Clusters (compute capability 9.0 and later).

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
DTAG_INLINE int cluster_rank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return int(rank);
}
DTAG_INLINE int cluster_size() {
  uint32_t size;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return int(size);
}
// All threads of the cluster; orders everything. Costs far more than an exchange: not for loops.
DTAG_INLINE void sync_cluster() {
  asm volatile("barrier.cluster.arrive.aligned;\n barrier.cluster.wait.aligned;" ::: "memory");
}

// A place in the shared memory of another block of the cluster.
template <class T>
struct Remote {
  uint32_t address;
};
template <class T>
DTAG_INLINE Remote<T> remote(Shared<T> p, int rank) {
  Remote<T> r;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(r.address) : "r"(shared_address(p)), "r"(rank));
  return r;
}

// Counts arrivals and bytes. Phase k = 0, 1, ... ends when all arrivals of the phase were made and all bytes announced
// for it have landed.
using Mbarrier = uint64_t;
DTAG_INLINE void mbarrier_init(Shared<Mbarrier> b, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals) : "memory");
}
// Makes the inits of this thread known to the cluster, before the sync_cluster() that publishes them.
DTAG_INLINE void mbarrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DTAG_INLINE void mbarrier_arrive_expect(Shared<Mbarrier> b, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes) : "memory");
}
// Returns when the phase of this parity (k & 1) has ended; what was stored for it can be read then. The wait itself is
// relaxed and the fence restricted to shared memory: an acquire at cluster scope would also empty the L1 cache.
DTAG_INLINE void mbarrier_wait(Shared<Mbarrier> b, int parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.relaxed.cluster.shared::cta.b64 done, [%0], %1;\n"
      "@done bra finished;\n"
      "bra again;\n"
      "finished:\n"
      "fence.acquire.sync_restrict::shared::cluster.cluster;\n"
      "}\n" ::"r"(shared_address(b)), "r"(parity)
      : "memory");
}
// Stores 4 bytes there and counts them on the barrier beside it.
DTAG_INLINE void store_async(Remote<float> to, float x, Remote<Mbarrier> b) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%0], %1, [%2];" ::"r"(to.address),
               "r"(__float_as_uint(x)), "r"(b.address)
               : "memory");
}
#endif

// ---- Stamped words of global memory, through which blocks that run together send each other numbers: each says itself when
// it has come. 0: empty. Nothing else is ordered by them. A word may be overwritten once its reader has answered.

class Stamped {
  uint64_t word_;
};
// The number and a stamp other than 0, as one store, which no reader sees half of.
DTAG_INLINE void store_stamped(Stamped* to, uint32_t stamp, float x) {
  const uint64_t word = uint64_t(stamp) << 32 | __float_as_uint(x);
  asm volatile("st.relaxed.gpu.global.b64 [%0], %1;" ::"l"(to), "l"(word) : "memory");
}
// For the block that reads it, after a barrier behind the reading.
DTAG_INLINE void clear_stamped(Stamped* place) {
  asm volatile("st.relaxed.gpu.global.b64 [%0], %1;" ::"l"(place), "l"(uint64_t(0)) : "memory");
}
// Returns when all n words have this stamp. Their loads are under way together.
template <int n>
DTAG_INLINE void wait_stamped(const Stamped* const (&from)[n], uint32_t stamp, float (&x)[n]) {
  bool all;
  do {
    all = true;
    uint64_t word[n];
    DTAG_UNROLL
    for (int i = 0; i < n; ++i) asm volatile("ld.relaxed.gpu.global.b64 %0, [%1];" : "=l"(word[i]) : "l"(from[i]) : "memory");
    DTAG_UNROLL
    for (int i = 0; i < n; ++i) {
      x[i] = __uint_as_float(uint32_t(word[i]));
      all = all && uint32_t(word[i] >> 32) == stamp;
    }
  } while (!all);
}

// ---- Matrix products of a warp, summed in float32. Lane l, g = l / 4, t = l % 4 holds
//   D (16 x 8):  d[0], d[1] = D[g][2t], D[g][2t+1];  d[2], d[3] = D[g+8][2t], D[g+8][2t+1]
//   bf16, A (16 x 16): a[0] = A[g][2t..], a[1] = A[g+8][2t..], a[2] = A[g][2t+8..], a[3] = A[g+8][2t+8..], two to a word,
//                      the first in the lower half;  B (16 x 8): b[0] = B[2t..][g], b[1] = B[2t+8..][g]
//   tf32, A (16 x 8):  a[0] = A[g][t], a[1] = A[g+8][t], a[2] = A[g][t+4], a[3] = A[g+8][t+4];  B (8 x 8): b[0] = B[t][g],
//                      b[1] = B[t+4][g]

DTAG_INLINE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
DTAG_INLINE void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// Four 8 x 8 matrices of 16-bit numbers; lane 8m + i gives the address of row i of matrix m (16 bytes, aligned). Lane l
// receives in r[m] the numbers (l / 4, 2 (l % 4)) and the next one of matrix m; of its transpose with load_matrix_trans.
DTAG_INLINE void load_matrix(uint32_t (&r)[4], Shared<const uint16_t> row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
DTAG_INLINE void load_matrix_trans(uint32_t (&r)[4], Shared<const uint16_t> row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
// Two numbers rounded to bf16 (nearest, ties to even): `low` in the lower half.
DTAG_INLINE uint32_t pack_bf16(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
// x with the 10 explicit bits of tf32 (nearest, ties away from zero).
DTAG_INLINE uint32_t round_tf32(float x) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}

}  // namespace dtag::gpu
#include "cuda/warpgroup.h"
#endif
