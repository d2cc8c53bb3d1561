#include "py_mlp.h"

#include "cpu/dispatch.h"
#include "cpu/mlp_run.h"
#include "py_arguments.h"

namespace dtag {
namespace {

// Networks of one shape; it holds none of their numbers.
class PyMlp {
 public:
  PyMlp(const std::vector<int64_t>& widths, int64_t members, const std::string& activation, const std::string& isa, py::object threads)
      : widths_(network_widths(widths)),
        members_(network_members(members)),
        activation_(network_activation(activation)),
        kernels_(kernels_of(isa.empty() ? default_isa() : isa)),
        threads_(std::move(threads)) {}

  bool keeps_before() const { return activation_ != Activation::relu && widths_.size() > 2; }
  int64_t hidden_size(int64_t rows) const { return mlp_hidden_size(shape(rows), kernels_); }
  int padded_in() const { return mlp_padded(widths_[0], kernels_); }

  void forward(int64_t rows, const Addresses& weights, const Addresses& biases, uintptr_t x, int64_t x_stride, uintptr_t extra,
               int64_t extra_stride, int64_t extra_width, uintptr_t mean, uintptr_t std, uintptr_t in, uintptr_t hidden,
               uintptr_t before, uintptr_t out) const {
    const std::vector<const float*> w = arrays<const float>("weights", weights, layers());
    const std::vector<const float*> b = arrays<const float>("biases", biases, layers());
    MlpCall call = this->call(rows, w, in, hidden, before);
    call.biases = b.data();
    if (extra_width < 0 || extra_width >= widths_[0]) throw py::value_error("extra_width: expected at least 0 and fewer than all inputs");
    call.x = {given<const float>("x", x), x_stride, widths_[0] - int(extra_width)};
    if (extra_width) call.extra = {given<const float>("extra", extra), extra_stride, int(extra_width)};
    if (mean) {
      call.mean = given<const float>("mean", mean);
      call.std = given<const float>("std", std);
    }
    call.out = given<float>("out", out);
    const int threads = threads_();
    py::gil_scoped_release release;
    mlp_forward(call, kernels_, threads);
  }

  void backward(int64_t rows, const Addresses& weights, uintptr_t in, uintptr_t hidden, uintptr_t before, uintptr_t out_grad,
                uintptr_t hidden_grad, uintptr_t in_grad, const Addresses& weight_grads, const Addresses& bias_grads) const {
    const std::vector<const float*> w = arrays<const float>("weights", weights, layers());
    const MlpCall call = this->call(rows, w, in, hidden, before);
    MlpGradients g;
    g.out = given<const float>("out_grad", out_grad);
    g.hidden = call.layers > 1 ? given<float>("hidden_grad", hidden_grad) : nullptr;
    g.in = address<float>("in_grad", in_grad);
    std::vector<float*> dw, db;
    if (!weight_grads.empty()) {
      dw = arrays<float>("weight_grads", weight_grads, layers());
      db = arrays<float>("bias_grads", bias_grads, layers());
      g.weights = dw.data();
      g.biases = db.data();
    }
    const int threads = threads_();
    py::gil_scoped_release release;
    mlp_backward(call, g, kernels_, threads);
  }

  std::string isa() const { return kernels_.name; }

 private:
  size_t layers() const { return size_t(members_) * (widths_.size() - 1); }  // of all members

  MlpCall shape(int64_t rows) const {
    if (rows < 1) throw py::value_error("rows: expected at least one");
    MlpCall call;
    call.members = members_;
    call.layers = int(widths_.size()) - 1;
    call.widths = widths_.data();
    call.activation = activation_;
    call.rows = rows;
    return call;
  }

  MlpCall call(int64_t rows, const std::vector<const float*>& weights, uintptr_t in, uintptr_t hidden, uintptr_t before) const {
    MlpCall call = shape(rows);
    call.weights = weights.data();
    call.in = given<float>("in", in);
    if (call.layers > 1) call.hidden = given<float>("hidden", hidden);
    if (keeps_before()) call.before = given<float>("before", before);
    return call;
  }

  std::vector<int> widths_;
  int members_;
  Activation activation_;
  const Kernels& kernels_;
  AllowedThreads threads_;
};

}  // namespace

void add_mlp(py::module_& m) {
  py::class_<PyMlp>(m, "Mlp", "Small networks forwards and backwards; see dtag_fast.ops.mlp.cpu.")
      .def(py::init<const std::vector<int64_t>&, int64_t, const std::string&, const std::string&, py::object>(), py::kw_only(),
           py::arg("widths"), py::arg("members"), py::arg("activation"), py::arg("isa") = "", py::arg("threads"))
      .def("forward", &PyMlp::forward, py::arg("rows"), py::arg("weights"), py::arg("biases"), py::arg("x"), py::arg("x_stride"),
           py::arg("extra"), py::arg("extra_stride"), py::arg("extra_width"), py::arg("mean"), py::arg("std"), py::arg("in_"),
           py::arg("hidden"), py::arg("before"), py::arg("out"), "Arrays by address, 0 for none (cpu/mlp.h).")
      .def("backward", &PyMlp::backward, py::arg("rows"), py::arg("weights"), py::arg("in_"), py::arg("hidden"), py::arg("before"),
           py::arg("out_grad"), py::arg("hidden_grad"), py::arg("in_grad"), py::arg("weight_grads"),
           py::arg("bias_grads"), "Arrays by address, 0 or an empty list for none.")
      .def("hidden_size", &PyMlp::hidden_size, py::arg("rows"), "Numbers that `hidden` must hold.")
      .def_property_readonly("padded_in", &PyMlp::padded_in, "Numbers of a row of `in_`.")
      .def_property_readonly("keeps_before", &PyMlp::keeps_before, "Whether `before` must be given.")
      .def_property_readonly("isa", &PyMlp::isa);
}

}  // namespace dtag
