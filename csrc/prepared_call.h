// What a prepared Refiner does between the Python call and the kernel, for the calls that loops repeat: shapes seen before,
// float32 on the device of the critic, weights and modes unchanged. The same for every compiled plan; what differs is a
// PreparedRun.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <atomic>
#include <memory>
#include <vector>

#include "dlpack_abi.h"

namespace dtag {

namespace py = pybind11;

using Sizes = std::vector<int64_t>;

// Numbers the contents of a plan: a prepared call made before the last renew() is not taken any more.
class Generation {
 public:
  void renew() { ++count_; }
  uint64_t now() const { return count_; }

 private:
  std::atomic<uint64_t> count_{0};
};

// One call of fixed shapes on a plan, all arrays contiguous on the plan's device.
class PreparedRun {
 public:
  explicit PreparedRun(const Generation& of_plan) : of_plan_(&of_plan), made_in_(of_plan.now()) {}
  virtual ~PreparedRun() = default;

  // False when the plan was renewed since: nothing was done then. Called with the interpreter's lock.
  virtual bool run(const float* states, const float* actions, float* out, void* stream) = 0;

  bool stale() const { return of_plan_->now() != made_in_; }

  std::vector<py::object> held;  // what it uses, for as long as it exists

 private:
  const Generation* of_plan_;
  uint64_t made_in_;
};

// Where and for which plan a call is prepared.
struct PreparedFor {
  py::object plan;
  int state_dim, action_dim;
  int32_t device_type = dlpack::kCpu, device_id = 0;
  void* stream = nullptr;         // the only one it is prepared for
  py::object stream_of = py::none();  // tells the current stream where tensors do not
};

// The arguments that all plans' calls are prepared from.
struct Repeated {
  py::type tensor_type;
  py::object empty_like_tensor;  // makes the result when the caller gives none
  py::type array_type;
  py::object empty_like_array;
  Sizes states_shape, actions_shape;
  py::list stores, names, tensors, versions, modules;
  std::vector<bool> modes;
  bool within_one;
  py::object known;  // a PreparedCall whose shapes are to be kept, or None

  int64_t batch() const { return actions_shape.size() == 2 ? actions_shape[0] : 1; }
};

// A PreparedCall, or None where tensors offer no table of DLPack functions.
py::object prepare_call(const PreparedFor& target, const Repeated& call, std::unique_ptr<PreparedRun> run);

// The table of a tensor type, or null where its library is too old for one or newer than we know.
const dlpack::ExchangeApi* exchange_api(const py::type& tensor_type);

// Adds the type PreparedCall, and what the tensor type's table says of streams.
void add_prepared_call(py::module_& m);

constexpr const char* kPrepareCall =
    "A PreparedCall for calls of these shapes, and those of `known`, while stores[i][names[i]] is tensors[i] at versions[i] "
    "(None: any) and the modules behind the weak references are in these modes; None where tensors offer no table of DLPack "
    "functions.";

// Defines `name`: the arguments of Repeated after those of `extra`, handed to make(plan, Repeated, Extra...).
template <class Plan, class... Extra, class Make, class... Arguments>
void define_prepare_call(py::module_& m, const char* name, Make make, const Arguments&... extra) {
  m.def(
      name,
      [make](py::object plan, Extra... more, py::type tensor_type, py::object empty_like_tensor, py::type array_type,
             py::object empty_like_array, Sizes states_shape, Sizes actions_shape, py::list stores, py::list names,
             py::list tensors, py::list versions, py::list modules, std::vector<bool> modes, bool within_one, py::object known) {
        const Repeated call{tensor_type, empty_like_tensor, array_type, empty_like_array, states_shape, actions_shape, stores,
                            names, tensors, versions, modules, modes, within_one, known};
        return make(plan, plan.cast<Plan&>(), call, more...);
      },
      py::kw_only(), py::arg("plan"), extra..., py::arg("tensor_type"), py::arg("empty_like_tensor"), py::arg("array_type"),
      py::arg("empty_like_array"), py::arg("states_shape"), py::arg("actions_shape"), py::arg("stores"), py::arg("names"),
      py::arg("tensors"), py::arg("versions"), py::arg("modules"), py::arg("modes"), py::arg("within_one"),
      py::arg("known") = py::none(), kPrepareCall);
}

}  // namespace dtag
