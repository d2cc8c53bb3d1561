// Plan as Python sees it: arguments checked, arrays by address, the interpreter's lock released while a kernel runs.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <vector>

#include "cpu/plan.h"
#include "prepared_call.h"
#include "py_arguments.h"

namespace dtag {

// Wrong arguments raise ValueError or TypeError. Whoever passes an address vouches that it holds what its shape says.
class PyPlan {
 public:
  PyPlan(int state_dim, int action_dim, const py::sequence& members, const std::string& isa, const std::string& precision,
         const std::vector<Settings>& settings, const std::vector<float>& low, const std::vector<float>& high, int64_t steps, double lr,
         double scale, double prior_mean, double prior_weight, py::object threads, const std::string& kernel);

  void repack(const py::sequence& members);

  // One call with the plan's own steps, lr, scale and prior, all arrays contiguous.
  void run_prepared(const float* states, const float* actions, float* out, int64_t batch);

  void run(const PyCall& call);

  int state_dim() const { return plan_->state_dim(); }
  int action_dim() const { return plan_->action_dim(); }
  std::string kernel_for(int64_t rows, int64_t steps, int threads) const { return plan_->kernel_for(rows, steps, threads); }
  std::string isa() const { return plan_->kernels().name; }
  const Generation& generation() const { return generation_; }

 private:
  void execute(const Call& call);

  std::unique_ptr<Plan> plan_;
  AllowedThreads threads_;
  int32_t steps_ = 0;
  float lr_ = 0.f, scale_ = 1.f, prior_mean_ = 0.f, prior_weight_ = 0.f;
  Generation generation_;
};

// A PreparedCall that runs such a plan.
py::object prepare_host_call(const py::object& object, PyPlan& plan, const Repeated& call);

}  // namespace dtag
