#include "py_decoder.h"

#include <memory>
#include <mutex>

#include "cpu/decoder_plan.h"
#include "cpu/dispatch.h"
#include "py_arguments.h"

namespace dtag {
namespace {

int positive(const char* name, int64_t value) { return int(number(name, double(value), 1, 1 << 24)); }

// Arrays by name, each of the shape that it must have.
class Arrays {
 public:
  explicit Arrays(const py::dict& arrays) : arrays_(arrays) {}
  bool has(const std::string& name) const { return arrays_.contains(name.c_str()); }
  const float* at(const std::string& name, const std::vector<py::ssize_t>& shape) const {
    if (!has(name)) throw py::value_error(name + ": missing among the weights");
    return array_of(name, py::reinterpret_borrow<py::object>(arrays_[name.c_str()]), shape);
  }
  DecoderNumbers::Linear linear(const std::string& name, int out, int in) const {
    return {at(name + ".weight", {out, in}), at(name + ".bias", {out}), out, in};
  }
  DecoderNumbers::Norm norm(const std::string& name, int width, float eps) const {
    return {at(name + ".weight", {width}), at(name + ".bias", {width}), eps};
  }

 private:
  const py::dict& arrays_;
};

class PyDecoder {
 public:
  PyDecoder(int64_t state_dim, int64_t action_dim, int64_t context_len, int64_t max_timestep, int64_t d_model, int64_t n_head,
            int64_t n_layer, const std::string& norm, const std::string& activation, bool predicts_returns, double eps,
            const py::dict& weights, uintptr_t tokens, uintptr_t projected, const Addresses& kept, int64_t rollouts,
            const std::string& precision, const std::string& isa, py::object threads)
      : kernels_(kernels_of(isa.empty() ? default_isa() : isa)), threads_(std::move(threads)) {
    shape_.state_dim = positive("state_dim", state_dim);
    shape_.action_dim = positive("action_dim", action_dim);
    shape_.context_len = positive("context_len", context_len);
    shape_.max_timestep = positive("max_timestep", max_timestep);
    shape_.d_model = positive("d_model", d_model);
    shape_.n_head = positive("n_head", n_head);
    shape_.n_layer = positive("n_layer", n_layer);
    if (shape_.d_model % shape_.n_head) throw py::value_error("n_head: expected a divisor of d_model");
    shape_.pre_norm = one_of<bool>("norm", norm, {{"pre", true}, {"post", false}});
    shape_.gelu = one_of<bool>("activation", activation, {{"gelu", true}, {"relu", false}});
    shape_.predicts_returns = predicts_returns;
    shape_.bf16 = one_of<bool>("precision", precision, {{"fp32", false}, {"bf16", true}});
    eps_ = number("eps", eps, 0., 1.);
    for (uintptr_t ring : kept) kept_.push_back(address<float>("kept", ring));
    if (kept_.size() + 1 != size_t(shape_.n_layer)) throw py::value_error("kept: expected a ring for each block but the first");
    rings_ = {address<float>("tokens", tokens), address<float>("projected", projected), kept_.data(), rollouts};
    if (!rings_.tokens || !rings_.projected || rollouts < 1) throw py::value_error("rings: expected those of at least one rollout");
    repack(weights);
  }

  void repack(const py::dict& weights) {
    const Arrays from(weights);
    const int d = shape_.d_model;
    DecoderNumbers n;
    n.embed_state = from.linear("embed_state", d, shape_.state_dim);
    n.embed_action = from.linear("embed_action", d, shape_.action_dim);
    n.embed_return = from.linear("embed_return", d, 1);
    n.embed_norm = from.norm("embed_norm", d, eps_);
    n.timesteps = from.at("embed_timestep.weight", {shape_.max_timestep, d});
    n.action_head = from.linear("action_head", shape_.action_dim, d);
    if (shape_.predicts_returns) n.return_head = from.linear("return_head", 1, d);
    if (from.has("centre") || from.has("half_range")) {  // neither: the head's outputs are wanted as they are
      n.centre = from.at("centre", {shape_.action_dim});
      n.half_range = from.at("half_range", {shape_.action_dim});
    }
    if (shape_.pre_norm) n.final_norm = from.norm("final_norm", d, eps_);
    for (int b = 0; b < shape_.n_layer; ++b) {
      const std::string block = "blocks." + std::to_string(b) + ".";
      n.blocks.push_back({from.linear(block + "qkv", 3 * d, d), from.linear(block + "out", d, d),
                          from.linear(block + "expand", 4 * d, d), from.linear(block + "contract", d, 4 * d),
                          from.norm(block + "norm_1", d, eps_), from.norm(block + "norm_2", d, eps_)});
    }
    plan_ = std::make_shared<const DecoderPlan>(shape_, n, kernels_);
    table_ = py::reinterpret_borrow<py::object>(weights["embed_timestep.weight"]);
  }

