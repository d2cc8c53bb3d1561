// Rate of bf16 wgmma (64 rows per warpgroup in registers) with one 256x256 matrix resident in shared memory, its rows
// taken as outputs ("K-major") or as inputs ("MN-major", which is the transposed product): FLOP per clock and
// multiprocessor.
#include <cmath>

#include "wgmma.cuh"

namespace {

constexpr int SIZE = 256, STEPS = SIZE / 16, ROWS = 64;  // rows per warpgroup
constexpr int SHARED_BYTES = SIZE * SIZE * 2 + 1024;     // room to align the start

template <bool TRANSPOSED>
__global__ void __launch_bounds__(256, 1)
    product_rate(const uint16_t* matrix, const uint16_t* rows, float* out, long long* cycles, int repeats) {
  extern __shared__ uint8_t memory[];
  uint8_t* const copy = memory + (1024 - shared_address(memory) % 1024) % 1024;
  const int lane = threadIdx.x % 32, row0 = threadIdx.x / 32 * 16;
  for (int i = threadIdx.x; i < SIZE * SIZE / 8; i += blockDim.x) {
    const int row = i / (SIZE / 8), column = i % (SIZE / 8) * 8;
    *reinterpret_cast<uint4*>(copy + swizzled(row, column)) =
        *reinterpret_cast<const uint4*>(&matrix[row * SIZE + column]);
  }
  publish_to_wgmma();

  uint32_t a[STEPS][4];
#pragma unroll
  for (int k = 0; k < STEPS; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = row0 + lane / 4 + i % 2 * 8, column = k * 16 + lane % 4 * 2 + i / 2 * 8;
      a[k][i] = *reinterpret_cast<const uint32_t*>(&rows[row * SIZE + column]);
    }
  float c[SIZE / 2];
#pragma unroll
  for (int i = 0; i < SIZE / 2; ++i) c[i] = 0;
  const uint32_t start = shared_address(copy);
  __syncthreads();
  if (threadIdx.x == 0) cycles[blockIdx.x] = -clock64();
#pragma unroll 1
  for (int repeat = 0; repeat < repeats; ++repeat) {
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < STEPS; ++k) wgmma<TRANSPOSED>(c, a[k], descriptor<TRANSPOSED>(start, k));
    wgmma_commit();
  }
  wgmma_wait();
  __syncthreads();
  if (threadIdx.x == 0) cycles[blockIdx.x] += clock64();
  out += static_cast<size_t>(blockIdx.x) * (blockDim.x / 128) * ROWS * SIZE;
#pragma unroll
  for (int j = 0; j < SIZE / 8; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int y = row0 + lane / 4 + i / 2 * 8, x = j * 8 + lane % 4 * 2 + i % 2;
      out[y * SIZE + x] = c[4 * j + i];
    }
}

template <bool TRANSPOSED>
void measure(int blocks, int warpgroups) {
  constexpr int REPEATS = 64;
  const std::string parameters =
      number("warpgroups", warpgroups) + ", " + text("operand", TRANSPOSED ? "MN-major" : "K-major");
  const int count = warpgroups * ROWS;
  Uniform uniform(4);  // small integers: every sum is exact
  std::vector<uint16_t> matrix(SIZE * SIZE), rows(count * SIZE);
  for (uint16_t& number : matrix) number = to_bf16(std::round(2 * uniform()));
  for (uint16_t& number : rows) number = to_bf16(std::round(1.5f * uniform()));
  std::vector<float> wanted(count * SIZE);
  for (int y = 0; y < count; ++y)
    for (int i = 0; i < SIZE; ++i)
      for (int j = 0; j < SIZE; ++j)
        wanted[y * SIZE + (TRANSPOSED ? j : i)] +=
            REPEATS * from_bf16(rows[y * SIZE + (TRANSPOSED ? i : j)]) * from_bf16(matrix[i * SIZE + j]);

  auto kernel = product_rate<TRANSPOSED>;
  CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES));
  const Buffer<uint16_t> on_device(matrix), start(rows);
  Buffer<float> out(static_cast<size_t>(blocks) * count * SIZE);
  Buffer<long long> cycles(blocks);
  out.poison();
  std::vector<double> samples;
  for (int launch = 0; launch < 6; ++launch) {
    kernel<<<blocks, warpgroups * 128, SHARED_BYTES>>>(on_device.data, start.data, out.data, cycles.data, REPEATS);
    CHECK(cudaGetLastError());
    CHECK(cudaDeviceSynchronize());
    if (launch == 0) continue;  // it also loads the code
    for (long long clocks : cycles.host()) samples.push_back(2.0 * count * SIZE * SIZE * REPEATS / clocks);
  }
  const std::vector<float> actual = out.host();
  for (size_t i = 0; i < actual.size(); ++i)
    require(actual[i] == wanted[i % wanted.size()], "wgmma, " + parameters + ", entry " + std::to_string(i));
  report("wgmma_rates, product", parameters, samples, "FLOP/clk/SM",
         "whether one copy of a matrix serves both directions of the wgmma kernel");
}

}  // namespace

int main() {
  cudaDeviceProp device;
  CHECK(cudaGetDeviceProperties(&device, 0));
  for (int warpgroups : {1, 2}) measure<false>(device.multiProcessorCount, warpgroups);
  for (int warpgroups : {1, 2}) measure<true>(device.multiProcessorCount, warpgroups);
}
