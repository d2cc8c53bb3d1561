// Vector clocks: what each thread has been told of the others. An event is (thread, tick); a thread with clock c comes
// after it when tick <= c[thread], or when it is that thread's own. An mbarrier has an entry like a thread: the number of
// its phases that have ended.
#pragma once
#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace dtag::simt {

using Tick = uint32_t;
using Clock = std::shared_ptr<const std::vector<Tick>>;  // shared by all that met in the same barrier

// What several threads know together.
class ClockSum {
 public:
  void add(const Clock& known, int thread, Tick tick) {
    add(known);
    own_.emplace_back(thread, tick);
  }
  void add(const Clock& known) {
    if (std::find(known_.rbegin(), known_.rend(), known) == known_.rend()) known_.push_back(known);
  }
  Clock total() const { return finish([](std::vector<Tick>&) {}); }
  // With the entry of one more thread.
  Clock total(int thread, Tick tick) const {
    return finish([&](std::vector<Tick>& sum) { sum[size_t(thread)] = std::max(sum[size_t(thread)], tick); });
  }
  const std::vector<std::pair<int, Tick>>& events() const { return own_; }
  void clear() {
    known_.clear();
    own_.clear();
  }

 private:
  template <class More>
  Clock finish(const More& more) const {
    auto sum = std::make_shared<std::vector<Tick>>(*known_.front());
    Tick* s = sum->data();
    for (size_t k = 1; k < known_.size(); ++k) {
      const Tick* other = known_[k]->data();
      for (size_t i = 0; i < sum->size(); ++i) s[i] = std::max(s[i], other[i]);
    }
    for (const auto& [thread, tick] : own_) s[thread] = std::max(s[thread], tick);
    more(*sum);
    return sum;
  }

  std::vector<Clock> known_;
  std::vector<std::pair<int, Tick>> own_;
};

}  // namespace dtag::simt
