#include "py_plan.h"

#include "cpu/dispatch.h"

namespace dtag {

namespace {

template <class T>
T one_of(const std::string& name, const std::string& value, std::initializer_list<std::pair<const char*, T>> choices) {
  std::string known;
  for (const auto& [text, choice] : choices) {
    if (value == text) return choice;
    known += (known.empty() ? "\"" : ", \"") + std::string(text) + "\"";
  }
  throw py::value_error(name + ": expected one of " + known + ", got \"" + value + "\"");
}

// object as a T, or a TypeError that says where it stood.
template <class T>
T as(const std::string& where, const py::handle& object) {
  try {
    return object.cast<T>();
  } catch (const py::cast_error&) {
    throw py::type_error(where + ": got a " + std::string(py::str(py::type::of(object).attr("__name__"))) +
                         ", which does not belong here");
  }
}

// A float32 C-contiguous buffer of the given shape, copied.
std::vector<float> numbers(const std::string& name, const py::object& object, const std::vector<py::ssize_t>& shape) {
  if (!PyObject_CheckBuffer(object.ptr())) throw py::type_error(name + ": expected a float32 array, got " + std::string(py::str(py::type::of(object))));
  const py::buffer_info info = py::reinterpret_borrow<py::buffer>(object).request();
  bool fits = info.format == "f" && info.itemsize == 4 && info.shape == shape;
  py::ssize_t stride = 4, count = 1;
  for (size_t d = info.shape.size(); d-- > 0;) {
    if (info.shape[d] > 1 && info.strides[d] != stride) fits = false;
    stride *= info.shape[d];
    count *= info.shape[d];
  }
  if (!fits) {
    std::string expected, got;
    for (auto n : shape) expected += (expected.empty() ? "" : ", ") + std::to_string(n);
    for (auto n : info.shape) got += (got.empty() ? "" : ", ") + std::to_string(n);
    throw py::value_error(name + ": expected a C-contiguous float32 array (" + expected + "), got format \"" + info.format +
                          "\" (" + got + ")");
  }
  const float* first = static_cast<const float*>(info.ptr);
  return {first, first + count};
}

PostOp activation(const std::string& where, const std::string& kind, const std::vector<double>& params) {
  static const std::initializer_list<std::pair<const char*, Activation>> kinds = {
      {"identity", Activation::identity}, {"relu", Activation::relu},   {"leaky_relu", Activation::leaky_relu},
      {"elu", Activation::elu},           {"gelu", Activation::gelu},   {"gelu_tanh", Activation::gelu_tanh},
      {"silu", Activation::silu},         {"mish", Activation::mish},   {"tanh", Activation::tanh},
      {"softplus", Activation::softplus}};
  PostOp op;
  op.kind = one_of(where + ": activation", kind, kinds);
  const size_t expected = op.kind == Activation::softplus ? 2 : op.kind == Activation::leaky_relu || op.kind == Activation::elu;
  if (params.size() != expected)
    throw py::value_error(where + ": " + kind + " takes " + std::to_string(expected) + " parameters, got " +
                          std::to_string(params.size()));
  if (expected > 0) op.p0 = float(params[0]);
  if (expected > 1) op.p1 = float(params[1]);
  return op;
}

// members: a list per member of ("linear", weight (out, in), bias (out,) | None), ("norm", weight | None, bias | None,
// eps) and ("activation", kind, [parameters]).
Program program_from(int state_dim, int action_dim, const py::sequence& members) {
  Program program;
  program.state_dim = state_dim;
  program.action_dim = action_dim;
  for (size_t m = 0; m < members.size(); ++m) {
    auto& stages = program.members.emplace_back();
    const auto layers = as<py::sequence>("member " + std::to_string(m), members[m]);
    for (size_t i = 0; i < layers.size(); ++i) {
      const std::string where = "member " + std::to_string(m) + ", layer " + std::to_string(i);
      const auto layer = as<py::tuple>(where, layers[i]);
      const std::string kind = layer.size() ? as<std::string>(where, layer[0]) : "";
      if (kind == "linear" && layer.size() == 3) {
        if (!PyObject_CheckBuffer(layer[1].ptr())) throw py::type_error(where + ": weight: expected a float32 array");
        const auto shape = py::reinterpret_borrow<py::buffer>(layer[1]).request().shape;
        if (shape.size() != 2 || shape[0] < 1 || shape[0] > kMaxWidth || shape[1] < 1 || shape[1] > kMaxState + kMaxAction)
          throw py::value_error(where + ": weight: expected (out, in) with out in 1.." + std::to_string(kMaxWidth));
        Stage stage;
        stage.out = int(shape[0]);
        stage.in = int(shape[1]);
        stage.weight = numbers(where + ": weight", layer[1], {shape[0], shape[1]});
        stage.bias = layer[2].is_none() ? std::vector<float>(size_t(stage.out)) : numbers(where + ": bias", layer[2], {shape[0]});
        stages.push_back(std::move(stage));
        continue;
      }
      if (stages.empty()) throw py::value_error(where + ": the first layer must be linear");
      const py::ssize_t width = stages.back().out;
      if (kind == "norm" && layer.size() == 4) {
        PostOp op;
        op.is_norm = true;
        op.p0 = as<float>(where + ": eps", layer[3]);
        if (!(op.p0 >= 0.f)) throw py::value_error(where + ": eps: expected a number >= 0");
        op.scale = layer[1].is_none() ? std::vector<float>(size_t(width), 1.f) : numbers(where + ": weight", layer[1], {width});
        op.shift = layer[2].is_none() ? std::vector<float>(size_t(width), 0.f) : numbers(where + ": bias", layer[2], {width});
        stages.back().post.push_back(std::move(op));
      } else if (kind == "activation" && layer.size() == 3) {
        stages.back().post.push_back(activation(where, as<std::string>(where, layer[1]), as<std::vector<double>>(where, layer[2])));
      } else {
        throw py::value_error(where + ": expected (\"linear\", weight, bias), (\"norm\", weight, bias, eps) or (\"activation\", kind, params)");
      }
    }
  }
  program.validate();
  return program;
}

float number(const char* name, double value, double low, double high) {
  if (!(value >= low && value <= high))
    throw py::value_error(std::string(name) + ": expected a number in [" + std::to_string(low) + ", " + std::to_string(high) +
                          "], got " + std::to_string(value));
  return float(value);
}

template <class T>
T* address(const char* name, uintptr_t value) {
  if (value % alignof(T)) throw py::value_error(std::string(name) + ": address is not aligned to " + std::to_string(alignof(T)) + " bytes");
  return reinterpret_cast<T*>(value);
}

constexpr int64_t kMaxRows = int64_t(1) << 40;

}  // namespace

PyPlan::PyPlan(int state_dim, int action_dim, const py::sequence& members, const std::string& isa, const std::string& precision,
       const std::string& reduce, const std::string& optimizer, const py::dict& optimizer_options, const std::string& gradient,
       double clip, const std::string& radius_norm, double radius, const std::string& select, const std::vector<float>& low,
       const std::vector<float>& high, int64_t steps, double lr, py::object threads, const std::string& kernel)
    : threads_(std::move(threads)) {
  if (!PyCallable_Check(threads_.ptr())) throw py::type_error("threads: expected a function that tells how many to use");
  Settings s;
  s.optimizer = one_of<Optimizer>("optimizer", optimizer, {{"sgd", Optimizer::sgd}, {"adam", Optimizer::adam}, {"rmsprop", Optimizer::rmsprop}});
  const auto option = [&](const char* name, double fallback, double highest) {
    if (!optimizer_options.contains(name)) return fallback;
    const double value = as<double>(name, optimizer_options[name]);
    number(name, value, 0., highest);
    return value;
  };
  s.momentum = float(option("momentum", 0., 1.));
  s.nesterov = optimizer_options.contains("nesterov") && as<bool>("nesterov", optimizer_options["nesterov"]);
  s.beta1 = option("beta1", 0.9, 1.);
  s.beta2 = option(s.optimizer == Optimizer::rmsprop ? "alpha" : "beta2", s.optimizer == Optimizer::rmsprop ? 0.99 : 0.999, 1.);
  s.eps = float(option("eps", 1e-8, 1e30));
  s.gradient = one_of<Gradient>("gradient", gradient, {{"raw", Gradient::raw}, {"unit", Gradient::unit}, {"clip", Gradient::clip_norm}});
  s.clip = s.gradient == Gradient::clip_norm ? number("clip", clip, 0., 1e38) : 0.f;
  s.radius_norm = one_of<Radius>("radius_norm", radius_norm, {{"none", Radius::none}, {"inf", Radius::inf}, {"l2", Radius::l2}});
  s.radius = number("radius", radius, 0., 1e38);
  s.select = one_of<Select>("select", select, {{"best", Select::best}, {"last", Select::last}});
  s.reduce = one_of<Reduce>("reduce", reduce, {{"min", Reduce::min}, {"max", Reduce::max}, {"mean", Reduce::mean}});
  const auto numerics = one_of<Precision>("precision", precision, {{"fp32", Precision::fp32}, {"bf16", Precision::bf16}});
  std::optional<KernelKind> only;
  if (!kernel.empty()) only = one_of<KernelKind>("kernel", kernel, {{"rows", KernelKind::rows}, {"tiles", KernelKind::tiles}});
  steps_ = int32_t(number("steps", double(steps), 0, 1e6));
  lr_ = number("lr", lr, 0., 1e38);
  plan_ = std::make_unique<Plan>(program_from(state_dim, action_dim, members), s, low, high, numerics,
                                 kernels_of(isa.empty() ? default_isa() : isa), only);
}

void PyPlan::repack(const py::sequence& members) { plan_->repack(program_from(plan_->state_dim(), plan_->action_dim(), members)); }

void PyPlan::run_prepared(const float* states, const float* actions, float* out, int64_t batch) {
  Call call;
  call.states = states;
  call.actions = actions;
  call.out = out;
  call.batch = batch;
  call.state_stride = plan_->state_dim();
  call.steps = steps_;
  call.lr = lr_;
  execute(call);
}

void PyPlan::run(uintptr_t states, int64_t state_stride, uintptr_t actions, uintptr_t out, int64_t batch, int64_t candidates, int64_t steps,
         uintptr_t row_steps, double lr, uintptr_t lr_values, int64_t lr_row_stride, int64_t lr_dim_stride, uintptr_t q_first,
         uintptr_t q_best, uintptr_t best_index, uintptr_t best_candidate, uintptr_t trace_actions, uintptr_t trace_q,
         uintptr_t trace_grad) {
  Call call;
  call.states = address<const float>("states", states);
  call.state_stride = state_stride;
  call.actions = address<const float>("actions", actions);
  call.out = address<float>("out", out);
  call.batch = batch;
  call.candidates = int32_t(number("candidates", double(candidates), 1, 1e6));
  call.steps = int32_t(number("steps", double(steps), 0, 1e6));
  call.row_steps = address<const int32_t>("row_steps", row_steps);
  call.lr = lr_values ? 0.f : number("lr", lr, 0., 1e38);
  call.lr_values = address<const float>("lr_values", lr_values);
  call.lr_row_stride = lr_row_stride;
  call.lr_dim_stride = lr_dim_stride;
  call.q_first = address<float>("q_first", q_first);
  call.q_best = address<float>("q_best", q_best);
  call.best_index = address<int32_t>("best_index", best_index);
  call.best_candidate = address<int32_t>("best_candidate", best_candidate);
  call.trace_actions = address<float>("trace_actions", trace_actions);
  call.trace_q = address<float>("trace_q", trace_q);
  call.trace_grad = address<float>("trace_grad", trace_grad);
  const bool any = q_first || q_best || best_index || best_candidate;
  if (any && !(q_first && q_best && best_index && best_candidate))
    throw py::value_error("q_first, q_best, best_index, best_candidate: give all or none");
  if ((trace_actions || trace_q || trace_grad) && !(trace_actions && trace_q && trace_grad && any))
    throw py::value_error("trace_actions, trace_q, trace_grad: give all, with the other details, or none");
  if (state_stride < 0 || (state_stride && state_stride < plan_->state_dim()))
    throw py::value_error("state_stride: expected 0 or at least " + std::to_string(plan_->state_dim()) + ", got " + std::to_string(state_stride));
  if (lr_row_stride < 0 || lr_row_stride > plan_->action_dim() || lr_dim_stride < 0 || lr_dim_stride > 1)
    throw py::value_error("lr_row_stride, lr_dim_stride: expected (A or 1 or 0, 1 or 0)");
  execute(call);
}

void PyPlan::execute(const Call& call) {
  if (call.batch < 0 || call.batch > kMaxRows / call.candidates)
    throw py::value_error("batch: expected 0..2^40 rows, got " + std::to_string(call.batch));
  if (call.batch == 0) return;
  if (!call.states || !call.actions || !call.out) throw py::value_error("states, actions, out: expected addresses, got 0");
  const Plan::Prepared prepared = plan_->prepare(call.batch * call.candidates, call.steps, [this] {
    const int n = as<int>("threads", threads_());
    if (n < 1) throw py::value_error("threads: expected at least 1, got " + std::to_string(n));
    return n;
  });
  py::gil_scoped_release release;
  prepared.run(call);
}

}  // namespace dtag
