// CudaPlan as Python sees it: a critic's structure bound to ascent options on one device. Its numbers are the caller's: it
// says where they belong, and is given the address at each call.
#pragma once
#include <optional>

#include "cuda/refine/heuristics.h"
#include "cuda/refine/layout.h"
#include "prepared_call.h"
#include "py_arguments.h"

namespace dtag {

// The plan's own arrays on the device, by address.
struct DeviceArrays {
  uintptr_t numbers = 0, tables = 0, folded = 0;
  int64_t folded_floats = 0;
  uintptr_t workspace = 0;
  int64_t workspace_bytes = 0;
  uintptr_t variants = 0;  // what settings_table() gave, where rows have settings of their own

  // Throws where the kernel needs others.
  void check(const cuda::Choice& choice) const;
};

class PyCudaPlan {
 public:
  // precision: "fp32", "bf16x3" or "bf16", what the kernels may compute in, or better; members as in structure_from.
  PyCudaPlan(int state_dim, int action_dim, const py::sequence& members, const std::string& precision, std::vector<Settings> settings,
             bool bounded, int device, bool clusters);

  // Of a kernel's form of the critic: the structure; [(what, numbers, member, layer, offset, rows, columns, padded, from)];
  // floats of the array of numbers, 0 where the kernel cannot run the critic.
  py::bytes tables(const std::string& kernel) const;
  py::list pieces(const std::string& kernel) const;
  int64_t numbers(const std::string& kernel) const;
  // The settings as the generic kernel reads them, whose numbers lie at this address on the device.
  py::bytes settings_table(uintptr_t numbers) const;

  // (kernel or "none", rows, floats of `folded`, how or why not, [why not another])
  py::tuple choice(int64_t states, int candidates, const std::string& only, int only_rows) const;
  cuda::Choice choose(int64_t states, int candidates, const std::string& only, int only_rows, std::vector<std::string>* why) const;
  // Bytes of `workspace` that a call needs.
  int64_t workspace_bytes(int64_t states, int candidates, const std::string& only, int only_rows) const;
  void run(const PyCall& call, uintptr_t numbers, uintptr_t tables, uintptr_t folded, int64_t folded_floats, uintptr_t stream,
           const std::string& only, int only_rows, uintptr_t workspace, int64_t workspace_bytes, uintptr_t variants) const;
  // Queues the chosen kernel; arrays must be as it needs them.
  void launch(const Call& call, const cuda::Choice& choice, const DeviceArrays& arrays, void* stream) const;

  int state_dim() const { return state_dim_; }
  int action_dim() const { return action_dim_; }
  const Generation& generation() const { return generation_; }
  void renew() { generation_.renew(); }

 private:
  int state_dim_, action_dim_, device_;
  std::vector<Settings> settings_;  // several: variants, among which the rows of every call choose
  const cuda::Pieces& pieces_of(const std::string& kernel) const;

  cuda::Layout layout_;
  cuda::LatencyLayout latency_;
  std::optional<cuda::TensorLayout> tensor_;
  std::optional<cuda::HopperLayout> hopper_;
  cuda::DeviceTraits traits_;
  Generation generation_;
};

void add_cuda_plan(py::module_& m);

}  // namespace dtag
