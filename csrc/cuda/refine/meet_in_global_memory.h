// The blocks that carry the same rows meet in global memory, for devices without clusters. Every number is one stamped word
// in the receiver's inbox there; whoever waits copies it to shared memory.
//
// What has to hold: the blocks of a group run together (a cooperative launch), each word is waited for by one thread, a
// block's barrier stands between its reading of a round and its sending of the next. Then two inboxes in turn are enough, as
// in meet_in_cluster.h, and nothing is under way to a block that has received its last round, which therefore may empty its
// inboxes for the next launch.
#pragma once
#include "cuda/primitives.h"
#include "cuda/refine/latency_params.h"

namespace dtag::gpu {

class MeetInGlobalMemory {
 public:
  class Exchange;
  DTAG_MEMBER explicit MeetInGlobalMemory(const cuda::LatencyParams& p)
      : words_(static_cast<Stamped*>(p.workspace)), each_(p.memory.words), size_(p.program.member_count * p.program.slices) {}

  DTAG_MEMBER int size() const { return size_; }
  DTAG_MEMBER int rank() const { return block_index() % size_; }
  DTAG_MEMBER int group() const { return block_index() / size_; }
  DTAG_MEMBER int groups() const { return block_count() / size_; }

  DTAG_MEMBER void begin() const { sync_block(); }
  DTAG_MEMBER void end() const {
    sync_block();
    for (int at = thread_index(); at < each_; at += cuda::kLatencyThreads) clear_stamped(words_ + block_index() * each_ + at);
  }

 private:
  friend class Exchange;
  Stamped* words_;  // [blocks][each_]
  int each_, size_;
};

class MeetInGlobalMemory::Exchange {
 public:
  DTAG_MEMBER Exchange(const MeetInGlobalMemory& meet, const cuda::LatencyMemory& m, cuda::LatencyInbox which, int first,
                       int senders)
      : copy_(m.inbox[which]), words_(meet.words_ + (block_index() - meet.rank() + first) * meet.each_ + m.first_word[which]),
        each_(meet.each_), me_(meet.rank() - first), senders_(senders), count_(m.count[which]) {}

  DTAG_MEMBER void init() const {}
  DTAG_MEMBER void expect() const {}
  DTAG_MEMBER void send(int to, int c, float x) const { store_stamped(words_ + to * each_ + place(me_, c), stamp(), x); }

  DTAG_MEMBER void wait() const {
    collect(thread_index(), cuda::kLatencyThreads, senders_ * count_, [&](int i) DTAG_LAMBDA { return place(0, i); });
    sync_block();
  }
  DTAG_MEMBER void wait_for(int first, int n) const {
    collect(lane_index(), kWarp, senders_ * n, [&](int i) DTAG_LAMBDA { return place(i / n, first + i % n); });
    sync_warp();
  }
  DTAG_MEMBER float received(int sender, int c) const { return copies()[place(sender, c)]; }
  DTAG_MEMBER void next() { ++round_; }

 private:
  static constexpr int kAtOnce = 4;  // words that a thread waits for

  DTAG_MEMBER uint32_t stamp() const { return uint32_t(round_) + 1; }
  DTAG_MEMBER int place(int sender, int c) const { return ((round_ & 1) * senders_ + sender) * count_ + c; }
  DTAG_MEMBER Shared<float> copies() const { return shared_part<float>(copy_, int64_t(2) * senders_ * count_); }

  // This thread's words begin, begin + step, ... of n, the i-th at where(i).
  template <class Where>
  DTAG_MEMBER void collect(int begin, int step, int n, Where where) const {
    const Stamped* mine = words_ + me_ * each_;
    for (int i = begin; i < n; i += kAtOnce * step) {
      const Stamped* from[kAtOnce];
      int to[kAtOnce];
      float x[kAtOnce];
      DTAG_UNROLL
      for (int k = 0; k < kAtOnce; ++k) {
        to[k] = where(i + k * step < n ? i + k * step : i);  // where there are fewer, one several times
        from[k] = mine + to[k];
      }
      wait_stamped(from, stamp(), x);
      DTAG_UNROLL
      for (int k = 0; k < kAtOnce; ++k) copies()[to[k]] = x[k];
    }
  }

  uint32_t copy_;
  Stamped* words_;  // of the group's first block
  int each_, me_, senders_, count_, round_ = 0;
};

}  // namespace dtag::gpu
