// Rate of bf16 mma.sync with one 256x256 matrix resident in shared memory, used forward (ldmatrix) and transposed
// (ldmatrix.trans) from the same copy: FLOP per clock and multiprocessor. Then both products in a chain that stays in
// registers, as two layers of a network do, with nothing, ReLU or Mish between them.
#include <cmath>

#include "mma.cuh"

namespace {

constexpr int SIZE = 256, PITCH = SIZE + 8;  // eight rows of 16 B then lie in eight different groups of banks
constexpr int SHARED_BYTES = SIZE * PITCH * 2, STEPS = SIZE / 16, CHUNK = 32;
constexpr int UNITS = 192;  // between the two products of the chain: with 256 the compiler runs out of registers
constexpr float SCALE = 1.8f;  // keeps the chain with ReLU at its size

enum class Between { NOTHING, RELU, MISH };

// Where a lane's row of the operand for the first 16 outputs and 16 inputs lies; the others lie at fixed distances.
__device__ __forceinline__ uint32_t lane_row(const uint16_t* matrix, int lane) {
  const int part = lane / 8;
  return shared_address(&matrix[(part / 2 * 8 + lane % 8) * PITCH + part % 2 * 8]);
}

// B for outputs n0..n0+15 and inputs k0..k0+15: b[0], b[1] for the first eight outputs, b[2], b[3] for the rest. The
// matrix has a row per output; TRANSPOSED multiplies by its transpose, whose outputs are its columns.
template <bool TRANSPOSED>
__device__ __forceinline__ void load_operand(uint32_t (&b)[4], uint32_t row, int k0, int n0) {
  ldmatrix<TRANSPOSED>(b, row + 2 * (TRANSPOSED ? k0 * PITCH + n0 : n0 * PITCH + k0));
  if constexpr (TRANSPOSED) {  // the second of the four now holds other outputs, not other inputs
    const uint32_t swapped = b[1];
    b[1] = b[2], b[2] = swapped;
  }
}

__device__ __forceinline__ void load_matrix(uint16_t* copy, const uint16_t* matrix) {
  for (int i = threadIdx.x; i < SIZE * SIZE / 8; i += blockDim.x) {
    const int row = i / (SIZE / 8), column = i % (SIZE / 8) * 8;
    *reinterpret_cast<uint4*>(&copy[row * PITCH + column]) =
        *reinterpret_cast<const uint4*>(&matrix[row * SIZE + column]);
  }
  __syncthreads();
}

// A fragments of rows row0..row0+15, all 256 columns.
__device__ __forceinline__ void load_rows(uint32_t (&a)[STEPS][4], const uint16_t* rows, int row0, int lane) {
#pragma unroll
  for (int k = 0; k < STEPS; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = row0 + lane / 4 + i % 2 * 8, column = k * 16 + lane % 4 * 2 + i / 2 * 8;
      a[k][i] = *reinterpret_cast<const uint32_t*>(&rows[row * SIZE + column]);
    }
}

// A warp multiplies TILES x 16 rows `repeats` times and keeps the sum.
template <int TILES, bool TRANSPOSED>
__global__ void __launch_bounds__(256, 1)
    product_rate(const uint16_t* matrix, const uint16_t* rows, float* out, long long* cycles, int repeats) {
  extern __shared__ __align__(16) uint16_t copy[];
  const int lane = threadIdx.x % 32, warps = blockDim.x / 32, row0 = threadIdx.x / 32 * TILES * 16;
  load_matrix(copy, matrix);
  uint32_t a[TILES][STEPS][4];
#pragma unroll
  for (int tile = 0; tile < TILES; ++tile) load_rows(a[tile], rows, row0 + tile * 16, lane);
  out += static_cast<size_t>(blockIdx.x) * warps * TILES * 16 * SIZE;
  const uint32_t row = lane_row(copy, lane);
  __syncthreads();
  if (threadIdx.x == 0) cycles[blockIdx.x] = -clock64();  // in memory: the loop leaves no register for it
#pragma unroll 1
  for (int n0 = 0; n0 < SIZE; n0 += CHUNK) {
    float c[TILES][CHUNK / 8][4] = {};
#pragma unroll 1
    for (int repeat = 0; repeat < repeats; ++repeat)
#pragma unroll
      for (int k = 0; k < STEPS; ++k)
#pragma unroll
        for (int pair = 0; pair < CHUNK / 16; ++pair) {
          uint32_t b[4];
          load_operand<TRANSPOSED>(b, row, k * 16, n0 + pair * 16);
#pragma unroll
          for (int tile = 0; tile < TILES; ++tile) {
            mma(c[tile][2 * pair], a[tile][k], b[0], b[1]);
            mma(c[tile][2 * pair + 1], a[tile][k], b[2], b[3]);
          }
        }
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
      for (int j = 0; j < CHUNK / 8; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int y = row0 + tile * 16 + lane / 4 + i / 2 * 8, x = n0 + j * 8 + lane % 4 * 2 + i % 2;
          out[y * SIZE + x] = c[tile][j][i];
        }
  }
  __syncthreads();
  if (threadIdx.x == 0) cycles[blockIdx.x] += clock64();
}

template <Between BETWEEN>
__device__ __forceinline__ float apply(float x) {
  if constexpr (BETWEEN == Between::RELU) return fmaxf(x, 0.0f);
  if constexpr (BETWEEN == Between::MISH) {  // tanh(log(1 + e)) = (e (e + 2)) / (e (e + 2) + 2), e = exp(x)
    const float e = __expf(fminf(x, 20.0f)), n = e * (e + 2.0f);
    return x * __fdividef(n, n + 2.0f);
  }
  return x;
}

// next = round(activation(product of a)): the sums of all outputs stay in registers, then become the next operand.
template <bool TRANSPOSED, Between BETWEEN, int IN, int OUT>
__device__ __forceinline__ void layer(uint32_t (&next)[OUT][4], const uint32_t (&a)[IN][4], uint32_t row, float scale) {
  float c[2 * OUT][4] = {};
#pragma unroll
  for (int k = 0; k < IN; ++k)
#pragma unroll
    for (int n = 0; n < OUT; ++n) {
      uint32_t b[4];
      load_operand<TRANSPOSED>(b, row, k * 16, n * 16);
      mma(c[2 * n], a[k], b[0], b[1]);
      mma(c[2 * n + 1], a[k], b[2], b[3]);
    }
#pragma unroll
  for (int j = 0; j < 2 * OUT; ++j) {
    if (BETWEEN == Between::MISH && j % 2 == 0) __syncwarp();  // or all exponentials start at once and need registers
#pragma unroll
    for (int i = 0; i < 2; ++i)
      next[j / 2][j % 2 * 2 + i] = pack_bf16(scale * apply<BETWEEN>(c[j][2 * i]), scale * apply<BETWEEN>(c[j][2 * i + 1]));
  }
}

template <Between BETWEEN>
__global__ void __launch_bounds__(256, 1)
    chained(const uint16_t* matrix, const uint16_t* rows, uint16_t* out, long long* cycles, int iterations) {
  extern __shared__ __align__(16) uint16_t copy[];
  const int lane = threadIdx.x % 32, row0 = threadIdx.x / 32 * 16;
  load_matrix(copy, matrix);
  uint32_t a[STEPS][4], hidden[UNITS / 16][4];
  load_rows(a, rows, row0, lane);
  const uint32_t row = lane_row(copy, lane);
  __syncthreads();
  if (threadIdx.x == 0) cycles[blockIdx.x] = -clock64();  // in memory: the loop leaves no register for it
#pragma unroll 1
  for (int i = 0; i < iterations; ++i) {
    layer<false, BETWEEN>(hidden, a, row, 1.0f);
    layer<true, Between::NOTHING>(a, hidden, row, SCALE);
  }
  __syncthreads();
  if (threadIdx.x == 0) cycles[blockIdx.x] += clock64();
  out += static_cast<size_t>(blockIdx.x) * (blockDim.x / 32) * 16 * SIZE;
#pragma unroll
  for (int k = 0; k < STEPS; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int y = row0 + lane / 4 + i % 2 * 8, x = k * 16 + lane % 4 * 2 + i / 2 * 8;
      *reinterpret_cast<uint32_t*>(&out[y * SIZE + x]) = a[k][i];
    }
}

// (rows, 256) times the first `units` rows of the matrix, or (rows, units) times their transpose, in double.
std::vector<double> product(const std::vector<double>& rows, const std::vector<uint16_t>& matrix, int units,
                            bool transposed) {
  const int in = transposed ? units : SIZE, out = transposed ? SIZE : units;
  const size_t count = rows.size() / in;
  std::vector<double> result(count * out);
  for (size_t row = 0; row < count; ++row)
    for (int i = 0; i < units; ++i)
      for (int j = 0; j < SIZE; ++j)
        result[row * out + (transposed ? j : i)] += rows[row * in + (transposed ? i : j)] * from_bf16(matrix[i * SIZE + j]);
  return result;
}

template <class Kernel, class T>
std::vector<double> run(Kernel kernel, int blocks, int warps, const Buffer<uint16_t>& matrix,
                        const Buffer<uint16_t>& rows, Buffer<T>& out, int repeats, int launches) {
  CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES));
  Buffer<long long> cycles(blocks);
  out.poison();
  std::vector<double> samples;
  for (int i = 0; i < launches; ++i) {
    kernel<<<blocks, warps * 32, SHARED_BYTES>>>(matrix.data, rows.data, out.data, cycles.data, repeats);
    CHECK(cudaGetLastError());
    CHECK(cudaDeviceSynchronize());
    if (i == 0 && launches > 1) continue;  // the first one also loads the code
    for (long long count : cycles.host()) samples.push_back(static_cast<double>(count));
  }
  return samples;
}

