// Words of global memory that carry their own readiness (cuda/primitives.h), shared by blocks that run together.
//
// Nothing but arrival orders them: a store may come to a word only when its writer has been told, by numbers that came after
// a barrier behind the reading, that what stood there was read. Such news passes from block to block (Hearsay). It orders no
// other memory, as relaxed accesses do not on the GPU.
#pragma once
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

namespace dtag::simt {

struct Block;
struct Thread;

// 8 bytes that only the functions below can use.
class Stamped {
  friend class StampedMemory;
  uint64_t word_;
};

// What a block knows of the progress of those that run with it, counted in their barriers. News that one of its threads
// receives is known to all from its next barrier on.
class Hearsay {
 public:
  explicit Hearsay(int blocks = 0) : known_(size_t(blocks)), news_(size_t(blocks)) {}
  void meet() {
    known_ = news_;
    ++barriers_;
  }
  void hear(const std::vector<int>& told) {
    for (size_t i = 0; i < news_.size(); ++i)
      if (told[i] > news_[i]) news_[i] = told[i];
  }
  // What a store of the block at `rank` tells.
  std::vector<int> tell(int rank) const {
    std::vector<int> told = known_;
    told[size_t(rank)] = barriers_;
    return told;
  }
  int barriers() const { return barriers_; }
  int of(int rank) const { return known_[size_t(rank)]; }

 private:
  std::vector<int> known_, news_;
  int barriers_ = 0;
};

// All stamped words of a launch. While a word is not zero its place in memory holds a NaN, whatever it is read as.
class StampedMemory {
 public:
  void store(Thread& me, Stamped* to, uint32_t stamp, float x);
  float wait(Thread& me, const Stamped* from, uint32_t stamp);
  void clear(Thread& me, Stamped* place);
  // The blocks that ran together have ended.
  void end();

 private:
  struct Word {
    Stamped* place = nullptr;
    uint32_t stamp = 0;
    float x = 0.f;
    bool in_flight = false, read = true, cleared = false;
    int reader_rank = -1, reader = -1, read_at = 0;  // block; thread; its block's barriers
    std::vector<int> told;
    std::vector<Thread*> sleeping;
  };
  Word& word(const Thread& me, const Stamped* at);
  void check_read(const Thread& me, const Word& w, const char* what) const;
  void land(Word& w, uint32_t stamp, float x, class Machine& machine);

  std::unordered_map<const Stamped*, Word> words_;
};

void store_stamped(Stamped* to, uint32_t stamp, float x);
void clear_stamped(Stamped* place);
float wait_one_stamped(const Stamped* from, uint32_t stamp);
template <int n>
inline void wait_stamped(const Stamped* const (&from)[n], uint32_t stamp, float (&x)[n]) {
  for (int i = 0; i < n; ++i) x[i] = wait_one_stamped(from[i], stamp);
}

}  // namespace dtag::simt
