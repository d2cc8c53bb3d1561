// A stack of its own for each simulated thread, and the switch between it and the launching thread.
#pragma once
#include <cstddef>
#include <vector>

#if !(defined(__x86_64__) && defined(__linux__)) && !defined(DTAG_SIMT_UCONTEXT)
#define DTAG_SIMT_UCONTEXT 1
#endif
#ifdef DTAG_SIMT_UCONTEXT
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#define DTAG_SIMT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define DTAG_SIMT_ASAN 1
#endif
#endif

namespace dtag::simt {

struct Stack {
  char* bottom = nullptr;
  size_t bytes = 0;
};

// Stacks with an inaccessible page below each, so that an overflow is a crash. Kept until the pool goes.
class StackPool {
 public:
  StackPool() = default;
  StackPool(const StackPool&) = delete;
  StackPool& operator=(const StackPool&) = delete;
  ~StackPool();
  Stack at(size_t i);

 private:
  std::vector<Stack> stacks_;
};

class Fiber {
 public:
  // The next resume() calls entry() on this stack; what ran there before is dropped, its destructors not run.
  void prepare(Stack stack, void (*entry)());
  void resume(Fiber& launcher);   // from the launching thread
  void suspend(Fiber& launcher);  // back to it
  // First and last statement of entry(); leave() does not return.
  void enter(Fiber& launcher);
  [[noreturn]] void leave(Fiber& launcher);

 private:
  void jump(Fiber& to);
  Stack stack_;
#ifdef DTAG_SIMT_UCONTEXT
  ucontext_t context_;
#else
  void* stack_pointer_ = nullptr;
#endif
  void* fake_stack_ = nullptr;  // AddressSanitizer's, while the fiber does not run
};

}  // namespace dtag::simt
