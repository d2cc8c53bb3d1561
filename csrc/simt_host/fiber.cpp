#include "simt_host/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <new>

#ifdef DTAG_SIMT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifndef DTAG_SIMT_UCONTEXT
// Saves what a function must preserve, exchanges the stacks and returns on the other one. The control words of the
// floating-point units are the same in all fibers.
extern "C" void dtag_simt_switch(void** save, void* load);
asm(R"(
.text
.p2align 4
.globl dtag_simt_switch
.hidden dtag_simt_switch
.type dtag_simt_switch, @function
dtag_simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size dtag_simt_switch, .-dtag_simt_switch
)");
#endif

namespace dtag::simt {
namespace {

#ifdef DTAG_SIMT_ASAN
constexpr size_t kStackBytes = 256 * 1024;  // its frames are several times as large
#else
constexpr size_t kStackBytes = 128 * 1024;
#endif

size_t page_bytes() { return size_t(sysconf(_SC_PAGESIZE)); }

}  // namespace

StackPool::~StackPool() {
  for (const Stack& s : stacks_) munmap(s.bottom - page_bytes(), s.bytes + page_bytes());
}

Stack StackPool::at(size_t i) {
  while (stacks_.size() <= i) {
    const size_t page = page_bytes();
    void* p = mmap(nullptr, kStackBytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED || mprotect(p, page, PROT_NONE) != 0) throw std::bad_alloc();
    stacks_.push_back({static_cast<char*>(p) + page, kStackBytes});
  }
  return stacks_[i];
}

void Fiber::prepare(Stack stack, void (*entry)()) {
  stack_ = stack;
  fake_stack_ = nullptr;
#ifdef DTAG_SIMT_ASAN
  __asan_unpoison_memory_region(stack.bottom, stack.bytes);  // frames that were dropped
#endif
#ifdef DTAG_SIMT_UCONTEXT
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack.bottom;
  context_.uc_stack.ss_size = stack.bytes;
  context_.uc_link = nullptr;
  makecontext(&context_, entry, 0);
#else
  void** top = reinterpret_cast<void**>(stack.bottom + stack.bytes);
  *--top = nullptr;  // where a call would have put the return address, on which the alignment rests
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  stack_pointer_ = top;
#endif
}

void Fiber::jump(Fiber& to) {
#ifdef DTAG_SIMT_UCONTEXT
  swapcontext(&context_, &to.context_);
#else
  dtag_simt_switch(&stack_pointer_, to.stack_pointer_);
#endif
}

#ifdef DTAG_SIMT_ASAN

void Fiber::resume(Fiber& launcher) {
  __sanitizer_start_switch_fiber(&launcher.fake_stack_, stack_.bottom, stack_.bytes);
  launcher.jump(*this);
  __sanitizer_finish_switch_fiber(launcher.fake_stack_, nullptr, nullptr);
}

void Fiber::suspend(Fiber& launcher) {
  __sanitizer_start_switch_fiber(&fake_stack_, launcher.stack_.bottom, launcher.stack_.bytes);
  jump(launcher);
  __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr);
}

void Fiber::enter(Fiber& launcher) {
  const void* bottom = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
  launcher.stack_ = {static_cast<char*>(const_cast<void*>(bottom)), bytes};
}

void Fiber::leave(Fiber& launcher) {
  __sanitizer_start_switch_fiber(nullptr, launcher.stack_.bottom, launcher.stack_.bytes);
  jump(launcher);
  std::abort();
}

#else

void Fiber::resume(Fiber& launcher) { launcher.jump(*this); }
void Fiber::suspend(Fiber& launcher) { jump(launcher); }
void Fiber::enter(Fiber&) {}
void Fiber::leave(Fiber& launcher) {
  jump(launcher);
  std::abort();
}

#endif

}  // namespace dtag::simt
