// The blocks that carry the same rows are a cluster, and send each other numbers from shared memory to shared memory.
//
// As meet_in_global_memory.h: every block sends its numbers to all blocks of a group, itself among them, and adds what it
// received in the order of ranks, so that all get the same bits. Two inboxes in turn are enough: a block sends round k + 2
// after it has read round k + 1 of all others, who sent that after they had read round k.
#pragma once
#include "cuda/primitives.h"
#include "cuda/refine/latency_params.h"

namespace dtag::gpu {

struct MeetInCluster {
  class Exchange;
  DTAG_MEMBER explicit MeetInCluster(const cuda::LatencyParams&) {}

  DTAG_MEMBER int size() const { return cluster_size(); }
  DTAG_MEMBER int rank() const { return cluster_rank(); }
  // Of all groups of blocks, the own one.
  DTAG_MEMBER int group() const { return block_index() / cluster_size(); }
  DTAG_MEMBER int groups() const { return block_count() / cluster_size(); }

  // All threads, after thread 0 has initialised the exchanges.
  DTAG_MEMBER void begin() const {
    if (thread_index() == 0) mbarrier_init_fence();
    sync_cluster();
  }
  // All threads, after the last round: nobody ends while others may still send to it.
  DTAG_MEMBER void end() const { sync_cluster(); }
};

class MeetInCluster::Exchange {
 public:
  // Between `senders` blocks from rank `first` on.
  DTAG_MEMBER Exchange(const MeetInCluster&, const cuda::LatencyMemory& m, cuda::LatencyInbox which, int first, int senders)
      : Exchange(m.inbox[which], m.barrier[which], first, senders, m.count[which]) {}
  // `count` numbers of each; offsets of the inboxes and of two mbarriers.
  DTAG_MEMBER Exchange(uint32_t inbox, uint32_t barriers, int first, int senders, int count)
      : inbox_(inbox), barriers_(barriers), first_(first), senders_(senders), count_(count) {}

  // One thread, before begin().
  DTAG_MEMBER void init() const {
    mbarrier_init(barrier(0), 1);
    mbarrier_init(barrier(1), 1);
  }

  // One thread, once a round, any time before its wait().
  DTAG_MEMBER void expect() const { mbarrier_arrive_expect(barrier(round_ & 1), senders_ * count_ * 4); }

  // Number c of this block to block `to` of the group.
  DTAG_MEMBER void send(int to, int c, float x) const {
    const Shared<float> place = box() + ((round_ & 1) * senders_ + cluster_rank() - first_) * count_ + c;
    store_async(remote(place, first_ + to), x, remote(barrier(round_ & 1), first_ + to));
  }

  // Everybody's numbers of this round have come: all threads of the block.
  DTAG_MEMBER void wait() const { mbarrier_wait(barrier(round_ & 1), (round_ >> 1) & 1); }
  // Numbers first to first + n - 1 have, for a warp.
  DTAG_MEMBER void wait_for(int first, int n) const {
    (void)first, (void)n;
    wait();
  }
  DTAG_MEMBER float received(int sender, int c) const { return box()[((round_ & 1) * senders_ + sender) * count_ + c]; }

  // All threads, after the last received() of the round.
  DTAG_MEMBER void next() { ++round_; }

 private:
  DTAG_MEMBER Shared<float> box() const { return shared_part<float>(inbox_, int64_t(2) * senders_ * count_); }
  DTAG_MEMBER Shared<Mbarrier> barrier(int which) const { return shared_part<Mbarrier>(barriers_, 2) + which; }

  uint32_t inbox_, barriers_;
  int first_, senders_, count_, round_ = 0;
};

}  // namespace dtag::gpu