template <int TILES, bool TRANSPOSED>
void measure_product(int blocks, int warps) {
  constexpr int REPEATS = 64;
  const std::string parameters = number("warps", warps) + ", " + number("rows_per_warp", TILES * 16) + ", " +
                                 text("operand", TRANSPOSED ? "ldmatrix.trans" : "ldmatrix");
  const int count = warps * TILES * 16;
  Uniform uniform(2);  // small integers: every sum is exact
  std::vector<uint16_t> matrix(SIZE * SIZE), rows(count * SIZE);
  for (uint16_t& number : matrix) number = to_bf16(std::round(2 * uniform()));
  for (uint16_t& number : rows) number = to_bf16(std::round(1.5f * uniform()));
  Buffer<float> out(static_cast<size_t>(blocks) * count * SIZE);
  auto samples = run(product_rate<TILES, TRANSPOSED>, blocks, warps, Buffer<uint16_t>(matrix), Buffer<uint16_t>(rows),
                     out, REPEATS, 6);
  std::vector<double> wide(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) wide[i] = from_bf16(rows[i]);
  const std::vector<double> wanted = product(wide, matrix, SIZE, TRANSPOSED);
  const std::vector<float> actual = out.host();
  for (size_t i = 0; i < actual.size(); ++i)
    require(actual[i] == REPEATS * wanted[i % wanted.size()], "product, " + parameters + ", entry " + std::to_string(i));
  for (double& sample : samples) sample = 2.0 * count * SIZE * SIZE * REPEATS / sample;
  report("mma_rates, product", parameters, samples, "FLOP/clk/SM", "rows per warp and warps of the mma.sync kernel");
}

