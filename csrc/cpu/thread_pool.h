// The package's own threads: no OpenMP, so nothing to agree on with whatever else the process has loaded.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace dtag {

// One pool per process, grown on demand, made anew in a forked child. It is never destroyed: its threads sleep, detached,
// and end with the process, so that no order of static destruction can matter at exit.
class ThreadPool {
 public:
  static ThreadPool& instance();

  // Calls body(context, rank) for rank 0 (this thread) .. threads - 1 at the same time and returns when all are done.
  // Returns false, having called nothing, when another caller has the threads or none can be made.
  bool run(int threads, void (*body)(void* context, int rank), void* context);

 private:
  bool grow(int workers);
  void work(int rank);

  std::mutex owner_;  // held by the caller whose work is being done
  std::mutex sleep_;
  std::condition_variable wake_;
  std::atomic<uint64_t> epoch_{0};  // number of the job << 16 | threads it wants
  std::atomic<int> sleepers_{0}, remaining_{0};
  void (*body_)(void*, int) = nullptr;
  void* context_ = nullptr;
  int workers_ = 0;
};

// A place where a fixed number of threads wait for each other: spins for a bounded time, then yields the core.
struct Barrier {
  std::atomic<int> waiting{0};
  std::atomic<uint32_t> round{0};
  static void meet(void* barrier, int size);
};

}  // namespace dtag
