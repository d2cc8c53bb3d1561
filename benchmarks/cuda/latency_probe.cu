// One state, twin critics [256, 256] ReLU, refined by one cluster of blocks: microseconds per iteration, by blocks and
// threads per block.
//
// Half of the blocks belong to each critic; a block owns ROWS output rows of its W2, kept in registers from the first
// iteration to the last and used in both directions: forward for its part of z2, backward for its share of dQ/dh1. The
// rest of the backward pass is linear, so each block finishes its own share of dQ/da, and one exchange of 6 + 1
// numbers per iteration (the gradient and Q) ends it. The state is already folded into the first bias.
#include <cmath>

#include "cluster.cuh"

namespace {

constexpr int HIDDEN = 256, ACTIONS = 6, MEMBERS = 2, SENT = ACTIONS + 1;
constexpr float STEP = 0.01f;

struct Critics {  // device pointers
  const float* w1;    // (2, 6, 256): of the action, a row per action
  const float* base;  // (2, 256): first bias with the state folded in
  const float* w2;    // (2, 256, 256): a row per output
  const float* b2;    // (2, 256)
  const float* w3;    // (2, 256)
};

// Sums each of COUNT values over the warp with COUNT - 1 + 5 - log2(COUNT) shuffles: at each halving a lane keeps half
// of its values and gives the others to its partner. Lane l ends with value l / (32 / COUNT).
template <int COUNT, int OFFSET = 16>
__device__ __forceinline__ float transposed_sum(const float (&values)[COUNT], int lane) {
  if constexpr (COUNT == 1) {
    float sum = values[0];
#pragma unroll
    for (int offset = OFFSET; offset >= 1; offset >>= 1) sum += __shfl_xor_sync(~0u, sum, offset);
    return sum;
  } else {
    constexpr int KEPT = COUNT / 2;
    const bool upper = lane & OFFSET;
    float mine[KEPT];
#pragma unroll
    for (int i = 0; i < KEPT; ++i) {
      const float given = upper ? values[i] : values[i + KEPT];
      mine[i] = (upper ? values[i + KEPT] : values[i]) + __shfl_xor_sync(~0u, given, OFFSET);
    }
    return transposed_sum<KEPT, OFFSET / 2>(mine, lane);
  }
}

template <int BLOCKS, int THREADS>
__global__ void __launch_bounds__(THREADS, 1)
    refine(Critics critics, const float* start, float* best_action, float* last_action, int iterations) {
  constexpr int PER_MEMBER = BLOCKS / MEMBERS, ROWS = HIDDEN / PER_MEMBER, WARPS = THREADS / 32;
  constexpr int WARP_ROWS = ROWS / WARPS;     // of W2, in the registers of one warp
  constexpr int COLUMNS = HIDDEN / 32;        // of each such row, in those of one lane
  constexpr int UNITS = HIDDEN / THREADS;     // of the first layer, by one thread
  constexpr int SHARERS = 32 / WARP_ROWS;     // lanes that end with the same row's sum
  static_assert(ROWS % WARPS == 0 && HIDDEN % THREADS == 0 && COLUMNS == 8 && BLOCKS * SENT <= THREADS);
  static_assert(WARP_ROWS <= 16 && (WARP_ROWS & (WARP_ROWS - 1)) == 0);

  __shared__ alignas(16) float hidden[HIDDEN], back[WARPS][HIDDEN];
  __shared__ float dz2[ROWS], partial[WARPS][8], action[ACTIONS], inbox[2][BLOCKS][8];
  __shared__ alignas(8) uint64_t arrived[2];
  const int rank = static_cast<int>(cooperative_groups::this_cluster().block_rank());
  const int member = rank / PER_MEMBER, first_row = rank % PER_MEMBER * ROWS;
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;

  float w2[WARP_ROWS][COLUMNS];  // columns 4 lane + 0..3 and 128 + 4 lane + 0..3
  const float* rows = critics.w2 + (member * HIDDEN + first_row + warp * WARP_ROWS) * HIDDEN;
#pragma unroll
  for (int i = 0; i < WARP_ROWS; ++i)
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float4 four = *reinterpret_cast<const float4*>(rows + i * HIDDEN + j * 128 + lane * 4);
      w2[i][4 * j] = four.x, w2[i][4 * j + 1] = four.y, w2[i][4 * j + 2] = four.z, w2[i][4 * j + 3] = four.w;
    }
  float w1[UNITS][ACTIONS], base[UNITS];
#pragma unroll
  for (int u = 0; u < UNITS; ++u) {
    base[u] = critics.base[member * HIDDEN + u * THREADS + thread];
#pragma unroll
    for (int k = 0; k < ACTIONS; ++k) w1[u][k] = critics.w1[(member * ACTIONS + k) * HIDDEN + u * THREADS + thread];
  }
  const int my_row = warp * WARP_ROWS + lane / SHARERS;
  const float b2 = critics.b2[member * HIDDEN + first_row + my_row];
  const float w3 = critics.w3[member * HIDDEN + first_row + my_row];

