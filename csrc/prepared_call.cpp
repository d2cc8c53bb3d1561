#include "prepared_call.h"

#include <structmember.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

namespace dtag {

namespace {

static_assert(sizeof(Py_ssize_t) == sizeof(int64_t), "shapes of arrays are read as int64");

// One tensor the weights were packed from: the dict that holds it under `name`, and its version then (none: not looked at).
struct Watched {
  py::object store, name, tensor, version;
};

struct Mode {
  py::object module;  // a weak reference
  bool training;
};

// An argument while the call lasts: float32, or float64 (`wide`).
struct View {
  void* data = nullptr;
  bool wide = false;
  int ndim = 0;
  const int64_t *shape = nullptr, *strides = nullptr;
  int64_t unit = 1;  // of the strides
  Py_buffer buffer{};

  View() = default;
  View(const View&) = delete;
  ~View() { PyBuffer_Release(&buffer); }  // does nothing when none is held

  // Whether these are contiguous rows. A lone row may have any stride, but the innermost must be 1 even then: lazily
  // negated views of complex numbers have 2.
  bool fits(const Sizes& expected) const {
    if (size_t(ndim) != expected.size()) return false;
    int64_t stride = unit;
    for (size_t d = expected.size(); d-- > 0;) {
      if (shape[d] != expected[d] || (strides[d] != stride && (shape[d] != 1 || d + 1 == expected.size()))) return false;
      stride *= shape[d];
    }
    return true;
  }
};

// The plan, its device and the way tensors are read there.
struct Place {
  py::object plan, stream_of;
  const dlpack::ExchangeApi* api = nullptr;
  py::object tensor_type, array_type;  // torch.Tensor, numpy.ndarray
  py::object empty_like_tensor, empty_like_array;
  int32_t device_type = dlpack::kCpu, device_id = 0;

  bool on_host() const { return device_type == dlpack::kCpu; }
  bool is_tensor(PyObject* object) const { return reinterpret_cast<PyObject*>(Py_TYPE(object)) == tensor_type.ptr(); }
  bool is_array(PyObject* object) const { return reinterpret_cast<PyObject*>(Py_TYPE(object)) == array_type.ptr(); }

  bool read(PyObject* object, bool write, View* to) const;
  void* current_stream() const;
};

// Prepared calls of one plan form a chain, newest first; each link is one pair of shapes on one stream and never changes.
struct PreparedCall {
  Place place;
  py::object next_object;  // keeps `next`
  const PreparedCall* next = nullptr;
  int links = 1;
  std::unique_ptr<PreparedRun> run;
  void* stream = nullptr;
  Sizes states_shape, actions_shape;
  int64_t count = 0;  // numbers in the actions
  std::vector<Watched> watched;
  std::vector<Mode> modes;
  PyObject* training_name = nullptr;  // interned, never released
  PyGetSetDef* version_getter = nullptr;
  bool within_one = false;  // actions must lie in [-1, 1]

  PyObject* call(PyObject* states, PyObject* actions, PyObject* out) const;

