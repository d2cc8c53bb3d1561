// dtag_fast._C: what Python sees of the compiled core.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cpu/dispatch.h"
#include "cpu/thread_pool.h"
#include "prepared_call.h"
#include "py_plan.h"

namespace py = pybind11;
using namespace dtag;

namespace {

py::dict build_info() {
  py::dict info;
  info["isas"] = compiled_isas();
  info["compiler"] = DTAG_BUILD_COMPILER;
  info["cuda"] = static_cast<bool>(DTAG_BUILD_CUDA);
  info["sanitize"] = DTAG_BUILD_SANITIZE;
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled core of dtag_fast. Takes raw addresses; dtag_fast.ops checks the arguments.";
  m.def("build_info", &build_info, "What this module was built with: isas, compiler, cuda, sanitize.");
  m.def("isas", &runnable_isas, "Instruction sets this module has and this machine runs, slowest first.");
  m.def("default_isa", &default_isa, "The fastest of isas(), or the one named by DTAG_ISA.");
  m.def("use_openmp", [](const std::string& path) { return use_openmp(path.c_str()); }, py::arg("path"),
        "From now on runs on the threads of the OpenMP runtime loaded from this path; False when there is none, or for \"\", and on "
        "threads of its own then.");
  py::class_<PyPlan>(m, "Plan", "A critic program bound to ascent options; see dtag_fast.ops.refine.cpu.")
      .def(py::init<int, int, const py::sequence&, const std::string&, const std::string&, const std::string&, const std::string&,
                    const py::dict&, const std::string&, double, const std::string&, double, const std::string&,
                    const std::vector<float>&, const std::vector<float>&, int64_t, double, py::object, const std::string&>(),
           py::kw_only(), py::arg("state_dim"), py::arg("action_dim"), py::arg("members"), py::arg("isa") = "",
           py::arg("precision") = "fp32", py::arg("reduce") = "min", py::arg("optimizer") = "sgd",
           py::arg("optimizer_options") = py::dict(), py::arg("gradient") = "raw", py::arg("clip") = 1.0,
           py::arg("radius_norm") = "none", py::arg("radius") = 0.0, py::arg("select") = "best",
           py::arg("low") = std::vector<float>(), py::arg("high") = std::vector<float>(), py::arg("steps") = 10,
           py::arg("lr") = 0.03, py::arg("threads"), py::arg("kernel") = "")
      .def("repack", &PyPlan::repack, py::arg("members"), "Take the numbers of members of the same structure.")
      .def("run", &PyPlan::run, py::kw_only(), py::arg("states"), py::arg("state_stride"), py::arg("actions"), py::arg("out"),
           py::arg("batch"), py::arg("candidates") = 1, py::arg("steps"), py::arg("row_steps") = 0, py::arg("lr") = 0.0,
           py::arg("lr_values") = 0, py::arg("lr_row_stride") = 0, py::arg("lr_dim_stride") = 0, py::arg("q_first") = 0,
           py::arg("q_best") = 0, py::arg("best_index") = 0, py::arg("best_candidate") = 0, py::arg("trace_actions") = 0,
           py::arg("trace_q") = 0, py::arg("trace_grad") = 0, "One call; arrays by address, 0 for none (cpu/params.h).")
      .def("kernel_for", &PyPlan::kernel_for, py::arg("rows"), py::arg("steps"), py::arg("threads"),
           "\"rows\" or \"tiles\": the kernel a call of this size takes.")
      .def_property_readonly("isa", &PyPlan::isa);
  add_prepared_call(m);
}