  if (thread == 0) {
    barrier_init(&arrived[0]);
    barrier_init(&arrived[1]);
    publish_barriers();
  }
  if (thread < ACTIONS) action[thread] = start[thread];
  __syncthreads();
  cluster_sync();

  float best_q = -1e30f, best = 0;
  for (int iteration = 0; iteration < iterations; ++iteration) {
    const int half = iteration & 1;
    if (thread == 0) expect_bytes(&arrived[half], BLOCKS * SENT * 4);

    bool alive[UNITS];
#pragma unroll
    for (int u = 0; u < UNITS; ++u) {
      float z1 = base[u];
#pragma unroll
      for (int k = 0; k < ACTIONS; ++k) z1 = fmaf(w1[u][k], action[k], z1);
      alive[u] = z1 > 0;
      hidden[u * THREADS + thread] = fmaxf(z1, 0.0f);
    }
    __syncthreads();

    float sums[WARP_ROWS];
    const float4 low = *reinterpret_cast<const float4*>(&hidden[lane * 4]);
    const float4 high = *reinterpret_cast<const float4*>(&hidden[128 + lane * 4]);
    const float x[COLUMNS] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (int i = 0; i < WARP_ROWS; ++i) {
      sums[i] = 0;
#pragma unroll
      for (int j = 0; j < COLUMNS; ++j) sums[i] = fmaf(w2[i][j], x[j], sums[i]);
    }
    const float z2 = transposed_sum(sums, lane) + b2;
    const float d = z2 > 0 ? w3 : 0.0f;
    float q = 0;
    if (lane % SHARERS == 0) {
      dz2[my_row] = d;
      q = d * z2;
    }
    __syncwarp();

    float shares[COLUMNS] = {};
#pragma unroll
    for (int i = 0; i < WARP_ROWS; ++i) {
      const float g = dz2[warp * WARP_ROWS + i];
#pragma unroll
      for (int j = 0; j < COLUMNS; ++j) shares[j] = fmaf(w2[i][j], g, shares[j]);
    }
    *reinterpret_cast<float4*>(&back[warp][lane * 4]) = make_float4(shares[0], shares[1], shares[2], shares[3]);
    *reinterpret_cast<float4*>(&back[warp][128 + lane * 4]) = make_float4(shares[4], shares[5], shares[6], shares[7]);
    __syncthreads();

    float products[8] = {};  // of dQ/da by component, then Q
    products[ACTIONS] = q;
#pragma unroll
    for (int u = 0; u < UNITS; ++u) {
      float dh1 = 0;
#pragma unroll
      for (int i = 0; i < WARPS; ++i) dh1 += back[i][u * THREADS + thread];
      if (!alive[u]) dh1 = 0;
#pragma unroll
      for (int k = 0; k < ACTIONS; ++k) products[k] = fmaf(dh1, w1[u][k], products[k]);
    }
    const float component = transposed_sum(products, lane);
    if (lane % 4 == 0) partial[warp][lane / 4] = component;
    __syncthreads();

    if (thread < BLOCKS * SENT) {
      const int to = thread / SENT, c = thread % SENT;
      float sum = 0;
#pragma unroll
      for (int i = 0; i < WARPS; ++i) sum += partial[i][c];
      store_async(peer_address(shared_address(&inbox[half][rank][c]), to), __float_as_uint(sum),
                  peer_address(shared_address(&arrived[half]), to));
    }
    if (warp == 0) {
      wait_phase<false>(&arrived[half], (iteration >> 1) & 1);
      const int c = thread < ACTIONS ? thread : 0;
      float qs[MEMBERS] = {}, gradients[MEMBERS] = {};
#pragma unroll
      for (int m = 0; m < MEMBERS; ++m)
#pragma unroll
        for (int i = 0; i < PER_MEMBER; ++i) {
          qs[m] += inbox[half][m * PER_MEMBER + i][ACTIONS];
          gradients[m] += inbox[half][m * PER_MEMBER + i][c];
        }
      const float smaller = fminf(qs[0], qs[1]), gradient = qs[0] <= qs[1] ? gradients[0] : gradients[1];
      if (thread < ACTIONS) {
        const float now = action[thread];
        if (smaller > best_q) best_q = smaller, best = now;
        action[thread] = fminf(1.0f, fmaxf(-1.0f, fmaf(STEP, gradient, now)));
      }
    }
    __syncthreads();
  }
  if (rank == 0 && thread < ACTIONS) best_action[thread] = best, last_action[thread] = action[thread];
  cluster_sync();  // no block leaves while a peer may still write to it
}

struct Problem {
  std::vector<float> w1, base, w2, b2, w3, start;
  Problem()
      : w1(MEMBERS * ACTIONS * HIDDEN), base(MEMBERS * HIDDEN), w2(MEMBERS * HIDDEN * HIDDEN), b2(MEMBERS * HIDDEN),
        w3(MEMBERS * HIDDEN), start(ACTIONS) {
    Uniform uniform(11);  // of these critics now one, now the other is the smaller along the way
    auto fill = [&](std::vector<float>& numbers, float scale) {
      for (float& number : numbers) number = scale * uniform();
    };
    fill(w1, 0.5f), fill(base, 1.0f), fill(w2, 0.1f), fill(b2, 0.1f), fill(w3, 0.1f), fill(start, 0.5f);
  }
};

