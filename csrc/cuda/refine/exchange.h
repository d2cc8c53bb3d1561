// Sums over the blocks of a cluster: every block sends its numbers to all blocks of a group, itself among them, and adds what
// it received in the order of ranks, so that all get the same bits.
//
// Two inboxes in turn are enough: a block sends round k + 2 after it has read round k + 1 of all others, who sent that after
// they had read round k.
#pragma once
#include "cuda/primitives.h"

namespace dtag::gpu {

class Exchange {
 public:
  // `senders` blocks from rank `first` on, `count` numbers of each.
  DTAG_MEMBER Exchange(uint32_t inbox, uint32_t barriers, int first, int senders, int count)
      : inbox_(inbox), barriers_(barriers), first_(first), senders_(senders), count_(count) {}

  // One thread, before the sync_cluster() after which the exchange may be used.
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

  // Everybody's numbers of this round have come.
  DTAG_MEMBER void wait() const { mbarrier_wait(barrier(round_ & 1), (round_ >> 1) & 1); }
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
