// What the bindings take apart: critics, networks, options, addresses. Wrong ones raise ValueError or TypeError.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "refine/params.h"
#include "refine/program.h"

namespace dtag {

namespace py = pybind11;

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

inline float number(const char* name, double value, double low, double high) {
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

using Addresses = std::vector<uintptr_t>;

// An address that must be there.
template <class T>
T* given(const char* name, uintptr_t value) {
  if (!value) throw py::value_error(std::string(name) + ": expected an address, got none");
  return address<T>(name, value);
}

// As many of them as there are arrays.
template <class T>
std::vector<T*> arrays(const char* name, const Addresses& addresses, size_t count) {
  if (addresses.size() != count)
    throw py::value_error(std::string(name) + ": expected the addresses of " + std::to_string(count) + " arrays, got " +
                          std::to_string(addresses.size()));
  std::vector<T*> found;
  for (uintptr_t value : addresses) found.push_back(given<T>(name, value));
  return found;
}

// A Python function that is asked at each call how many threads it may use.
class AllowedThreads {
 public:
  explicit AllowedThreads(py::object function);
  int operator()() const;

 private:
  py::object function_;
};

// Small networks (cpu/mlp.h): numbers in, of each hidden layer and out; how many of one shape; what lies between layers.
std::vector<int> network_widths(const std::vector<int64_t>& widths);
int network_members(int64_t members);
Activation network_activation(const std::string& name);

// Where the numbers of a float32 C-contiguous array of this shape lie; they live as long as the array.
const float* array_of(const std::string& name, const py::object& object, const std::vector<py::ssize_t>& shape);

// members: a list per member of ("linear", weight (out, in), bias (out,) | None), ("norm", weight | None, bias | None,
// eps) and ("activation", kind, [parameters]).
Program program_from(int state_dim, int action_dim, const py::sequence& members);

// The same without numbers: ("linear", (out, in)), ("norm", eps) and ("activation", kind, [parameters]); weights and biases
// of the program are empty.
Program structure_from(int state_dim, int action_dim, const py::sequence& members);

// `settings`: a dict of reduce, optimizer, optimizer_options, gradient, clip, radius_norm, radius, select. Bounds are not
// among them.
Settings settings_from(const std::string& reduce, const std::string& optimizer, const py::dict& optimizer_options,
                       const std::string& gradient, double clip, const std::string& radius_norm, double radius,
                       const std::string& select);

// A list of such dicts, each also with `member`, that of reduce = "member"; an empty one is `alone`.
std::vector<Settings> settings_of(const Settings& alone, const py::sequence& variants);

// One call as Python gives it, arrays by address, 0 for none; checked against the program's dimensions.
struct PyCall {
  uintptr_t states;
  int64_t state_stride;
  uintptr_t actions, out;
  int64_t batch, candidates, steps;
  uintptr_t row_steps;
  double lr;
  uintptr_t lr_values;
  int64_t lr_row_stride, lr_dim_stride;
  double scale;
  uintptr_t scale_values;
  int64_t scale_row_stride, scale_dim_stride;
  uintptr_t radius_values, row_variants;
  double prior_mean;
  uintptr_t prior_mean_values;
  int64_t prior_mean_row_stride, prior_mean_dim_stride;
  double prior_weight;
  uintptr_t prior_weight_values;
  uintptr_t q_first, q_best, best_index, best_candidate, trace_actions, trace_q, trace_grad;
  Call checked(int state_dim, int action_dim) const;
};

// Settings, bound and passed on by name: the arguments of settings_from, and variants.
#define DTAG_SETTINGS_ARGUMENTS                                                                                            \
  pybind11::arg("reduce") = "min", pybind11::arg("optimizer") = "sgd", pybind11::arg("optimizer_options") = pybind11::dict(), \
  pybind11::arg("gradient") = "raw", pybind11::arg("clip") = 1.0, pybind11::arg("radius_norm") = "none",                    \
  pybind11::arg("radius") = 0.0, pybind11::arg("select") = "best", pybind11::arg("variants") = pybind11::list()

// Defines run(): the arguments of PyCall, then those of `extra`, handed to plan.run(PyCall, Extra...).
template <class... Extra, class Class, class... Arguments>
void define_run(Class& plan_class, const char* doc, const Arguments&... extra) {
  plan_class.def(
      "run",
      [](typename Class::type& plan, uintptr_t states, int64_t state_stride, uintptr_t actions, uintptr_t out, int64_t batch,
         int64_t candidates, int64_t steps, uintptr_t row_steps, double lr, uintptr_t lr_values, int64_t lr_row_stride,
         int64_t lr_dim_stride, double scale, uintptr_t scale_values, int64_t scale_row_stride, int64_t scale_dim_stride,
         uintptr_t radius_values, uintptr_t row_variants, double prior_mean, uintptr_t prior_mean_values,
         int64_t prior_mean_row_stride, int64_t prior_mean_dim_stride, double prior_weight, uintptr_t prior_weight_values,
         uintptr_t q_first, uintptr_t q_best, uintptr_t best_index, uintptr_t best_candidate,
         uintptr_t trace_actions, uintptr_t trace_q, uintptr_t trace_grad, Extra... more) {
        plan.run(PyCall{states, state_stride, actions, out, batch, candidates, steps, row_steps, lr, lr_values, lr_row_stride,
                        lr_dim_stride, scale, scale_values, scale_row_stride, scale_dim_stride, radius_values, row_variants,
                        prior_mean, prior_mean_values, prior_mean_row_stride, prior_mean_dim_stride, prior_weight,
                        prior_weight_values, q_first, q_best, best_index, best_candidate, trace_actions, trace_q, trace_grad},
                 more...);
      },
      py::kw_only(), py::arg("states"), py::arg("state_stride"), py::arg("actions"), py::arg("out"), py::arg("batch"),
      py::arg("candidates") = 1, py::arg("steps"), py::arg("row_steps") = 0, py::arg("lr") = 0.0, py::arg("lr_values") = 0,
      py::arg("lr_row_stride") = 0, py::arg("lr_dim_stride") = 0, py::arg("scale") = 1.0,
      py::arg("scale_values") = 0, py::arg("scale_row_stride") = 0, py::arg("scale_dim_stride") = 0,
      py::arg("radius_values") = 0, py::arg("row_variants") = 0, py::arg("prior_mean") = 0.0, py::arg("prior_mean_values") = 0,
      py::arg("prior_mean_row_stride") = 0, py::arg("prior_mean_dim_stride") = 0, py::arg("prior_weight") = 0.0,
      py::arg("prior_weight_values") = 0, py::arg("q_first") = 0, py::arg("q_best") = 0,
      py::arg("best_index") = 0, py::arg("best_candidate") = 0, py::arg("trace_actions") = 0, py::arg("trace_q") = 0,
      py::arg("trace_grad") = 0, extra..., doc);
}

}  // namespace dtag