template <Between BETWEEN>
void measure_chain(const char* between, int blocks, int warps) {
  constexpr int ITERATIONS = 40, CHECKED = 2;
  const std::string parameters = number("warps", warps) + ", " + text("between", between);
  const int count = warps * 16;
  Uniform uniform(3);
  std::vector<uint16_t> matrix(SIZE * SIZE), rows(count * SIZE);
  for (uint16_t& number : matrix) number = to_bf16(0.1f * uniform());
  for (uint16_t& number : rows) number = to_bf16(uniform());
  Buffer<uint16_t> out(static_cast<size_t>(blocks) * count * SIZE), on_device(matrix), start(rows);

  run(chained<BETWEEN>, blocks, warps, on_device, start, out, CHECKED, 1);
  std::vector<double> wanted(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) wanted[i] = from_bf16(rows[i]);
  double largest = 0;
  for (int i = 0; i < CHECKED; ++i) {
    std::vector<double> hidden = product(wanted, matrix, UNITS, false);
    for (double& x : hidden) {
      if (BETWEEN == Between::RELU) x = std::max(x, 0.0);
      if (BETWEEN == Between::MISH) x *= std::tanh(std::log1p(std::exp(x)));
      x = from_bf16(to_bf16(static_cast<float>(x)));
    }
    wanted = product(hidden, matrix, UNITS, true);
    for (double& x : wanted) x = from_bf16(to_bf16(static_cast<float>(SCALE * x)));
  }
  for (double x : wanted) largest = std::max(largest, std::abs(x));
  std::vector<uint16_t> actual = out.host();
  for (size_t i = 0; i < actual.size(); ++i)  // written so that NaN fails
    require(std::abs(from_bf16(actual[i]) - wanted[i % wanted.size()]) <= 0.02 * largest,
            "chain, " + parameters + ", entry " + std::to_string(i));

  auto samples = run(chained<BETWEEN>, blocks, warps, on_device, start, out, ITERATIONS, 6);
  actual = out.host();
  for (size_t i = 0; i < actual.size(); ++i)
    require(actual[i] == actual[i % wanted.size()] && std::isfinite(from_bf16(actual[i])),
            "long chain, " + parameters + ": blocks differ at entry " + std::to_string(i));
  for (double& sample : samples) sample = 2.0 * 2 * count * SIZE * UNITS * ITERATIONS / sample;
  report("mma_rates, chain", parameters, samples, "FLOP/clk/SM", "how much elementwise work costs beside the products");
}

}  // namespace

int main() {
  cudaDeviceProp device;
  CHECK(cudaGetDeviceProperties(&device, 0));
  const int blocks = device.multiProcessorCount;
  for (int warps : {4, 8}) {
    measure_product<1, false>(blocks, warps);
    measure_product<1, true>(blocks, warps);
    measure_product<2, false>(blocks, warps);
    measure_product<2, true>(blocks, warps);
  }
  for (int warps : {4, 8}) {
    measure_chain<Between::NOTHING>("nothing", blocks, warps);
    measure_chain<Between::RELU>("ReLU", blocks, warps);
    measure_chain<Between::MISH>("Mish", blocks, warps);
  }
}
