#include "py_mlp.h"

#include "cpu/dispatch.h"
#include "cpu/mlp_run.h"
#include "py_arguments.h"

namespace dtag {
namespace {

// Networks of one shape; it holds none of their numbers.
class PyMlp {
 public:
  PyMlp(const std::vector<int64_t>& widths, int64_t members, const std::string& activation, const std::vector<double>& norm_eps,
        const std::string& isa, py::object threads)
      : widths_(network_widths(widths)),
        members_(network_members(members)),
        activation_(network_activation(activation)),
        kernels_(kernels_of(isa.empty() ? default_isa() : isa)),
        threads_(std::move(threads)) {
    for (double eps : norm_eps) eps_.push_back(number("norm_eps", eps, 0., 1e30));
    if (normed() && eps_.size() != widths_.size() - 2)
      throw py::value_error("norm_eps: expected one for each of the " + std::to_string(widths_.size() - 2) +
                            " hidden layers, or none, got " + std::to_string(eps_.size()));
  }

  bool normed() const { return !eps_.empty(); }
  bool keeps_before() const { return (normed() || activation_ != Activation::relu) && widths_.size() > 2; }
  int64_t hidden_size(int64_t rows) const { return mlp_hidden_size(shape(rows), kernels_); }
  int padded_in() const { return mlp_padded(widths_[0], kernels_); }

  void forward(int64_t rows, const Addresses& weights, const Addresses& biases, uintptr_t x, int64_t x_stride, uintptr_t extra,
               int64_t extra_stride, int64_t extra_width, uintptr_t mean, uintptr_t std, uintptr_t in, uintptr_t hidden,
               uintptr_t before, uintptr_t out, const Addresses& scales, const Addresses& shifts, uintptr_t rstd) const {
    const std::vector<const float*> w = arrays<const float>("weights", weights, layers());
    const std::vector<const float*> b = arrays<const float>("biases", biases, layers());
    const Norms norms = this->norms(scales, shifts);
    MlpCall call = this->call(rows, w, norms, in, hidden);
    if (keeps_before()) call.before = address<float>("before", before);
    if (call.before && normed()) call.rstd = given<float>("rstd", rstd);
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
                uintptr_t hidden_grad, uintptr_t in_grad, const Addresses& weight_grads, const Addresses& bias_grads,
                const Addresses& scales, const Addresses& shifts, uintptr_t rstd, const Addresses& scale_grads,
                const Addresses& shift_grads) const {
    const std::vector<const float*> w = arrays<const float>("weights", weights, layers());
    const Norms norms = this->norms(scales, shifts);
    MlpCall call = this->call(rows, w, norms, in, hidden);
    if (keeps_before()) call.before = given<float>("before", before);
    if (normed()) call.rstd = given<float>("rstd", rstd);
    MlpGradients g;
    g.out = given<const float>("out_grad", out_grad);
    g.hidden = call.layers > 1 ? given<float>("hidden_grad", hidden_grad) : nullptr;
    g.in = address<float>("in_grad", in_grad);
    std::vector<float*> dw, db, dscale, dshift;
    if (!weight_grads.empty()) {
      dw = arrays<float>("weight_grads", weight_grads, layers());
      db = arrays<float>("bias_grads", bias_grads, layers());
      g.weights = dw.data();
      g.biases = db.data();
      dscale = arrays<float>("scale_grads", scale_grads, hidden_norms());
      dshift = arrays<float>("shift_grads", shift_grads, hidden_norms());
      if (normed()) {
        g.scales = dscale.data();
        g.shifts = dshift.data();
      }
    }
    const int threads = threads_();
    py::gil_scoped_release release;
    mlp_backward(call, g, kernels_, threads);
  }

  std::string isa() const { return kernels_.name; }

 private:
  struct Norms {
    std::vector<const float*> scales, shifts;
  };

  size_t layers() const { return size_t(members_) * (widths_.size() - 1); }  // of all members

  size_t hidden_norms() const { return size_t(members_) * eps_.size(); }  // of all members

  Norms norms(const Addresses& scales, const Addresses& shifts) const {
    return {arrays<const float>("scales", scales, hidden_norms()), arrays<const float>("shifts", shifts, hidden_norms())};
  }

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

  MlpCall call(int64_t rows, const std::vector<const float*>& weights, const Norms& norms, uintptr_t in, uintptr_t hidden) const {
    MlpCall call = shape(rows);
    call.weights = weights.data();
    call.in = given<float>("in", in);
    if (call.layers > 1) call.hidden = given<float>("hidden", hidden);
    if (!normed()) return call;
    call.scales = norms.scales.data();
    call.shifts = norms.shifts.data();
    call.eps = eps_.data();
    return call;
  }

  std::vector<int> widths_;
  int members_;
  Activation activation_;
  std::vector<float> eps_;  // of LayerNorm by hidden layer; empty: none
  const Kernels& kernels_;
  AllowedThreads threads_;
};

}  // namespace

void add_mlp(py::module_& m) {
  py::class_<PyMlp>(m, "Mlp", "Small networks forwards and backwards; see dtag_fast.ops.mlp.cpu.")
      .def(py::init<const std::vector<int64_t>&, int64_t, const std::string&, const std::vector<double>&, const std::string&,
                    py::object>(),
           py::kw_only(), py::arg("widths"), py::arg("members"), py::arg("activation"), py::arg("norm_eps") = std::vector<double>(),
           py::arg("isa") = "", py::arg("threads"))
      .def("forward", &PyMlp::forward, py::arg("rows"), py::arg("weights"), py::arg("biases"), py::arg("x"), py::arg("x_stride"),
           py::arg("extra"), py::arg("extra_stride"), py::arg("extra_width"), py::arg("mean"), py::arg("std"), py::arg("in_"),
           py::arg("hidden"), py::arg("before"), py::arg("out"), py::arg("scales") = Addresses(), py::arg("shifts") = Addresses(),
           py::arg("rstd") = 0, "Arrays by address, 0 for none (cpu/mlp.h).")
      .def("backward", &PyMlp::backward, py::arg("rows"), py::arg("weights"), py::arg("in_"), py::arg("hidden"), py::arg("before"),
           py::arg("out_grad"), py::arg("hidden_grad"), py::arg("in_grad"), py::arg("weight_grads"),
           py::arg("bias_grads"), py::arg("scales") = Addresses(), py::arg("shifts") = Addresses(), py::arg("rstd") = 0,
           py::arg("scale_grads") = Addresses(), py::arg("shift_grads") = Addresses(),
           "Arrays by address, 0 or an empty list for none.")
      .def("hidden_size", &PyMlp::hidden_size, py::arg("rows"), "Numbers that `hidden` must hold.")
      .def_property_readonly("padded_in", &PyMlp::padded_in, "Numbers of a row of `in_`.")
      .def_property_readonly("keeps_before", &PyMlp::keeps_before, "Whether the way back needs `before`.")
      .def_property_readonly("normed", &PyMlp::normed, "Whether there is LayerNorm: scales, shifts, and for the way back `rstd`.")
      .def_property_readonly("isa", &PyMlp::isa);
}

}  // namespace dtag
