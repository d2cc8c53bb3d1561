#include "py_cuda_plan.h"

#include <algorithm>

#include "cuda/refine/launch.h"
#include "cuda/refine/stream.h"

namespace dtag {
namespace {

const char* name_of(cuda::Piece::Numbers numbers) {
  return numbers == cuda::Piece::Numbers::float32 ? "float32" : numbers == cuda::Piece::Numbers::bf16 ? "bf16" : "bf16_rest";
}

cuda::Kernel kernel_of(const std::string& name) {
  return one_of<cuda::Kernel>("kernel", name,
                              {{"", cuda::Kernel::none}, {"generic", cuda::Kernel::generic}, {"latency", cuda::Kernel::latency},
                               {"tensor", cuda::Kernel::tensor}, {"hopper", cuda::Kernel::hopper}});
}

}  // namespace

PyCudaPlan::PyCudaPlan(int state_dim, int action_dim, const py::sequence& members, const std::string& precision,
                       std::vector<Settings> settings, bool bounded, int device, bool clusters)
    : state_dim_(state_dim), action_dim_(action_dim), device_(device), settings_(std::move(settings)) {
  const int parts = one_of<int>("precision", precision, {{"fp32", 0}, {"bf16x3", 2}, {"bf16", 1}});
  const Program program = structure_from(state_dim, action_dim, members);
  for (const Settings& s : settings_)
    if (s.reduce == Reduce::member && (s.member < 0 || size_t(s.member) >= program.members.size()))
      throw py::value_error("member: expected one of " + std::to_string(program.members.size()) + ", got " +
                            std::to_string(s.member));
  traits_ = cuda::device_traits(device);
  traits_.clusters = traits_.clusters && clusters;
  layout_ = cuda::Layout(program, bounded);
  latency_ = cuda::LatencyLayout(program, bounded, traits_.has_clusters());
  if (parts) tensor_ = cuda::tensor_layout(program, bounded, parts, traits_);
  if (parts == 1) hopper_ = cuda::HopperLayout(program, bounded);
}

const cuda::Pieces& PyCudaPlan::pieces_of(const std::string& kernel) const {
  const cuda::Kernel which = kernel_of(kernel);
  if (which == cuda::Kernel::tensor && !tensor_) throw py::value_error("kernel: \"tensor\" is not for fp32");
  if (which == cuda::Kernel::hopper && !hopper_) throw py::value_error("kernel: \"hopper\" is for bf16 alone");
  if (which == cuda::Kernel::hopper) return hopper_->pieces;
  return which == cuda::Kernel::latency ? latency_.pieces : which == cuda::Kernel::tensor ? tensor_->pieces : layout_.pieces;
}

py::bytes PyCudaPlan::tables(const std::string& kernel) const {
  const cuda::Kernel which = kernel_of(kernel);
  pieces_of(kernel);
  const auto bytes = which == cuda::Kernel::tensor    ? tensor_->tables()
                     : which == cuda::Kernel::generic ? layout_.tables()
                                                      : std::vector<unsigned char>(16);  // it comes with the launch
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

py::list PyCudaPlan::pieces(const std::string& kernel) const {
  py::list list;
  for (const cuda::Piece& p : pieces_of(kernel).list)
    list.append(py::make_tuple(p.what, name_of(p.numbers), p.member, p.layer, p.offset, p.rows, p.columns, p.padded, p.from));
  return list;
}

py::bytes PyCudaPlan::settings_table(uintptr_t numbers) const {
  std::vector<Settings> table = settings_;
  const float* first = reinterpret_cast<const float*>(numbers);
  for (Settings& s : table) {
    s.low = layout_.low < 0 ? nullptr : first + layout_.low;
    s.high = layout_.high < 0 ? nullptr : first + layout_.high;
  }
  return {reinterpret_cast<const char*>(table.data()), table.size() * sizeof(Settings)};
}

int64_t PyCudaPlan::numbers(const std::string& kernel) const { return pieces_of(kernel).numbers; }

cuda::Choice PyCudaPlan::choose(int64_t states, int candidates, const std::string& only, int only_rows,
                                std::vector<std::string>* why) const {
  const cuda::Layouts layouts{layout_, latency_, tensor_ ? &*tensor_ : nullptr, hopper_ ? &*hopper_ : nullptr};
  return cuda::choose(layouts, action_dim_, traits_, states, candidates, {kernel_of(only), only_rows}, why,
                      settings_.size() > 1);
}

py::tuple PyCudaPlan::choice(int64_t states, int candidates, const std::string& only, int only_rows) const {
  std::vector<std::string> why;
  const cuda::Choice c = choose(states, candidates, only, only_rows, &why);
  return py::make_tuple(cuda::name_of(c.kernel), c.rows, c.folded_floats, c.reason, why);
}

void DeviceArrays::check(const cuda::Choice& choice) const {
  if (!numbers || !tables || numbers % 16 || tables % 16 || folded % 16)
    throw py::value_error("numbers, tables, folded: expected addresses of multiples of 16 bytes");
  if (folded_floats < choice.folded_floats)
    throw py::value_error("folded: expected " + std::to_string(choice.folded_floats) + " floats, got " +
                          std::to_string(folded_floats));
  if (workspace_bytes < choice.workspace_bytes || (choice.workspace_bytes && (!workspace || workspace % 128)))
    throw py::value_error("workspace: expected " + std::to_string(choice.workspace_bytes) +
                          " bytes of zeros at a multiple of 128, got " + std::to_string(workspace_bytes));
}

int64_t PyCudaPlan::workspace_bytes(int64_t states, int candidates, const std::string& only, int only_rows) const {
  return choose(states, candidates, only, only_rows, nullptr).workspace_bytes;
}

void PyCudaPlan::run(const PyCall& given, uintptr_t numbers, uintptr_t tables, uintptr_t folded, int64_t folded_floats,
                     uintptr_t stream, const std::string& only, int only_rows, uintptr_t workspace,
                     int64_t workspace_bytes, uintptr_t variants) const {
  const Call call = given.checked(state_dim_, action_dim_);
  if (call.batch == 0) return;
  const cuda::Choice choice = choose(call.batch, call.candidates, only, only_rows, nullptr);
  if (choice.kernel == cuda::Kernel::none) throw py::value_error(choice.reason);
  const DeviceArrays arrays{numbers, tables, folded, folded_floats, workspace, workspace_bytes, variants};
  arrays.check(choice);
  if (settings_.size() > 1 && (!call.row_variants || !variants || variants % alignof(Settings)))
    throw py::value_error("row_variants, variants: expected which of the plan's settings each row has, and their table");
  launch(call, choice, arrays, reinterpret_cast<void*>(stream));
}

void PyCudaPlan::launch(const Call& call, const cuda::Choice& choice, const DeviceArrays& arrays, void* stream) const {
  const float* first = reinterpret_cast<const float*>(arrays.numbers);
  const auto* tables = reinterpret_cast<const unsigned char*>(arrays.tables);
  auto* folded = reinterpret_cast<float*>(arrays.folded);
  Settings settings = settings_.front();
  const auto take_bounds = [&](const auto& layout) {
    settings.low = layout.low < 0 ? nullptr : first + layout.low;
    settings.high = layout.high < 0 ? nullptr : first + layout.high;
  };
  py::gil_scoped_release release;
  if (choice.kernel == cuda::Kernel::latency) {
    take_bounds(latency_);
    cuda::LatencyParams params{
        {first, state_dim_, action_dim_, int32_t(latency_.members.size()), latency_.slices, {}}, settings, call, choice.latency,
        choice.rows, latency_.facts.norm[1], int32_t(choice.tiles), reinterpret_cast<void*>(arrays.workspace)};
    std::copy(latency_.members.begin(), latency_.members.end(), params.program.members);
    const auto launch = choice.workspace_bytes ? cuda::launch_groups : cuda::launch_clusters;
    launch(params, latency_, choice, device_, stream);
    return;
  }
  if (choice.kernel == cuda::Kernel::hopper) {
    take_bounds(*hopper_);
    cuda::HopperParams params{{first, state_dim_, action_dim_, int32_t(hopper_->members.size()), hopper_->input_steps(), {}},
                              settings, call, choice.hopper,
                              choice.rows / cuda::kHopperRows, int32_t(choice.tiles)};
    std::copy(hopper_->members.begin(), hopper_->members.end(), params.program.members);
    cuda::launch_hopper(params, *hopper_, choice, device_, stream);
    return;
  }
  if (choice.kernel == cuda::Kernel::tensor) {
    take_bounds(*tensor_);
    const cuda::TensorParams params{tensor_->program(tables, first), settings, call, choice.tensor, int32_t(choice.tiles), folded};
    cuda::launch_tensor(params, choice, device_, stream);
    return;
  }
  take_bounds(layout_);
  const cuda::GenericParams params{layout_.program(tables, first), settings, call, choice.tile,
                                   settings_.size() > 1 ? reinterpret_cast<const Settings*>(arrays.variants) : nullptr,
                                   int32_t(settings_.size()), folded};
  cuda::launch_generic(params, choice, device_, stream);
}

namespace {

// Holds a Python lock by its two methods; waiting for it lets other threads run.
class Locked {
 public:
  Locked(const py::object& acquire, const py::object& release) : release_(release) {
    if (!py::reinterpret_steal<py::object>(PyObject_CallNoArgs(acquire.ptr()))) throw py::error_already_set();
  }
  ~Locked() {
    PyObject* done = PyObject_CallNoArgs(release_.ptr());
    if (!done) PyErr_WriteUnraisable(release_.ptr());
    Py_XDECREF(done);
  }
  Locked(const Locked&) = delete;

 private:
  const py::object& release_;
};

class DeviceRun : public PreparedRun {
 public:
  // scratch: makes the tensor for `folded`. lock: held by whoever writes the plan's arrays.
  DeviceRun(const PyCudaPlan& plan, const Call& call, cuda::Choice choice, const DeviceArrays& arrays, py::object scratch,
            const py::object& lock, py::object keep)
      : PreparedRun(plan.generation()), plan_(plan), call_(call), choice_(std::move(choice)), arrays_(arrays) {
    held = {std::move(scratch), lock.attr("acquire"), lock.attr("release"), std::move(keep)};
  }

  bool run(const float* states, const float* actions, float* out, void* stream) override {
    if (cuda::is_capturing(stream)) return false;  // a graph must own its scratch memory, and says what it cannot capture
    DeviceArrays arrays = arrays_;
    py::object folded;
    if (choice_.folded_floats) {
      folded = held[0]();
      arrays.folded = folded.attr("data_ptr")().cast<uintptr_t>();
    }
    Call call = call_;
    call.states = states;
    call.actions = actions;
    call.out = out;
    const Locked lock(held[1], held[2]);
    if (stale()) return false;
    plan_.launch(call, choice_, arrays, stream);
    return true;
  }

 private:
  const PyCudaPlan& plan_;
  Call call_;
  cuda::Choice choice_;
  DeviceArrays arrays_;
};

py::object prepare_device_call(const py::object& object, PyCudaPlan& plan, const Repeated& given, int64_t steps, double lr,
                               double scale, double prior_mean, double prior_weight, const std::string& only, int only_rows, uintptr_t numbers, uintptr_t tables, uintptr_t workspace,
                               int64_t workspace_bytes, py::object keep, py::object scratch, const py::object& lock, bool host, int device_id, uintptr_t stream,
                               py::object stream_of) {
  Call call;
  call.batch = given.batch();
  call.state_stride = plan.state_dim();
  call.steps = int32_t(number("steps", double(steps), 0, 1e6));
  call.lr = number("lr", lr, 0., 1e38);
  call.scale = number("scale", scale, 0., 1e38);
  call.prior_mean = number("prior_mean", prior_mean, -1e38, 1e38);
  call.prior_weight = number("prior_weight", prior_weight, 0., 1e38);
  const cuda::Choice choice = plan.choose(std::max<int64_t>(call.batch, 1), 1, only, only_rows, nullptr);
  if (choice.kernel == cuda::Kernel::none) throw py::value_error(choice.reason);
  const DeviceArrays arrays{numbers, tables, 0, choice.folded_floats, workspace, workspace_bytes};
  arrays.check(choice);
  PreparedFor target;
  target.plan = object;
  target.state_dim = plan.state_dim();
  target.action_dim = plan.action_dim();
  target.device_type = host ? dlpack::kCpu : dlpack::kCuda;
  target.device_id = device_id;
  target.stream = reinterpret_cast<void*>(stream);
  target.stream_of = std::move(stream_of);
  return prepare_call(target, given,
                      std::make_unique<DeviceRun>(plan, call, choice, arrays, std::move(scratch), lock, std::move(keep)));
}

}  // namespace

void add_cuda_plan(py::module_& m) {
  py::class_<PyCudaPlan> plan(m, "CudaPlan", py::module_local(), "A critic's structure bound to ascent options on a device; see "
                                             "dtag_fast.ops.refine.cuda.");
  plan.def(py::init([](int state_dim, int action_dim, const py::sequence& members, const std::string& precision, const std::string& reduce,
                       const std::string& optimizer, const py::dict& optimizer_options, const std::string& gradient, double clip,
                       const std::string& radius_norm, double radius, const std::string& select, const py::sequence& variants,
                       bool bounded, int device,
                       bool clusters) {
             return std::make_unique<PyCudaPlan>(
                 state_dim, action_dim, members, precision,
                 settings_of(settings_from(reduce, optimizer, optimizer_options, gradient, clip, radius_norm, radius, select), variants),
                 bounded, device,
                 clusters);
           }),
           py::kw_only(), py::arg("state_dim"), py::arg("action_dim"), py::arg("members"), py::arg("precision"),
           DTAG_SETTINGS_ARGUMENTS, py::arg("bounded"), py::arg("device"), py::arg("clusters") = true)
      .def("tables", &PyCudaPlan::tables, py::arg("kernel"), "The structure as a kernel reads it, to be copied to the device.")
      .def("pieces", &PyCudaPlan::pieces, py::arg("kernel"),
           "[(what, numbers, member, layer, offset, rows, columns, padded, from)]: the matrices of a kernel's array of numbers "
           "(csrc/cuda/refine/pieces.h).")
      .def("settings_table", &PyCudaPlan::settings_table, py::arg("numbers"),
           "The variants as the generic kernel reads them, to be copied to the device, whose numbers lie at this address.")
      .def("numbers", &PyCudaPlan::numbers, py::arg("kernel"), "Floats of a kernel's array of numbers.")
      .def("renew", &PyCudaPlan::renew, "Calls prepared so far are not taken any more: the caller is about to write the numbers.")
      .def("choice", &PyCudaPlan::choice, py::arg("states"), py::arg("candidates"), py::arg("only") = "",
           py::arg("only_rows") = 0, "(kernel or \"none\", rows, floats of `folded`, how or why not, [why not another]).")
      .def("workspace_bytes", &PyCudaPlan::workspace_bytes, py::arg("states"), py::arg("candidates"), py::arg("only") = "",
           py::arg("only_rows") = 0,
           "Bytes of `workspace`: zeros before and after every call that uses it, one call at a time.");
  define_run<uintptr_t, uintptr_t, uintptr_t, int64_t, uintptr_t, const std::string&, int, uintptr_t, int64_t, uintptr_t>(
      plan, "Queues one call on the stream; arrays by device address, 0 for none (refine/params.h).", py::arg("numbers"),
      py::arg("tables"), py::arg("folded"), py::arg("folded_floats"), py::arg("stream") = 0, py::arg("only") = "",
      py::arg("only_rows") = 0, py::arg("workspace") = 0, py::arg("workspace_bytes") = 0,
      py::arg("variants") = 0);
  define_prepare_call<PyCudaPlan, int64_t, double, double, double, double, const std::string&, int, uintptr_t, uintptr_t, uintptr_t, int64_t, py::object,
                      py::object, py::object, bool, int, uintptr_t, py::object>(
      m, "prepare_cuda_call", &prepare_device_call, py::arg("steps"), py::arg("lr"), py::arg("scale"), py::arg("prior_mean"), py::arg("prior_weight"), py::arg("only"), py::arg("only_rows"),
      py::arg("numbers"), py::arg("tables"), py::arg("workspace"), py::arg("workspace_bytes"), py::arg("keep"), py::arg("scratch"),
      py::arg("lock"), py::arg("host"), py::arg("device"), py::arg("stream"), py::arg("stream_of"));
}

}  // namespace dtag
