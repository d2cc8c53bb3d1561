// The check of the test program: every failure is printed, main() returns how many there were.
#pragma once
#include <algorithm>
#include <cstdio>
#include <functional>
#include <initializer_list>
#include <vector>

#include "cuda/primitives.h"

namespace simt_test {

using dtag::simt::Fault;
using dtag::simt::FaultKind;
using dtag::simt::Shape;

inline int checks = 0, failures = 0;

inline void check(bool holds, const char* what, const char* detail = "") {
  ++checks;
  if (holds) return;
  ++failures;
  std::printf("FAILED: %s %s\n", what, detail);
}

inline void nothing() {}

// Caught, and as one of these kinds, in whichever order the threads run. `before`: called before each launch.
inline void must_fault(const char* what, std::initializer_list<FaultKind> kinds, Shape shape,
                       const std::function<void()>& kernel, const std::function<void()>& before = nothing) {
  for (shape.seed = 0; shape.seed <= 20; ++shape.seed) {
    before();
    try {
      dtag::simt::launch(shape, kernel);
      check(false, what, "ran without a fault");
    } catch (const Fault& f) {
      check(std::find(kinds.begin(), kinds.end(), f.kind) != kinds.end(), what, f.what());
      if (shape.seed == 0) std::printf("%-44s %s\n", what, f.what());
    }
  }
}

inline void must_run(const char* what, Shape shape, const std::function<void()>& kernel,
                     const std::function<bool()>& right) {
  for (shape.seed = 0; shape.seed <= 20; ++shape.seed) {
    try {
      dtag::simt::launch(shape, kernel);
      check(right(), what, "gave a wrong result");
    } catch (const Fault& f) {
      check(false, what, f.what());
    }
  }
}

void test_barrier_faults();
void test_memory_faults();
void test_mbarrier_faults();
void test_stamped_faults();
void test_kernels();
void test_pointers();
void test_products();
void test_machine();
void test_warpgroups();
void measure();

}  // namespace simt_test
