#include "py_iql.h"

#include <memory>
#include <mutex>

#include "cpu/dispatch.h"
#include "cpu/iql_update.h"
#include "py_arguments.h"

namespace dtag {
namespace {

template <class T>
T item(const py::dict& from, const char* name) {
  if (!from.contains(name)) throw py::value_error(std::string(name) + ": missing");
  return as<T>(name, from[name]);
}

// widths, members, parameters, first, second, counts, followers, and extra (parameters, first, second) of a policy.
IqlNetwork network_from(const py::dict& from, const std::string& activation) {
  IqlNetwork n;
  n.widths = network_widths(item<std::vector<int64_t>>(from, "widths"));
  n.members = network_members(item<int64_t>(from, "members"));
  n.activation = network_activation(activation);
  const size_t count = 2 * size_t(n.members) * (n.widths.size() - 1);
  n.parameters = arrays<float>("parameters", item<Addresses>(from, "parameters"), count);
  n.first = arrays<float>("first", item<Addresses>(from, "first"), count);
  n.second = arrays<float>("second", item<Addresses>(from, "second"), count);
  const Addresses followers = item<Addresses>(from, "followers"), extra = item<Addresses>(from, "extra");
  if (!followers.empty()) n.followers = arrays<float>("followers", followers, count);
  if (!extra.empty()) {
    const std::vector<float*> found = arrays<float>("extra", extra, 3);
    n.extra = found[0];
    n.extra_first = found[1];
    n.extra_second = found[2];
  }
  n.counts = arrays<float>("counts", item<Addresses>(from, "counts"), count + (extra.empty() ? 0 : 1));
  return n;
}

void expect_widths(const char* name, const IqlNetwork& n, int in, int out) {
  if (n.widths.front() != in || n.widths.back() != out)
    throw py::value_error(std::string(name) + ": expected " + std::to_string(in) + " inputs and " + std::to_string(out) + " outputs");
}

class PyIqlUpdate {
 public:
  PyIqlUpdate(const py::dict& settings, const py::dict& critic, const py::dict& value, const py::object& policy,
              const std::string& activation, const std::string& isa, py::object threads)
      : kernels_(kernels_of(isa.empty() ? default_isa() : isa)), threads_(std::move(threads)) {
    s_.rows = item<int64_t>(settings, "rows");
    s_.mean = item<std::vector<float>>(settings, "mean");
    s_.std = item<std::vector<float>>(settings, "std");
    s_.state_dim = int(s_.mean.size());
    s_.action_dim = int(number("action_dim", double(item<int64_t>(settings, "action_dim")), 1, 1 << 20));
    if (s_.rows < 1 || s_.mean.empty() || s_.std.size() != s_.mean.size())
      throw py::value_error("settings: expected at least one row, and a mean and a deviation for each number of a state");
    s_.expectile = number("expectile", item<double>(settings, "expectile"), 0., 1.);
    s_.polyak = number("polyak", item<double>(settings, "polyak"), 0., 1.);
    s_.lr = number("lr", item<double>(settings, "lr"), 0., 1e30);
    s_.inverse_temperature = number("inverse_temperature", item<double>(settings, "inverse_temperature"), -1e30, 1e30);
    s_.max_weight = number("max_weight", item<double>(settings, "max_weight"), 0., 1e30);
    const IqlNetwork q = network_from(critic, activation), v = network_from(value, activation);
    expect_widths("critic", q, s_.state_dim + s_.action_dim, 1);
    expect_widths("value", v, s_.state_dim, 1);
    if (q.followers.empty() || v.members != 1) throw py::value_error("critic, value: expected a target of the critic, and one value");
    IqlNetwork p;
    if (!policy.is_none()) {
      const py::dict from = policy.cast<py::dict>();
      p = network_from(from, activation);
      expect_widths("policy", p, s_.state_dim, s_.action_dim);
      if (!p.extra || p.members != 1) throw py::value_error("policy: expected one network and its log standard deviation");
      s_.log_std_low = number("log_std_low", item<double>(from, "log_std_low"), -1e30, 1e30);
      s_.log_std_high = number("log_std_high", item<double>(from, "log_std_high"), -1e30, 1e30);
      for (auto [name, to] : {std::pair("centre", &s_.centre), {"half_range", &s_.half_range}, {"low", &s_.low}, {"high", &s_.high}}) {
        *to = item<std::vector<float>>(from, name);
        if (to->size() != size_t(s_.action_dim)) throw py::value_error(std::string(name) + ": expected a number for each of an action");
      }
    }
    update_ = std::make_unique<IqlUpdate>(s_, q, v, p, kernels_);
  }

  // Columns of a batch, (address, distance of rows) each.
  py::tuple run(const std::vector<std::pair<uintptr_t, int64_t>>& columns, double policy_lr) {
    if (columns.size() != 6) throw py::value_error("columns: expected the six of a batch of transitions");
    const int widths[6] = {s_.state_dim, s_.action_dim, 1, s_.state_dim, 1, 1};
    MlpRows rows[6];
    for (size_t i = 0; i < 6; ++i) {
      rows[i] = {given<const float>("columns", columns[i].first), columns[i].second, widths[i]};
      if (rows[i].stride < 0) throw py::value_error("columns: expected rows in the order of memory");
    }
    const IqlBatch batch{rows[0], rows[1], rows[2], rows[3], rows[4], rows[5], float(policy_lr)};
    const int threads = threads_();
    IqlMetrics m;
    {
      std::unique_lock<std::mutex> one(in_use_, std::try_to_lock);
      if (!one) throw std::runtime_error("run: another thread is making an update of these networks");
      py::gil_scoped_release release;
      m = update_->run(batch, threads);
    }
    return py::make_tuple(m.value_loss, m.value, m.policy_loss, m.critic_loss, m.q);
  }

  std::string isa() const { return kernels_.name; }

 private:
  IqlSettings s_;
  const Kernels& kernels_;
  AllowedThreads threads_;
  std::unique_ptr<IqlUpdate> update_;
  std::mutex in_use_;
};

}  // namespace

void add_iql(py::module_& m) {
  py::class_<PyIqlUpdate>(m, "IqlUpdate", "Updates of implicit Q-learning in one call each; see dtag_fast.algorithms.compiled_iql.")
      .def(py::init<const py::dict&, const py::dict&, const py::dict&, const py::object&, const std::string&, const std::string&,
                    py::object>(),
           py::kw_only(), py::arg("settings"), py::arg("critic"), py::arg("value"), py::arg("policy"), py::arg("activation"),
           py::arg("isa") = "", py::arg("threads"))
      .def("run", &PyIqlUpdate::run, py::arg("columns"), py::arg("policy_lr"),
           "One update; value_loss, value, policy_loss, critic_loss, q. Arrays by address (cpu/iql_update.h).")
      .def_property_readonly("isa", &PyIqlUpdate::isa);
}

}  // namespace dtag