struct Result {
  double best[ACTIONS], last[ACTIONS];
};

// The same loop in float64, as it is written in a book.
Result reference(const Problem& p, int iterations) {
  Result result{};
  double best_q = -1e30;
  for (int k = 0; k < ACTIONS; ++k) result.last[k] = p.start[k];
  for (int iteration = 0; iteration < iterations; ++iteration) {
    double qs[MEMBERS], gradients[MEMBERS][ACTIONS];
    for (int m = 0; m < MEMBERS; ++m) {
      std::vector<double> z1(HIDDEN), dh1(HIDDEN);
      double q = 0;
      for (int j = 0; j < HIDDEN; ++j) {
        z1[j] = p.base[m * HIDDEN + j];
        for (int k = 0; k < ACTIONS; ++k) z1[j] += double(p.w1[(m * ACTIONS + k) * HIDDEN + j]) * result.last[k];
      }
      for (int i = 0; i < HIDDEN; ++i) {
        const float* row = &p.w2[(m * HIDDEN + i) * HIDDEN];
        double z2 = p.b2[m * HIDDEN + i];
        for (int j = 0; j < HIDDEN; ++j) z2 += row[j] * std::max(z1[j], 0.0);
        if (z2 <= 0) continue;
        q += p.w3[m * HIDDEN + i] * z2;
        for (int j = 0; j < HIDDEN; ++j) dh1[j] += double(row[j]) * p.w3[m * HIDDEN + i];
      }
      qs[m] = q;
      for (int k = 0; k < ACTIONS; ++k) {
        gradients[m][k] = 0;
        for (int j = 0; j < HIDDEN; ++j)
          if (z1[j] > 0) gradients[m][k] += dh1[j] * p.w1[(m * ACTIONS + k) * HIDDEN + j];
      }
    }
    const int chosen = qs[0] <= qs[1] ? 0 : 1;
    if (qs[chosen] > best_q) {
      best_q = qs[chosen];
      for (int k = 0; k < ACTIONS; ++k) result.best[k] = result.last[k];
    }
    for (int k = 0; k < ACTIONS; ++k)
      result.last[k] = std::min(1.0, std::max(-1.0, result.last[k] + double(STEP) * gradients[chosen][k]));
  }
  return result;
}

void require_close(const std::vector<float>& actual, const double* wanted, double tolerance, const std::string& what) {
  for (int k = 0; k < ACTIONS; ++k)  // written so that NaN fails
    require(std::abs(actual[k] - wanted[k]) <= tolerance,
            what + ": component " + std::to_string(k) + " is " + std::to_string(actual[k]) + ", expected " +
                std::to_string(wanted[k]));
}

template <int BLOCKS, int THREADS>
void measure(const Problem& problem) {
  constexpr int FEW = 10, MANY = 100;
  auto kernel = refine<BLOCKS, THREADS>;
  const std::string parameters = number("blocks", BLOCKS) + ", " + number("threads", THREADS);
  const char* const decides = "blocks and threads of the batch-1 kernel";
  if (std::string reason = why_no_cluster(kernel, BLOCKS, THREADS); !reason.empty())
    return skip("latency_probe", parameters, reason);
  Buffer<float> w1(problem.w1), base(problem.base), w2(problem.w2), b2(problem.b2), w3(problem.w3), start(problem.start);
  Buffer<float> best(ACTIONS), last(ACTIONS);
  const Critics critics{w1.data, base.data, w2.data, b2.data, w3.data};
  std::vector<double> times[2];
  for (int which = 0; which < 2; ++which) {
    const int iterations = which ? MANY : FEW;
    best.poison(), last.poison();
    times[which] = time_launches(60, 20, [&] {
      launch_cluster(kernel, BLOCKS, THREADS, critics, start.data, best.data, last.data, iterations);
    });
    // Rounding may put a unit on the other side of its kink, the more often the longer the loop.
    const Result wanted = reference(problem, iterations);
    const double tolerance = which ? 2e-3 : 1e-5;
    require_close(best.host(), wanted.best, tolerance, parameters + ", best of " + std::to_string(iterations));
    require_close(last.host(), wanted.last, tolerance, parameters + ", last of " + std::to_string(iterations));
  }
  report("latency_probe, launch of 10", parameters, times[0], "us", decides);
  report("latency_probe, launch of 100", parameters, times[1], "us", decides);
  for (size_t i = 0; i < times[1].size(); ++i) times[1][i] = (times[1][i] - times[0][i]) / (MANY - FEW);
  report("latency_probe, slope", parameters, times[1], "us per iteration", decides);
}

}  // namespace

int main() {
  const Problem problem;
  measure<4, 256>(problem);  // 4 blocks of 128 threads would need 256 registers for the weights alone
  measure<8, 128>(problem);
  measure<8, 256>(problem);
  measure<16, 128>(problem);
  measure<16, 256>(problem);
}
