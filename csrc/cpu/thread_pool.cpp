#include "cpu/thread_pool.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <system_error>
#include <thread>

namespace dtag {
namespace {

constexpr int kSpins = 4000;  // some tens of microseconds

std::atomic<ThreadPool*> pool{nullptr};

// What compilers call for `#pragma omp parallel`; the runtimes of GCC, LLVM and Intel have all of it.
struct OpenMp {
  void (*parallel)(void (*body)(void*), void* context, unsigned threads, unsigned flags) = nullptr;
  int (*thread_num)() = nullptr;
  int (*num_threads)() = nullptr;
};
OpenMp runtime;
std::atomic<bool> has_runtime{false};

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Whether `done` came true within the spins.
template <class Done>
bool spin(Done done) {
  for (int i = 0; i < kSpins; ++i) {
    if (done()) return true;
    relax();
  }
  return done();
}

// A child has none of the parent's threads, and its copies of their locks may be held: it starts with no pool.
void forget_pool() {
  pool.store(nullptr, std::memory_order_relaxed);
  has_runtime.store(false, std::memory_order_relaxed);
}

struct Region {
  void (*body)(void*, int);
  void* context;
  int threads;
  bool all;
  bool too_few = false;
};

void in_region(void* context) {
  auto& region = *static_cast<Region*>(context);
  const int rank = runtime.thread_num();
  if (region.all && runtime.num_threads() < region.threads) {
    if (rank == 0) region.too_few = true;
  } else if (rank < region.threads) {
    region.body(region.context, rank);
  }
}

}  // namespace

bool use_openmp(const char* path) {
  has_runtime.store(false, std::memory_order_relaxed);
  if (!*path) return false;
  void* library = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);  // stays open: the process has it to the end anyway
  if (!library) return false;
  OpenMp found;
  found.parallel = reinterpret_cast<decltype(found.parallel)>(dlsym(library, "GOMP_parallel"));
  found.thread_num = reinterpret_cast<decltype(found.thread_num)>(dlsym(library, "omp_get_thread_num"));
  found.num_threads = reinterpret_cast<decltype(found.num_threads)>(dlsym(library, "omp_get_num_threads"));
  if (!found.parallel || !found.thread_num || !found.num_threads) return false;
  ThreadPool::instance();  // registers what a fork needs
  runtime = found;
  has_runtime.store(true, std::memory_order_release);
  return true;
}

ThreadPool& ThreadPool::instance() {
  ThreadPool* found = pool.load(std::memory_order_acquire);
  if (found) return *found;
  static const int registered = pthread_atfork(nullptr, nullptr, forget_pool);
  (void)registered;
  auto* made = new ThreadPool;
  if (pool.compare_exchange_strong(found, made, std::memory_order_acq_rel)) return *made;
  delete made;
  return *found;
}

bool ThreadPool::shares_threads() { return has_runtime.load(std::memory_order_relaxed); }

bool ThreadPool::grow(int workers) {
  for (; workers_ < workers; ++workers_) {
    try {
      std::thread(&ThreadPool::work, this, workers_ + 1).detach();
    } catch (const std::system_error&) {
      return false;
    }
  }
  return true;
}

bool ThreadPool::run(int threads, int allowed, bool all, void (*body)(void*, int), void* context) {
  std::unique_lock<std::mutex> owner(owner_, std::try_to_lock);
  if (!owner || threads > 0xffff) return false;
  if (has_runtime.load(std::memory_order_acquire)) {
    Region region{body, context, threads, all};
    runtime.parallel(in_region, &region, unsigned(std::max(threads, allowed)), 0);
    return !region.too_few;
  }
  if (!grow(threads - 1)) return false;
  body_ = body;
  context_ = context;
  remaining_.store(threads - 1, std::memory_order_relaxed);
  const uint64_t next = (epoch_.load(std::memory_order_relaxed) >> 16) + 1;
  epoch_.store(next << 16 | uint64_t(threads), std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) {
    std::lock_guard<std::mutex> lock(sleep_);
    wake_.notify_all();
  }
  body(context, 0);
  const auto done = [this] { return remaining_.load(std::memory_order_acquire) == 0; };
  while (!spin(done)) sched_yield();
  return true;
}

void ThreadPool::work(int rank) {
  uint64_t seen = 0;
  const auto changed = [&] { return epoch_.load(std::memory_order_seq_cst) != seen; };
  for (;;) {
    // A job may have been posted before this thread began: `seen` starts at 0 and finds it.
    if (!spin(changed)) {
      std::unique_lock<std::mutex> lock(sleep_);
      sleepers_.fetch_add(1, std::memory_order_seq_cst);
      wake_.wait(lock, changed);
      sleepers_.fetch_sub(1, std::memory_order_seq_cst);
    }
    seen = epoch_.load(std::memory_order_acquire);
    if (rank >= int(seen & 0xffff)) continue;
    // While this thread takes part no other job can be posted, so body_ and context_ belong to `seen`.
    body_(context_, rank);
    remaining_.fetch_sub(1, std::memory_order_acq_rel);
  }
}

void Barrier::meet(void* barrier, int size) {
  auto& b = *static_cast<Barrier*>(barrier);
  const uint32_t round = b.round.load(std::memory_order_acquire);
  if (b.waiting.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
    b.waiting.store(0, std::memory_order_relaxed);
    b.round.store(round + 1, std::memory_order_release);
    return;
  }
  const auto passed = [&] { return b.round.load(std::memory_order_acquire) != round; };
  while (!spin(passed)) sched_yield();
}

}  // namespace dtag
