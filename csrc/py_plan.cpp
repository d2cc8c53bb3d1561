#include "py_plan.h"

#include "cpu/dispatch.h"

namespace dtag {

PyPlan::PyPlan(int state_dim, int action_dim, const py::sequence& members, const std::string& isa, const std::string& precision,
               const std::vector<Settings>& settings, const std::vector<float>& low, const std::vector<float>& high, int64_t steps, double lr,
               double scale, double prior_mean, double prior_weight, py::object threads, const std::string& kernel)
    : threads_(std::move(threads)) {
  const auto numerics = one_of<Precision>("precision", precision, {{"fp32", Precision::fp32}, {"bf16", Precision::bf16}});
  std::optional<KernelKind> only;
  if (!kernel.empty()) only = one_of<KernelKind>("kernel", kernel, {{"rows", KernelKind::rows}, {"tiles", KernelKind::tiles}});
  steps_ = int32_t(number("steps", double(steps), 0, 1e6));
  lr_ = number("lr", lr, 0., 1e38);
  scale_ = number("scale", scale, 0., 1e38);
  prior_mean_ = number("prior_mean", prior_mean, -1e38, 1e38);
  prior_weight_ = number("prior_weight", prior_weight, 0., 1e38);
  plan_ = std::make_unique<Plan>(program_from(state_dim, action_dim, members), settings, low, high, numerics,
                                 kernels_of(isa.empty() ? default_isa() : isa), only);
}

void PyPlan::repack(const py::sequence& members) {
  generation_.renew();
  plan_->repack(program_from(plan_->state_dim(), plan_->action_dim(), members));
}

void PyPlan::run_prepared(const float* states, const float* actions, float* out, int64_t batch) {
  Call call;
  call.states = states;
  call.actions = actions;
  call.out = out;
  call.batch = batch;
  call.state_stride = plan_->state_dim();
  call.steps = steps_;
  call.lr = lr_;
  call.scale = scale_;
  call.prior_mean = prior_mean_;
  call.prior_weight = prior_weight_;
  execute(call);
}

void PyPlan::run(const PyCall& call) { execute(call.checked(plan_->state_dim(), plan_->action_dim())); }

void PyPlan::execute(const Call& call) {
  if (call.batch == 0) return;
  const Plan::Prepared prepared = plan_->prepare(call.batch * call.candidates, call.steps, threads_);
  py::gil_scoped_release release;
  prepared.run(call);
}

namespace {

class HostRun : public PreparedRun {
 public:
  HostRun(PyPlan& plan, int64_t batch) : PreparedRun(plan.generation()), plan_(plan), batch_(batch) {}
  bool run(const float* states, const float* actions, float* out, void*) override {
    if (stale()) return false;
    plan_.run_prepared(states, actions, out, batch_);
    return true;
  }

 private:
  PyPlan& plan_;
  int64_t batch_;
};

}  // namespace

py::object prepare_host_call(const py::object& object, PyPlan& plan, const Repeated& call) {
  PreparedFor target;
  target.plan = object;
  target.state_dim = plan.state_dim();
  target.action_dim = plan.action_dim();
  return prepare_call(target, call, std::make_unique<HostRun>(plan, call.batch()));
}

}  // namespace dtag
