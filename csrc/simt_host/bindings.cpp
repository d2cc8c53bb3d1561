// dtag_simt: the CUDA kernels on the host, for tests. Arrays are host memory.
#include <set>

#include "cuda/refine/stream.h"
#include "py_cuda_plan.h"
#include "simt_host/device.h"

namespace {

std::set<uintptr_t> capturing;  // streams that tests say are being captured

}  // namespace

bool dtag::cuda::is_capturing(void* stream) { return capturing.count(reinterpret_cast<uintptr_t>(stream)) > 0; }

PYBIND11_MODULE(dtag_simt, m) {
  m.doc() = "The CUDA kernels of dtag_fast run on the CPU, threads as fibers, stopping at what a GPU would not forgive.";
  dtag::add_prepared_call(m);
  dtag::add_cuda_plan(m);
  m.def("set_capturing", [](std::set<uintptr_t> streams) { capturing = std::move(streams); }, pybind11::arg("streams"),
        "The streams that are being captured into a CUDA graph from now on.");
  m.def(
      "set_device",
      [](int capability, int multiprocessors, int64_t shared_bytes, uint64_t seed) {
        dtag::simt::device() = {{capability, multiprocessors, shared_bytes}, seed};
      },
      pybind11::kw_only(), pybind11::arg("capability") = 90, pybind11::arg("multiprocessors") = 2,
      pybind11::arg("shared_bytes") = 232448, pybind11::arg("seed") = 0, "The GPU that plans made from now on find.");
}
