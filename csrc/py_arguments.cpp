#include "py_arguments.h"

namespace dtag {

namespace {

// An array, copied.
std::vector<float> numbers(const std::string& name, const py::object& object, const std::vector<py::ssize_t>& shape) {
  const float* first = array_of(name, object, shape);
  py::ssize_t count = 1;
  for (auto n : shape) count *= n;
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

// Calls add(where, kind, layer) for each layer of each member; add gets an empty list of stages at the start of a member.
template <class Add>
Program read_members(int state_dim, int action_dim, const py::sequence& members, Add add) {
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
      if (kind != "linear" && stages.empty()) throw py::value_error(where + ": the first layer must be linear");
      if (kind == "activation" && layer.size() == 3)
        stages.back().post.push_back(activation(where, as<std::string>(where, layer[1]), as<std::vector<double>>(where, layer[2])));
      else
        add(where, kind, layer, stages);
    }
  }
  return program;
}

Stage stage_of(const std::string& where, const std::vector<py::ssize_t>& shape) {
  if (shape.size() != 2 || shape[0] < 1 || shape[0] > kMaxWidth || shape[1] < 1 || shape[1] > kMaxState + kMaxAction)
    throw py::value_error(where + ": weight: expected (out, in) with out in 1.." + std::to_string(kMaxWidth));
  Stage stage;
  stage.out = int(shape[0]);
  stage.in = int(shape[1]);
  return stage;
}

PostOp norm_of(const std::string& where, const py::handle& eps) {
  PostOp op;
  op.is_norm = true;
  op.p0 = as<float>(where + ": eps", eps);
  if (!(op.p0 >= 0.f)) throw py::value_error(where + ": eps: expected a number >= 0");
  return op;
}

constexpr int64_t kMaxRows = int64_t(1) << 40;

}  // namespace

const float* array_of(const std::string& name, const py::object& object, const std::vector<py::ssize_t>& shape) {
  if (!PyObject_CheckBuffer(object.ptr())) throw py::type_error(name + ": expected a float32 array, got " + std::string(py::str(py::type::of(object))));
  const py::buffer_info info = py::reinterpret_borrow<py::buffer>(object).request();
  bool fits = info.format == "f" && info.itemsize == 4 && info.shape == shape;
  py::ssize_t stride = 4;
  for (size_t d = info.shape.size(); d-- > 0;) {
    if (info.shape[d] > 1 && info.strides[d] != stride) fits = false;
    stride *= info.shape[d];
  }
  if (!fits) {
    std::string expected, got;
    for (auto n : shape) expected += (expected.empty() ? "" : ", ") + std::to_string(n);
    for (auto n : info.shape) got += (got.empty() ? "" : ", ") + std::to_string(n);
    throw py::value_error(name + ": expected a C-contiguous float32 array (" + expected + "), got format \"" + info.format +
                          "\" (" + got + ")");
  }
  return static_cast<const float*>(info.ptr);
}

AllowedThreads::AllowedThreads(py::object function) : function_(std::move(function)) {
  if (!PyCallable_Check(function_.ptr())) throw py::type_error("threads: expected a function that tells how many to use");
}

int AllowedThreads::operator()() const {
  const int count = as<int>("threads", function_());
  if (count < 1) throw py::value_error("threads: expected at least 1, got " + std::to_string(count));
  return count;
}

std::vector<int> network_widths(const std::vector<int64_t>& widths) {
  if (widths.size() < 2) throw py::value_error("widths: expected those of inputs, hidden layers and outputs");
  std::vector<int> found;
  for (int64_t width : widths) found.push_back(int(number("widths", double(width), 1, 1 << 20)));
  return found;
}

int network_members(int64_t members) { return int(number("members", double(members), 1, 1 << 20)); }

Activation network_activation(const std::string& name) {
  using enum Activation;
  return one_of<Activation>("activation", name,
                            {{"relu", relu}, {"elu", elu}, {"gelu", gelu}, {"silu", silu}, {"mish", mish}, {"tanh", tanh}});
}

Program program_from(int state_dim, int action_dim, const py::sequence& members) {
  Program program = read_members(state_dim, action_dim, members, [](const std::string& where, const std::string& kind, const py::tuple& layer, std::vector<Stage>& stages) {
    if (kind == "linear" && layer.size() == 3) {
      if (!PyObject_CheckBuffer(layer[1].ptr())) throw py::type_error(where + ": weight: expected a float32 array");
      const auto shape = py::reinterpret_borrow<py::buffer>(layer[1]).request().shape;
      Stage stage = stage_of(where, shape);
      stage.weight = numbers(where + ": weight", layer[1], {shape[0], shape[1]});
      stage.bias = layer[2].is_none() ? std::vector<float>(size_t(stage.out)) : numbers(where + ": bias", layer[2], {shape[0]});
      stages.push_back(std::move(stage));
    } else if (kind == "norm" && layer.size() == 4) {
      const py::ssize_t width = stages.back().out;
      PostOp op = norm_of(where, layer[3]);
      op.scale = layer[1].is_none() ? std::vector<float>(size_t(width), 1.f) : numbers(where + ": weight", layer[1], {width});
      op.shift = layer[2].is_none() ? std::vector<float>(size_t(width), 0.f) : numbers(where + ": bias", layer[2], {width});
      stages.back().post.push_back(std::move(op));
    } else {
      throw py::value_error(where + ": expected (\"linear\", weight, bias), (\"norm\", weight, bias, eps) or (\"activation\", kind, params)");
    }
  });
  program.validate();
  return program;
}