 private:
  PyObject* finish(const View& s, const View& a, PyObject* actions, PyObject* out) const;
  bool unchanged() const;
  bool inside(const float* actions) const;
};
constexpr int kMostLinks = 16;

// The numbers of an exact torch.Tensor or numpy.ndarray on this device; false for anything else.
bool Place::read(PyObject* object, bool write, View* to) const {
  if (is_tensor(object)) {
    dlpack::TensorView v;
    if (api->view_from_object(object, &v) != 0) {
      PyErr_Clear();  // a wrapper without memory: the general way says what is wrong with it
      return false;
    }
    to->wide = v.type_bits == 64;
    if (v.device_type != device_type || v.device_id != device_id || v.type_code != dlpack::kFloat || v.type_lanes != 1 ||
        (!to->wide && v.type_bits != 32))
      return false;
    to->data = static_cast<char*>(v.data) + v.byte_offset;
    to->ndim = v.ndim;
    to->shape = v.shape;
    to->strides = v.strides;
  } else if (on_host() && is_array(object)) {
    if (PyObject_GetBuffer(object, &to->buffer, PyBUF_STRIDES | PyBUF_FORMAT | (write ? PyBUF_WRITABLE : 0)) != 0) {
      PyErr_Clear();  // dates, say, or a read-only `out`
      return false;
    }
    const Py_buffer& b = to->buffer;
    to->wide = b.format[0] == 'd';
    if ((!to->wide && b.format[0] != 'f') || b.format[1] != 0) return false;
    to->data = b.buf;
    to->ndim = b.ndim;
    to->shape = reinterpret_cast<const int64_t*>(b.shape);
    to->strides = reinterpret_cast<const int64_t*>(b.strides);
    to->unit = b.itemsize;
  } else {
    return false;
  }
  return reinterpret_cast<uintptr_t>(to->data) % (to->wide ? sizeof(double) : sizeof(float)) == 0;
}

void* Place::current_stream() const {
  void* stream = nullptr;
  if (!stream_of.is_none()) {
    const auto number = py::reinterpret_steal<py::object>(PyObject_CallNoArgs(stream_of.ptr()));
    if (!number) throw py::error_already_set();
    stream = PyLong_AsVoidPtr(number.ptr());
    if (!stream && PyErr_Occurred()) throw py::error_already_set();
  } else if (!on_host() && api->current_stream(device_type, device_id, &stream) != 0) {
    throw py::error_already_set();
  }
  return stream;
}

// Throws what reading an attribute raises.
bool PreparedCall::unchanged() const {
  for (const Mode& mode : modes) {
    const auto module = py::reinterpret_steal<py::object>(PyObject_CallNoArgs(mode.module.ptr()));
    if (!module) throw py::error_already_set();
    if (module.is_none()) return false;  // the critic is gone: the general way says so
    const auto training = py::reinterpret_steal<py::object>(PyObject_GetAttr(module.ptr(), training_name));
    if (!training) throw py::error_already_set();
    if (training.ptr() != (mode.training ? Py_True : Py_False)) return false;
  }
  for (const Watched& w : watched) {
    PyObject* found = PyDict_GetItemWithError(w.store.ptr(), w.name.ptr());
    if (!found && PyErr_Occurred()) throw py::error_already_set();
    if (found != w.tensor.ptr()) return false;
  }
  for (const Watched& w : watched) {
    if (w.version.is_none()) continue;
    const auto now = py::reinterpret_steal<py::object>(version_getter->get(w.tensor.ptr(), version_getter->closure));
    if (!now) throw py::error_already_set();
    const int same = PyObject_RichCompareBool(now.ptr(), w.version.ptr(), Py_EQ);
    if (same < 0) throw py::error_already_set();
    if (!same) return false;
  }
  return true;
}

// Whether no action is outside bounds that are only the default. On a device looking would wait: there DTAG_CHECK=1 asks for
// it, which is the general way's to do.
bool PreparedCall::inside(const float* actions) const {
  if (!within_one) return true;
  if (!place.on_host()) {
    const char* check = std::getenv("DTAG_CHECK");
    return !check || std::strcmp(check, "1") != 0;
  }
  bool outside = false;  // NaN counts as inside: such rows come back as they are
  for (int64_t i = 0; i < count; ++i) outside |= actions[i] < -1.f || actions[i] > 1.f;
  return !outside;
}

// A new reference to the result, or to None when this call is none of the prepared ones.
PyObject* PreparedCall::call(PyObject* states, PyObject* actions, PyObject* out) const {
  View s, a;
  if (!place.read(states, false, &s) || !place.read(actions, false, &a) || a.wide || (s.wide && !place.on_host()))
    Py_RETURN_NONE;
  void* const current = place.current_stream();
  const PreparedCall* link = this;
  while (link && !(link->stream == current && s.fits(link->states_shape) && a.fits(link->actions_shape))) link = link->next;
  if (!link) Py_RETURN_NONE;
  return link->finish(s, a, actions, out);
}

PyObject* PreparedCall::finish(const View& s, const View& a, PyObject* actions, PyObject* out) const {
  const auto* first_action = static_cast<const float*>(a.data);
  if (!unchanged() || !inside(first_action)) Py_RETURN_NONE;
  py::object result;
  if (out == Py_None) {
    const py::object& make = place.is_tensor(actions) ? place.empty_like_tensor : place.empty_like_array;
    result = py::reinterpret_steal<py::object>(PyObject_Vectorcall(make.ptr(), &actions, 1, nullptr));
    if (!result) throw py::error_already_set();
  } else if (Py_IS_TYPE(out, Py_TYPE(actions))) {
    result = py::reinterpret_borrow<py::object>(out);
  } else {
    Py_RETURN_NONE;
  }
  View o;
  if (!place.read(result.ptr(), true, &o) || o.wide || !o.fits(actions_shape)) Py_RETURN_NONE;
  const auto* first_state = static_cast<const float*>(s.data);
  std::vector<float> converted;
  if (s.wide) {
    const auto* first = static_cast<const double*>(s.data);
    size_t n = 1;
    for (int64_t size : states_shape) n *= size_t(size);
    converted.assign(first, first + n);
    first_state = converted.data();
  }
  if (!run->run(first_state, first_action, static_cast<float*>(o.data), stream)) Py_RETURN_NONE;
  return result.release().ptr();
}

// ---- The Python type. Plain C rather than pybind11: its dispatch alone takes as long as the search for changes.

struct Object {
  PyObject_HEAD
  vectorcallfunc vectorcall;
  PreparedCall* call;
};

PyObject* vectorcall(PyObject* self, PyObject* const* arguments, size_t flags, PyObject* names) {
  if (PyVectorcall_NARGS(flags) != 3 || names) {
    PyErr_SetString(PyExc_TypeError, "PreparedCall: expected (states, actions, out)");
    return nullptr;
  }
  try {
    return reinterpret_cast<Object*>(self)->call->call(arguments[0], arguments[1], arguments[2]);
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const py::builtin_exception& error) {
    error.set_error();
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

// What it holds may lead back to whoever holds it (a tensor can carry attributes), so the cycle collector must see it.
int traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  const PreparedCall* call = reinterpret_cast<Object*>(self)->call;
  if (!call) return 0;
  Py_VISIT(call->place.plan.ptr());
  Py_VISIT(call->place.stream_of.ptr());
  Py_VISIT(call->next_object.ptr());
  for (const py::object& held : call->run->held) Py_VISIT(held.ptr());
  for (const Watched& w : call->watched) {
    Py_VISIT(w.store.ptr());
    Py_VISIT(w.tensor.ptr());
  }
  for (const Mode& mode : call->modes) Py_VISIT(mode.module.ptr());
  return 0;
}

// Only references are dropped: a call that finds the lists empty cannot happen, since nothing reaches the object any more.
int clear(PyObject* self) {
  if (PreparedCall* call = reinterpret_cast<Object*>(self)->call) {
    std::vector<Watched> watched = std::move(call->watched);
    std::vector<Mode> modes = std::move(call->modes);
    std::vector<py::object> held = std::move(call->run->held);
    const py::object next = std::move(call->next_object), stream_of = std::move(call->place.stream_of);
  }
  return 0;
}

void deallocate(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  delete reinterpret_cast<Object*>(self)->call;
  PyObject_GC_Del(self);
  Py_DECREF(type);
}

PyMemberDef members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Object, vectorcall), READONLY, nullptr}, {nullptr, 0, 0, 0, nullptr}};
PyType_Slot slots[] = {{Py_tp_doc, const_cast<char*>("(states, actions, out): the refined actions, or None where this call is none "
                                                     "of those prepared for; see dtag_fast.ops.refine.refiner.")},
                       {Py_tp_call, reinterpret_cast<void*>(PyVectorcall_Call)},
                       {Py_tp_members, members},
                       {Py_tp_traverse, reinterpret_cast<void*>(traverse)},
                       {Py_tp_clear, reinterpret_cast<void*>(clear)},
                       {Py_tp_dealloc, reinterpret_cast<void*>(deallocate)},
                       {0, nullptr}};
