// Bytes per clock that blocks of 256 threads take from the L2 when all of them read the same 256 KB again and again, as
// weights too large for shared memory are read: 16 B loads into registers, and cp.async through a ring in shared
// memory. 1, 8 and as many blocks as multiprocessors.
#include "common.cuh"

namespace {

constexpr int THREADS = 256, BYTES = 256 * 1024, PIECES = BYTES / 16, PASSES = 32, LAUNCHES = 6;
constexpr int STAGES = 4, PER_STAGE = 4 * THREADS;  // pieces of 16 B; four per thread and stage
constexpr int SHARED_BYTES = STAGES * PER_STAGE * 16;

__device__ __forceinline__ unsigned sum(uint4 piece) { return piece.x + piece.y + piece.z + piece.w; }

// What a block has read, and how long it took.
__device__ __forceinline__ void finish(unsigned total, unsigned* sums, long long* cycles, long long began) {
  __syncthreads();
  if (threadIdx.x == 0) cycles[blockIdx.x] = clock64() - began;
  atomicAdd(&sums[blockIdx.x], total);
}

// Past the L1 (ld.global.cg), eight loads in flight per thread.
__global__ void __launch_bounds__(THREADS) to_registers(const uint4* source, unsigned* sums, long long* cycles) {
  unsigned total = 0;
  __syncthreads();
  const long long began = clock64();
#pragma unroll 1
  for (int pass = 0; pass < PASSES; ++pass)
#pragma unroll 1
    for (int i = threadIdx.x; i < PIECES; i += 8 * THREADS) {
      uint4 pieces[8];
#pragma unroll
      for (int j = 0; j < 8; ++j) pieces[j] = __ldcg(&source[i + j * THREADS]);
#pragma unroll
      for (int j = 0; j < 8; ++j) total += sum(pieces[j]);
    }
  finish(total, sums, cycles, began);
}

// Threads read what their neighbours have fetched, as a product does: one block barrier per stage.
__global__ void __launch_bounds__(THREADS) through_shared(const uint4* source, unsigned* sums, long long* cycles) {
  extern __shared__ __align__(16) uint4 ring[];
  constexpr int TOTAL = PASSES * PIECES / PER_STAGE;
  auto fetch = [&](int stage) {
    if (stage < TOTAL) {
      const uint4* const from = source + stage * PER_STAGE % PIECES;
      uint4* const to = ring + stage % STAGES * PER_STAGE;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int i = j * THREADS + threadIdx.x;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                         static_cast<unsigned>(__cvta_generic_to_shared(&to[i]))),
                     "l"(&from[i])
                     : "memory");
      }
    }
    asm volatile("cp.async.commit_group;" ::: "memory");  // empty at the end: keeps the count of groups
  };
  unsigned total = 0;
  __syncthreads();
  const long long began = clock64();
  for (int stage = 0; stage < STAGES - 1; ++stage) fetch(stage);
#pragma unroll 1
  for (int stage = 0; stage < TOTAL; ++stage) {
    asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
    __syncthreads();  // this stage has arrived for all, and all have read the one whose place comes next
    fetch(stage + STAGES - 1);
    const uint4* const here = ring + stage % STAGES * PER_STAGE;
#pragma unroll
    for (int j = 0; j < 4; ++j) total += sum(here[j * THREADS + (threadIdx.x + 32) % THREADS]);
  }
  finish(total, sums, cycles, began);
}

template <class Kernel>
void measure(Kernel kernel, const char* how, int shared_bytes, int blocks, const Buffer<uint4>& source, unsigned once) {
  const std::string parameters = text("how", how) + ", " + number("blocks", blocks);
  CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
  Buffer<unsigned> sums(blocks);
  Buffer<long long> cycles(blocks);
  std::vector<double> samples;
  for (int launch = 0; launch < LAUNCHES; ++launch) {
    CHECK(cudaMemset(sums.data, 0, blocks * sizeof(unsigned)));
    kernel<<<blocks, THREADS, shared_bytes>>>(source.data, sums.data, cycles.data);
    CHECK(cudaGetLastError());
    CHECK(cudaDeviceSynchronize());
    for (unsigned total : sums.host()) require(total == PASSES * once, parameters + ": sum of what was read");
    if (launch == 0) continue;  // brings the data into the L2
    for (long long count : cycles.host()) samples.push_back(static_cast<double>(PASSES) * BYTES / count);
  }
  report("l2_stream", parameters, samples, "B/clk per block", "how the fallback kernel streams its weights");
}

}  // namespace

int main() {
  cudaDeviceProp device;
  CHECK(cudaGetDeviceProperties(&device, 0));
  std::vector<uint4> numbers(PIECES);
  unsigned state = 1, once = 0;
  auto next = [&] {
    state = state * 1664525u + 1013904223u;
    once += state;
    return state;
  };
  for (uint4& piece : numbers) {
    piece.x = next();
    piece.y = next();
    piece.z = next();
    piece.w = next();
  }
  const Buffer<uint4> source(numbers);
  for (int blocks : {1, 8, device.multiProcessorCount}) {
    measure(to_registers, "loads to registers", 0, blocks, source, once);
    measure(through_shared, "cp.async through shared memory", SHARED_BYTES, blocks, source, once);
  }
}
