// dtag_simt: the CUDA kernels on the host, for tests. Arrays are host memory.
#include "py_cuda_plan.h"
#include "simt_host/device.h"

PYBIND11_MODULE(dtag_simt, m) {
  m.doc() = "The CUDA kernels of dtag_fast run on the CPU, threads as fibers, stopping at what a GPU would not forgive.";
  dtag::add_cuda_plan(m);
  m.def(
      "set_device",
      [](int capability, int multiprocessors, int64_t shared_bytes, uint64_t seed) {
        dtag::simt::device() = {{capability, multiprocessors, shared_bytes}, seed};
      },
      pybind11::kw_only(), pybind11::arg("capability") = 90, pybind11::arg("multiprocessors") = 2,
      pybind11::arg("shared_bytes") = 232448, pybind11::arg("seed") = 0, "The GPU that plans made from now on find.");
}
