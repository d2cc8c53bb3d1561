// All-to-all of 8 words between the blocks of a cluster, one warp per block: nanoseconds per round, by method.
//
// A round: every block gives its 8 words to every block, and each takes as its next words a function of the sums it
// received, so no round can start before the one before has ended. Words are integers: sums are exact in any order, and
// the recurrence never settles, so a word of an older round is noticed at the end.
#include "cluster.cuh"

namespace {

constexpr int WORDS = 8, ROUNDS = 4000, LAUNCHES = 40;

enum class Method { ASYNC, ASYNC_VECTOR, ASYNC_CLUSTER_SCOPE, CLUSTER_SYNC, RELAXED_BARRIER, GLOBAL_FLAGS };

__host__ __device__ constexpr uint32_t next_word(uint32_t sum, int rank) { return sum * 1664525u + 1013904223u + rank; }
__host__ __device__ constexpr uint32_t first_word(int rank, int word) { return 2654435761u * (rank * WORDS + word + 1); }

// Two buffers are enough: nobody sends round i + 2 before it has every word of round i + 1, and a block sends those
// after it has read round i.
template <int BLOCKS, Method METHOD>
__global__ void __launch_bounds__(32) exchange(uint32_t* out, uint32_t* mail, uint32_t* flags, uint32_t rounds_before,
                                               int rounds) {
  constexpr bool ASYNC =
      METHOD == Method::ASYNC || METHOD == Method::ASYNC_VECTOR || METHOD == Method::ASYNC_CLUSTER_SCOPE;
  // A lane holds OWN of the 8 words, as LANES - 1 others of its group do the rest; groups take the destinations in turn.
  constexpr int OWN = METHOD == Method::ASYNC_VECTOR ? 4 : 1, LANES = WORDS / OWN, GROUPS = 32 / LANES;
  __shared__ alignas(16) uint32_t inbox[2][BLOCKS][WORDS];
  __shared__ alignas(8) uint64_t arrived[2];
  const int rank = static_cast<int>(cooperative_groups::this_cluster().block_rank());
  const int lane = threadIdx.x, group = lane / LANES, first = lane % LANES * OWN;

  uint32_t words[OWN];
  for (int i = 0; i < OWN; ++i) words[i] = first_word(rank, first + i);
  if (lane == 0) {
    barrier_init(&arrived[0]);
    barrier_init(&arrived[1]);
    publish_barriers();
  }
  __syncwarp();
  cluster_sync();

  for (int round = 0; round < rounds; ++round) {
    const int half = round & 1;
    if constexpr (ASYNC) {
      if (lane == 0) expect_bytes(&arrived[half], BLOCKS * WORDS * 4);
      for (int to = group; to < BLOCKS; to += GROUPS) {
        const uint32_t address = peer_address(shared_address(&inbox[half][rank][first]), to);
        const uint32_t barrier = peer_address(shared_address(&arrived[half]), to);
        if constexpr (OWN == 4)
          store_async(address, words, barrier);
        else
          store_async(address, words[0], barrier);
      }
      wait_phase<METHOD == Method::ASYNC_CLUSTER_SCOPE>(&arrived[half], (round >> 1) & 1);
    } else if constexpr (METHOD == Method::GLOBAL_FLAGS) {
      uint32_t* const slots = mail + half * BLOCKS * WORDS;
      const uint32_t stamp = rounds_before + round + 1;
      if (group == 0) __stcg(&slots[rank * WORDS + first], words[0]);
      __syncwarp();
      if (lane == 0) asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(&flags[rank]), "r"(stamp) : "memory");
      if (lane < BLOCKS) {
        uint32_t seen;
        do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(&flags[lane]) : "memory");
        while (static_cast<int32_t>(seen - stamp) < 0);
      }
      __syncwarp();
    } else {
      for (int to = group; to < BLOCKS; to += GROUPS)
        *cooperative_groups::this_cluster().map_shared_rank(&inbox[half][rank][first], to) = words[0];
      __syncwarp();
      if constexpr (METHOD == Method::CLUSTER_SYNC) {
        cluster_sync();
      } else {
        asm volatile("fence.acq_rel.cluster;" ::: "memory");
        asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
        asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
      }
    }
    for (int i = 0; i < OWN; ++i) {
      uint32_t sum = 0;
#pragma unroll
      for (int from = 0; from < BLOCKS; ++from) {
        if constexpr (METHOD == Method::GLOBAL_FLAGS)
          sum += __ldcg(&mail[(half * BLOCKS + from) * WORDS + first]);
        else
          sum += inbox[half][from][first + i];
      }
      words[i] = next_word(sum, rank);
    }
    __syncwarp();  // every lane has read this round before any of them sends the next
  }
  if (group == 0)
    for (int i = 0; i < OWN; ++i) out[rank * WORDS + first + i] = words[i];
  cluster_sync();  // no block leaves while a peer may still write to it
}

template <int BLOCKS>
std::vector<uint32_t> expected() {
  std::vector<uint32_t> now(BLOCKS * WORDS), next(BLOCKS * WORDS);
  for (int rank = 0; rank < BLOCKS; ++rank)
    for (int word = 0; word < WORDS; ++word) now[rank * WORDS + word] = first_word(rank, word);
  for (int round = 0; round < ROUNDS; ++round) {
    for (int word = 0; word < WORDS; ++word) {
      uint32_t sum = 0;
      for (int rank = 0; rank < BLOCKS; ++rank) sum += now[rank * WORDS + word];
      for (int rank = 0; rank < BLOCKS; ++rank) next[rank * WORDS + word] = next_word(sum, rank);
    }
    now.swap(next);
  }
  return now;
}

template <int BLOCKS, Method METHOD>
void measure(const char* method) {
  auto kernel = exchange<BLOCKS, METHOD>;
  const std::string parameters = number("blocks", BLOCKS) + ", " + text("method", method);
  if (std::string reason = why_no_cluster(kernel, BLOCKS, 32); !reason.empty())
    return skip("exchange", parameters, reason);
  Buffer<uint32_t> out(BLOCKS * WORDS), mail(2 * BLOCKS * WORDS), flags(BLOCKS);
  out.poison();
  CHECK(cudaMemset(flags.data, 0, BLOCKS * sizeof(uint32_t)));
  uint32_t rounds_before = 0;
  auto times = time_launches(LAUNCHES, 1, [&] {
    launch_cluster(kernel, BLOCKS, 32, out.data, mail.data, flags.data, rounds_before, ROUNDS);
    rounds_before += ROUNDS;
  });
  require(out.host() == expected<BLOCKS>(), parameters);
  for (double& time : times) time *= 1e3 / ROUNDS;
  report("exchange", parameters, times, "ns per round", "how blocks of one critic exchange the action gradient");
}

template <int BLOCKS>
void measure_all() {
  measure<BLOCKS, Method::ASYNC>("st.async, mbarrier");
  measure<BLOCKS, Method::ASYNC_VECTOR>("st.async of 16 B, mbarrier");
  measure<BLOCKS, Method::ASYNC_CLUSTER_SCOPE>("st.async, mbarrier, cluster-scope acquire");
  measure<BLOCKS, Method::CLUSTER_SYNC>("stores, cluster.sync()");
  measure<BLOCKS, Method::RELAXED_BARRIER>("stores, fence, relaxed cluster barrier");
  measure<BLOCKS, Method::GLOBAL_FLAGS>("global memory, flags");
}

}  // namespace

int main() {
  measure_all<2>();
  measure_all<4>();
  measure_all<8>();
  measure_all<16>();
}
