// cuda/primitives.h for the CPU: the same names, run by simt::launch (machine.h).
#pragma once
#include <math.h>
#include <stdint.h>

#include "simt_host/async_copy.h"
#include "simt_host/collectives.h"
#include "simt_host/mbarrier.h"
#include "simt_host/mma.h"
#include "simt_host/shared_pointer.h"
#include "simt_host/stamped.h"
#include "simt_host/warpgroup.h"

#define DTAG_INLINE static inline
#define DTAG_FUNCTION [[maybe_unused]] static
#define DTAG_MEMBER inline
#define DTAG_LAMBDA
#define DTAG_GRID_CONSTANT
#define DTAG_UNROLL
#define DTAG_KERNEL(threads) [[maybe_unused]] static void

namespace dtag::gpu {

constexpr int kWarp = 32, kWarpgroup = simt::kWarpgroupThreads;

inline void keep_order() {}
inline int anew(int x) { return x; }
inline int thread_index() { return simt::self().index; }
inline int block_index() { return simt::self().block->index; }
inline int block_count() { return simt::self().machine->shape().grid; }
inline int lane_index() { return thread_index() % kWarp; }
inline int warp_index() { return thread_index() / kWarp; }
inline int cluster_rank() { return simt::self().machine->shape().cooperative ? 0 : simt::self().block->rank; }
inline int cluster_size() { return simt::self().machine->shape().cluster; }

using simt::Float4;
using simt::Shared;
using simt::load4;
using simt::shared_part;
using simt::store4;

using simt::shuffle;
using simt::shuffle_xor;
using simt::sync_block;
using simt::sync_block_or;
using simt::sync_cluster;
using simt::sync_warp;
using simt::vote_all;
using simt::vote_any;

using simt::Stamped;
using simt::clear_stamped;
using simt::store_stamped;
using simt::wait_stamped;

using simt::copy_async16;
using simt::copy_async_commit;
using simt::copy_async_wait;

using simt::load_matrix;
using simt::load_matrix_trans;
using simt::mma_bf16;
using simt::mma_tf32;
using simt::pack_bf16;
using simt::round_tf32;

using simt::wgmma_bf16;
using simt::wgmma_begin;
using simt::wgmma_end;
using simt::publish_to_wgmma;
using simt::sync_warpgroup;
using simt::sync_warpgroup_or;
using simt::warpgroup_index;

template <class T>
struct Remote {
  simt::Block* block = nullptr;
  int64_t offset = 0;
  simt::Part part;
};
template <class T>
inline Remote<T> remote(Shared<T> p, int rank) {
  simt::Thread& me = simt::self();
  if (rank < 0 || rank >= cluster_size())
    throw simt::Fault(simt::FaultKind::usage, 
                      name_thread(me) + ": no block of rank " + std::to_string(rank) + " in the cluster");
  checked(me, p, sizeof(T), "remote");
  return {&me.machine->block(me.block->rank - cluster_rank() + rank), p.offset(), p.part()};
}

// A type of its own, which no number is mistaken for.
struct Mbarrier {
  uint64_t state;
};
inline void mbarrier_init(Shared<Mbarrier> b, int arrivals) {
  simt::Thread& me = simt::self();
  checked(me, b, 8, "mbarrier_init");
  simt::mbarrier_init(me, uint32_t(b.offset()), b.part(), arrivals);
}
inline void mbarrier_init_fence() { simt::mbarrier_init_fence(simt::self()); }
inline void mbarrier_arrive_expect(Shared<Mbarrier> b, int bytes) {
  simt::Thread& me = simt::self();
  checked(me, b, 8, "mbarrier_arrive_expect");
  simt::mbarrier_arrive_expect(me, uint32_t(b.offset()), bytes);
}
inline void mbarrier_wait(Shared<Mbarrier> b, int parity) {
  simt::Thread& me = simt::self();
  checked(me, b, 8, "mbarrier_wait");
  simt::mbarrier_wait(me, uint32_t(b.offset()), parity);
}
inline void store_async(Remote<float> to, float x, Remote<Mbarrier> b) {
  simt::store_async(simt::self(), *to.block, to.offset, to.part, x, *b.block, b.offset);
}

}  // namespace dtag::gpu
