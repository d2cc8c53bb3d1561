// The host's twin of the CUDA primitives (csrc/simt_host): each kind of mistake, planted in a small kernel, is found in
// every order of execution, and correct kernels run clean in all of them.
//
//   test_simt [measure]
#include <cstring>

#include "check.h"

int main(int argc, char** argv) {
  using namespace simt_test;
  if (argc > 1 && std::strcmp(argv[1], "measure") == 0) return measure(), 0;
  test_machine();
  test_warpgroups();
  test_barrier_faults();
  test_memory_faults();
  test_mbarrier_faults();
  test_stamped_faults();
  test_kernels();
  test_pointers();
  test_products();
  std::printf("%d checks, %d failed\n", checks, failures);
  return failures != 0;
}
