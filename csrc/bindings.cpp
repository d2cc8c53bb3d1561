// dtag_fast._C: what Python sees of the compiled core.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cpu/dispatch.h"
#include "cpu/thread_pool.h"
#include "prepared_call.h"
#include "py_cuda_plan.h"
#include "py_decoder.h"
#include "py_iql.h"
#include "py_mlp.h"
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
  py::class_<PyPlan> plan(m, "Plan", "A critic program bound to ascent options; see dtag_fast.ops.refine.cpu.");
  plan.def(py::init([](int state_dim, int action_dim, const py::sequence& members, const std::string& isa,
                       const std::string& precision, const std::string& reduce, const std::string& optimizer,
                       const py::dict& optimizer_options, const std::string& gradient, double clip, const std::string& radius_norm,
                       double radius, const std::string& select, const py::sequence& variants, const std::vector<float>& low,
                       const std::vector<float>& high, int64_t steps, double lr, double scale, double prior_mean,
                       double prior_weight, py::object threads, const std::string& kernel) {
             return std::make_unique<PyPlan>(
                 state_dim, action_dim, members, isa, precision,
                 settings_of(settings_from(reduce, optimizer, optimizer_options, gradient, clip, radius_norm, radius, select), variants),
                 low, high, steps,
                 lr, scale, prior_mean, prior_weight, std::move(threads), kernel);
           }),
           py::kw_only(), py::arg("state_dim"), py::arg("action_dim"), py::arg("members"), py::arg("isa") = "",
           py::arg("precision") = "fp32", DTAG_SETTINGS_ARGUMENTS, py::arg("low") = std::vector<float>(),
           py::arg("high") = std::vector<float>(), py::arg("steps") = 10, py::arg("lr") = 0.03, py::arg("scale") = 1.0,
           py::arg("prior_mean") = 0.0, py::arg("prior_weight") = 0.0, py::arg("threads"), py::arg("kernel") = "")
      .def("repack", &PyPlan::repack, py::arg("members"), "Take the numbers of members of the same structure.")
      .def("kernel_for", &PyPlan::kernel_for, py::arg("rows"), py::arg("steps"), py::arg("threads"),
           "\"rows\" or \"tiles\": the kernel a call of this size takes.")
      .def_property_readonly("isa", &PyPlan::isa);
  define_run(plan, "One call; arrays by address, 0 for none (refine/params.h).");
  add_prepared_call(m);
  add_decoder(m);
  add_mlp(m);
  add_iql(m);
  define_prepare_call<PyPlan>(m, "prepare_call", &prepare_host_call);
#if DTAG_BUILD_CUDA
  add_cuda_plan(m);
#endif
}
