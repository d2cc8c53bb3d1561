// dtag_fast._C: what Python sees of the compiled core.
#include <pybind11/pybind11.h>

namespace py = pybind11;

namespace {

py::dict build_info() {
  py::dict info;
  info["isas"] = py::list();
  info["compiler"] = DTAG_BUILD_COMPILER;
  info["cuda"] = static_cast<bool>(DTAG_BUILD_CUDA);
  info["sanitize"] = DTAG_BUILD_SANITIZE;
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled core of dtag_fast. Takes raw addresses; dtag_fast.ops checks the arguments.";
  m.def("build_info", &build_info, "What this module was built with: isas, compiler, cuda, sanitize.");
}