  void step(int64_t count, uintptr_t rows, uintptr_t timesteps, uintptr_t previous_actions, uintptr_t states, uintptr_t returns,
            uintptr_t actions, uintptr_t predicted) {
    DecoderCall call;
    call.count = count;
    call.rows = address<const int64_t>("rows", rows);
    call.timesteps = address<const int64_t>("timesteps", timesteps);
    call.previous_actions = address<const float>("previous_actions", previous_actions);
    call.states = address<const float>("states", states);
    call.returns = address<const float>("returns", returns);
    call.actions = address<float>("actions", actions);
    call.predicted = address<float>("predicted", predicted);
    if (count <= 0) return;
    if (!call.timesteps || !call.previous_actions || !call.states || !call.actions ||
        !(shape_.predicts_returns ? bool(call.predicted) : bool(call.returns)))
      throw py::value_error("step: expected the addresses of timesteps, previous_actions, states, actions and returns");
    if (!call.rows && count > rings_.rollouts) throw py::value_error("rows: there are fewer rollouts");
    for (int64_t i = 0; i < count; ++i) {
      if (call.timesteps[i] < 0 || call.timesteps[i] >= shape_.max_timestep)
        throw py::value_error("timesteps: expected 0.." + std::to_string(shape_.max_timestep - 1) + " (max_timestep), got " +
                              std::to_string(call.timesteps[i]));
      if (call.rows && (call.rows[i] < 0 || call.rows[i] >= rings_.rollouts))
        throw py::value_error("rows: expected rollouts 0.." + std::to_string(rings_.rollouts - 1) + ", got " +
                              std::to_string(call.rows[i]));
    }
    const int threads = threads_();
    const std::shared_ptr<const DecoderPlan> plan = plan_;
    const py::object table = table_;
    std::unique_lock<std::mutex> one(in_use_, std::try_to_lock);
    if (!one) throw std::runtime_error("step: another thread is taking a step with these rollouts");
    py::gil_scoped_release release;
    plan->run(rings_, call, threads);
  }

  std::string isa() const { return kernels_.name; }

 private:
  DecoderWeights shape_;
  float eps_ = 0.f;
  const Kernels& kernels_;
  AllowedThreads threads_;
  py::object table_;
  std::vector<float*> kept_;
  DecoderRings rings_;
  std::shared_ptr<const DecoderPlan> plan_;
  std::mutex in_use_;
};

}  // namespace

void add_decoder(py::module_& m) {
  py::class_<PyDecoder>(m, "Decoder", "A sequence policy acting step by step; see dtag_fast.ops.decode.cpu.")
      .def(py::init<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, const std::string&, const std::string&, bool,
                    double, const py::dict&, uintptr_t, uintptr_t, const Addresses&, int64_t, const std::string&,
                    const std::string&, py::object>(),
           py::kw_only(), py::arg("state_dim"), py::arg("action_dim"), py::arg("context_len"), py::arg("max_timestep"),
           py::arg("d_model"), py::arg("n_head"), py::arg("n_layer"), py::arg("norm"), py::arg("activation"),
           py::arg("predicts_returns"), py::arg("eps"), py::arg("weights"), py::arg("tokens"), py::arg("projected"),
           py::arg("kept"), py::arg("rollouts"), py::arg("precision") = "fp32", py::arg("isa") = "",
           py::arg("threads"))
      .def("repack", &PyDecoder::repack, py::arg("weights"), "Take the numbers of weights of the same shapes.")
      .def("step", &PyDecoder::step, py::kw_only(), py::arg("count"), py::arg("rows") = 0, py::arg("timesteps"),
           py::arg("previous_actions"), py::arg("states"), py::arg("returns") = 0, py::arg("actions"), py::arg("predicted") = 0,
           "One step; arrays by address, 0 for none (cpu/decoder.h).")
      .def_property_readonly("isa", &PyDecoder::isa);
}

}  // namespace dtag