PyType_Spec spec = {"dtag_fast._C.PreparedCall", sizeof(Object), 0,
                    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_DISALLOW_INSTANTIATION,
                    slots};
PyTypeObject* prepared_call_type = nullptr;

}  // namespace

const dlpack::ExchangeApi* exchange_api(const py::type& tensor_type) {
  if (!py::hasattr(tensor_type, "__dlpack_c_exchange_api__")) return nullptr;
  const py::object capsule = tensor_type.attr("__dlpack_c_exchange_api__");
  if (!PyCapsule_IsValid(capsule.ptr(), dlpack::kCapsule)) return nullptr;
  auto* api = static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), dlpack::kCapsule));
  while (api && api->version.major != dlpack::kMajor) api = api->previous;
  return api && api->view_from_object ? api : nullptr;
}

py::object prepare_call(const PreparedFor& target, const Repeated& given, std::unique_ptr<PreparedRun> run) {
  auto call = std::make_unique<PreparedCall>();
  Place& place = call->place;
  place.api = exchange_api(given.tensor_type);
  if (!place.api) return py::none();
  place.plan = target.plan;
  place.stream_of = target.stream_of;
  place.device_type = target.device_type;
  place.device_id = target.device_id;
  if (!place.on_host() && place.stream_of.is_none() && !place.api->current_stream) return py::none();
  place.tensor_type = given.tensor_type;
  place.empty_like_tensor = given.empty_like_tensor;
  place.array_type = given.array_type;
  place.empty_like_array = given.empty_like_array;
  const Sizes &states = given.states_shape, &actions = given.actions_shape;
  const size_t dims = actions.size();
  if ((dims != 1 && dims != 2) || states.size() != dims || states.back() != target.state_dim ||
      actions.back() != target.action_dim || (dims == 2 && (states[0] != actions[0] || actions[0] < 1)))
    throw py::value_error("states_shape, actions_shape: expected the plan's (B, S) and (B, A) with B > 0, or (S,) and (A,)");
  call->states_shape = states;
  call->actions_shape = actions;
  call->count = given.batch() * actions.back();
  call->run = std::move(run);
  call->stream = target.stream;
  if (given.stores.size() != given.names.size() || given.stores.size() != given.tensors.size() ||
      given.stores.size() != given.versions.size() || given.modules.size() != given.modes.size())
    throw py::value_error("prepare_call: expected lists of the same length");
  call->training_name = PyUnicode_InternFromString("training");
  const py::object version = py::getattr(given.tensor_type, "_version", py::none());
  if (!Py_IS_TYPE(version.ptr(), &PyGetSetDescr_Type)) throw py::type_error("tensor_type: expected torch.Tensor");
  call->version_getter = reinterpret_cast<PyGetSetDescrObject*>(version.ptr())->d_getset;  // lives as long as torch
  for (size_t i = 0; i < given.stores.size(); ++i) {
    if (!py::isinstance<py::dict>(given.stores[i])) throw py::type_error("stores: expected a list of dicts");
    if (!py::isinstance(given.tensors[i], given.tensor_type)) throw py::type_error("tensors: expected a list of tensors");
    call->watched.push_back({given.stores[i], given.names[i], given.tensors[i], given.versions[i]});
  }
  for (const auto& module : given.modules)
    if (!PyWeakref_Check(module.ptr())) throw py::type_error("modules: expected a list of weak references");
  for (size_t i = 0; i < given.modules.size(); ++i) call->modes.push_back({given.modules[i], given.modes[i]});
  call->within_one = given.within_one;
  if (Py_IS_TYPE(given.known.ptr(), prepared_call_type)) {
    const PreparedCall* known = reinterpret_cast<Object*>(given.known.ptr())->call;
    if (known->place.plan.is(place.plan) && !known->run->stale()) {
      for (const PreparedCall* link = known; link; link = link->next)
        if (link->stream == call->stream && link->states_shape == states && link->actions_shape == actions) return given.known;
      if (known->links < kMostLinks) {
        call->next_object = given.known;
        call->next = known;
        call->links = known->links + 1;
      }
    }
  } else if (!given.known.is_none()) {
    throw py::type_error("known: expected a PreparedCall or None");
  }
  Object* object = PyObject_GC_New(Object, prepared_call_type);
  if (!object) throw py::error_already_set();
  object->vectorcall = vectorcall;
  object->call = call.release();
  PyObject_GC_Track(object);
  return py::reinterpret_steal<py::object>(reinterpret_cast<PyObject*>(object));
}

void add_prepared_call(py::module_& m) {
  PyObject* type = PyType_FromSpec(&spec);
  if (!type) throw py::error_already_set();
  prepared_call_type = reinterpret_cast<PyTypeObject*>(type);
  m.add_object("PreparedCall", type);
  m.def(
      "current_stream",
      [](const py::type& tensor_type, int32_t device_type, int32_t device_id) -> py::object {
        const dlpack::ExchangeApi* api = exchange_api(tensor_type);
        if (!api || !api->current_stream) return py::none();
        void* stream = nullptr;
        if (api->current_stream(device_type, device_id, &stream) != 0) throw py::error_already_set();
        return py::int_(reinterpret_cast<uintptr_t>(stream));
      },
      py::kw_only(), py::arg("tensor_type"), py::arg("device_type"), py::arg("device_id"),
      "The stream that tensors' table of DLPack functions names as the current one, or None where it names none.");
}

}  // namespace dtag