Program structure_from(int state_dim, int action_dim, const py::sequence& members) {
  Program program = read_members(state_dim, action_dim, members, [](const std::string& where, const std::string& kind, const py::tuple& layer, std::vector<Stage>& stages) {
    if (kind == "linear" && layer.size() == 2)
      stages.push_back(stage_of(where, as<std::vector<py::ssize_t>>(where, layer[1])));
    else if (kind == "norm" && layer.size() == 2)
      stages.back().post.push_back(norm_of(where, layer[1]));
    else
      throw py::value_error(where + ": expected (\"linear\", (out, in)), (\"norm\", eps) or (\"activation\", kind, params)");
  });
  program.validate_structure();
  return program;
}

Settings settings_from(const std::string& reduce, const std::string& optimizer, const py::dict& optimizer_options,
                       const std::string& gradient, double clip, const std::string& radius_norm, double radius,
                       const std::string& select) {
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
  s.reduce = one_of<Reduce>("reduce", reduce, {{"min", Reduce::min}, {"max", Reduce::max}, {"mean", Reduce::mean}, {"member", Reduce::member}});
  return s;
}

std::vector<Settings> settings_of(const Settings& alone, const py::sequence& variants) {
  std::vector<Settings> list;
  for (const py::handle& item : variants) {
    const auto given = as<py::dict>("variants", item);
    const auto value = [&]<class T>(const char* name, T fallback) {
      return given.contains(name) ? as<T>(std::string("variants: ") + name, given[name]) : fallback;
    };
    Settings s = settings_from(value("reduce", std::string("min")), value("optimizer", std::string("sgd")),
                               value("optimizer_options", py::dict()), value("gradient", std::string("raw")), value("clip", 1.),
                               value("radius_norm", std::string("none")), value("radius", 0.), value("select", std::string("best")));
    s.member = value("member", 0);
    list.push_back(s);
  }
  if (list.size() > size_t(kMaxVariants))
    throw py::value_error("variants: expected up to " + std::to_string(kMaxVariants) + ", got " + std::to_string(list.size()));
  if (list.empty()) list.push_back(alone);
  return list;
}

Call PyCall::checked(int state_dim, int action_dim) const {
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
  call.scale = number("scale", scale, 0., 1e38);
  call.scale_values = address<const float>("scale_values", scale_values);
  call.scale_row_stride = scale_row_stride;
  call.scale_dim_stride = scale_dim_stride;
  call.radius_values = address<const float>("radius_values", radius_values);
  call.row_variants = address<const int32_t>("row_variants", row_variants);
  call.prior_mean = number("prior_mean", prior_mean, -1e38, 1e38);
  call.prior_mean_values = address<const float>("prior_mean_values", prior_mean_values);
  call.prior_mean_row_stride = prior_mean_row_stride;
  call.prior_mean_dim_stride = prior_mean_dim_stride;
  call.prior_weight = number("prior_weight", prior_weight, 0., 1e38);
  call.prior_weight_values = address<const float>("prior_weight_values", prior_weight_values);
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
  if (state_stride < 0 || (state_stride && state_stride < state_dim))
    throw py::value_error("state_stride: expected 0 or at least " + std::to_string(state_dim) + ", got " + std::to_string(state_stride));
  if (lr_row_stride < 0 || lr_row_stride > action_dim || lr_dim_stride < 0 || lr_dim_stride > 1)
    throw py::value_error("lr_row_stride, lr_dim_stride: expected (A or 1 or 0, 1 or 0)");
  if (scale_row_stride < 0 || scale_row_stride > action_dim || scale_dim_stride < 0 || scale_dim_stride > 1)
    throw py::value_error("scale_row_stride, scale_dim_stride: expected (A or 1 or 0, 1 or 0)");
  if (prior_mean_row_stride < 0 || prior_mean_row_stride > action_dim || prior_mean_dim_stride < 0 || prior_mean_dim_stride > 1)
    throw py::value_error("prior_mean_row_stride, prior_mean_dim_stride: expected (A or 1 or 0, 1 or 0)");
  if (call.batch < 0 || call.batch > kMaxRows / call.candidates)
    throw py::value_error("batch: expected 0..2^40 rows, got " + std::to_string(call.batch));
  if (call.batch > 0 && (!call.states || !call.actions || !call.out))
    throw py::value_error("states, actions, out: expected addresses, got 0");
  return call;
}

}  // namespace dtag
