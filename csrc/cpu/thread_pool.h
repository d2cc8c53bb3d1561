// Threads for one call at a time: those of the OpenMP runtime that the process already has (torch's), or a pool of our own.
// Torch's threads spin for milliseconds after each of torch's parallel loops: other threads would only compete with them.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace dtag {

// Works on the threads of the OpenMP runtime at `path`, which the process must have loaded, from now on; false when it is not
// there or is none; with an empty path, on our own again. Not to be called while calls are under way. A forked child goes back to the pool of its own: the runtime's threads do not survive a fork.
bool use_openmp(const char* path);

// One pool per process, grown on demand, made anew in a forked child. It is never destroyed: its threads sleep, detached,
// and end with the process, so that no order of static destruction can matter at exit.
class ThreadPool {
 public:
  static ThreadPool& instance();

  // Whether calls run on the threads of a runtime (use_openmp).
  static bool shares_threads();

  // Calls body(context, rank) for rank 0 (this thread) .. threads - 1 at the same time and returns when all are done.
  // Returns false, having called nothing, when another caller has the threads or none can be made; with `all` also when
  // there are fewer, else fewer ranks may take part. `allowed`: the number of threads the caller's process works with; a
  // runtime that is always asked for the same number need not end and start threads.
  bool run(int threads, int allowed, bool all, void (*body)(void* context, int rank), void* context);

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
