#include "prepared_call.h"

#include <structmember.h>

#include <algorithm>
#include <memory>
#include <new>
#include <vector>

#include "dlpack_abi.h"
#include "py_plan.h"

namespace dtag {

namespace {

using Shape = std::vector<int64_t>;

// One tensor the weights were packed from: the dict that holds it under `name`, and its version then (none: not looked at).
struct Watched {
  py::object store, name, tensor, version;
};

struct Mode {
  py::object module;  // a weak reference
  bool training;
};

// The numbers of a call's argument while the call lasts.
struct Numbers {
  float* data = nullptr;
  std::vector<float> converted;  // when they came as float64
  Py_buffer buffer{};

  Numbers() = default;
  Numbers(const Numbers&) = delete;
  ~Numbers() { PyBuffer_Release(&buffer); }  // does nothing when none is held
};

struct PreparedCall {
  py::object plan_object;
  PyPlan* plan = nullptr;
  const dlpack::ExchangeApi* api = nullptr;
  py::object tensor_type, array_type;              // torch.Tensor, numpy.ndarray
  py::object empty_like_tensor, empty_like_array;  // make the result when the caller gives none
  Shape states_shape, actions_shape;
  int64_t batch = 0, count = 0;  // rows, and numbers in the actions
  std::vector<Watched> watched;
  std::vector<Mode> modes;
  PyObject* training_name = nullptr;  // interned, never released
  PyGetSetDef* version_getter = nullptr;
  bool within_one = false;  // actions must lie in [-1, 1]

  PyObject* call(PyObject* states, PyObject* actions, PyObject* out) const;

 private:
  bool is(const py::object& type, PyObject* object) const { return reinterpret_cast<PyObject*>(Py_TYPE(object)) == type.ptr(); }
  bool read(PyObject* object, const Shape& shape, bool convert, bool write, Numbers* to) const;
  bool unchanged() const;
};

// Whether strides, in units of `unit`, are those of contiguous rows. A lone row may have any stride, but the innermost must be
// 1 even then: lazily negated views of complex numbers have 2.
template <class Stride>
bool contiguous(const Shape& shape, const Stride* strides, Stride unit) {
  Stride expected = unit;
  for (size_t d = shape.size(); d-- > 0;) {
    if (strides[d] != expected && (shape[d] != 1 || d + 1 == shape.size())) return false;
    expected *= Stride(shape[d]);
  }
  return true;
}

// The numbers of an exact torch.Tensor or numpy.ndarray of this shape, contiguous on the host, float32 (or float64, with
// `convert`); false for anything else.
bool PreparedCall::read(PyObject* object, const Shape& shape, bool convert, bool write, Numbers* to) const {
  bool wide;
  void* data;
  if (is(tensor_type, object)) {
    dlpack::TensorView v;
    if (api->view_from_object(object, &v) != 0) {
      PyErr_Clear();  // a wrapper without memory: the general way says what is wrong with it
      return false;
    }
    wide = v.type_bits == 64;
    if (v.device_type != dlpack::kCpu || v.type_code != dlpack::kFloat || v.type_lanes != 1 || (!wide && v.type_bits != 32) ||
        size_t(v.ndim) != shape.size() || !std::equal(shape.begin(), shape.end(), v.shape) ||
        !contiguous<int64_t>(shape, v.strides, 1))
      return false;
    data = static_cast<char*>(v.data) + v.byte_offset;
  } else if (is(array_type, object)) {
    if (PyObject_GetBuffer(object, &to->buffer, PyBUF_STRIDES | PyBUF_FORMAT | (write ? PyBUF_WRITABLE : 0)) != 0) {
      PyErr_Clear();  // dates, say, or a read-only `out`
      return false;
    }
    const Py_buffer& b = to->buffer;
    wide = b.format[0] == 'd';
    if ((!wide && b.format[0] != 'f') || b.format[1] != 0 || size_t(b.ndim) != shape.size() ||
        !std::equal(shape.begin(), shape.end(), b.shape) || !contiguous<Py_ssize_t>(shape, b.strides, b.itemsize))
      return false;
    data = b.buf;
  } else {
    return false;
  }
  if (reinterpret_cast<uintptr_t>(data) % (wide ? sizeof(double) : sizeof(float)) != 0) return false;
  if (wide) {
    if (!convert) return false;
    const auto* first = static_cast<const double*>(data);
    size_t n = 1;
    for (int64_t size : shape) n *= size_t(size);
    to->converted.assign(first, first + n);
    data = to->converted.data();
  }
  to->data = static_cast<float*>(data);
  return true;
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

// A new reference to the result, or to None when this call is not the prepared one.
PyObject* PreparedCall::call(PyObject* states, PyObject* actions, PyObject* out) const {
  Numbers s, a, o;
  if (!read(states, states_shape, true, false, &s) || !read(actions, actions_shape, false, false, &a) || !unchanged())
    Py_RETURN_NONE;
  if (within_one) {
    bool outside = false;  // NaN counts as inside: such rows come back as they are
    for (int64_t i = 0; i < count; ++i) outside |= a.data[i] < -1.f || a.data[i] > 1.f;
    if (outside) Py_RETURN_NONE;
  }
  py::object result;
  if (out == Py_None) {
    const py::object& make = is(tensor_type, actions) ? empty_like_tensor : empty_like_array;
    result = py::reinterpret_steal<py::object>(PyObject_Vectorcall(make.ptr(), &actions, 1, nullptr));
    if (!result) throw py::error_already_set();
  } else if (Py_IS_TYPE(out, Py_TYPE(actions))) {
    result = py::reinterpret_borrow<py::object>(out);
  } else {
    Py_RETURN_NONE;
  }
  if (!read(result.ptr(), actions_shape, false, true, &o)) Py_RETURN_NONE;
  plan->run_prepared(s.data, a.data, o.data, batch);
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
  Py_VISIT(call->plan_object.ptr());
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
PyType_Slot slots[] = {{Py_tp_doc, const_cast<char*>("(states, actions, out): the refined actions, or None where this call is not "
                                                     "the one prepared for; see dtag_fast.ops.refine.refiner.")},
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

// The table of a tensor type, or null where its library is too old for one or newer than we know.
const dlpack::ExchangeApi* exchange_api(const py::type& tensor_type) {
  if (!py::hasattr(tensor_type, "__dlpack_c_exchange_api__")) return nullptr;
  const py::object capsule = tensor_type.attr("__dlpack_c_exchange_api__");
  if (!PyCapsule_IsValid(capsule.ptr(), dlpack::kCapsule)) return nullptr;
  auto* api = static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), dlpack::kCapsule));
  while (api && api->version.major != dlpack::kMajor) api = api->previous;
  return api && api->view_from_object ? api : nullptr;
}

py::object prepare_call(const py::object& plan, const py::type& tensor_type, const py::object& empty_like_tensor,
                        const py::type& array_type, const py::object& empty_like_array, const Shape& states_shape,
                        const Shape& actions_shape, const py::list& stores, const py::list& names, const py::list& tensors,
                        const py::list& versions, const py::list& modules, const std::vector<bool>& modes, bool within_one) {
  auto call = std::make_unique<PreparedCall>();
  call->plan_object = plan;
  call->plan = &plan.cast<PyPlan&>();
  call->api = exchange_api(tensor_type);
  if (!call->api) return py::none();
  call->tensor_type = tensor_type;
  call->empty_like_tensor = empty_like_tensor;
  call->array_type = array_type;
  call->empty_like_array = empty_like_array;
  const size_t dims = actions_shape.size();
  if ((dims != 1 && dims != 2) || states_shape.size() != dims || states_shape.back() != call->plan->state_dim() ||
      actions_shape.back() != call->plan->action_dim() || (dims == 2 && (states_shape[0] != actions_shape[0] || actions_shape[0] < 1)))
    throw py::value_error("states_shape, actions_shape: expected the plan's (B, S) and (B, A) with B > 0, or (S,) and (A,)");
  call->states_shape = states_shape;
  call->actions_shape = actions_shape;
  call->batch = dims == 1 ? 1 : actions_shape[0];
  call->count = call->batch * actions_shape.back();
  if (stores.size() != names.size() || stores.size() != tensors.size() || stores.size() != versions.size() ||
      modules.size() != modes.size())
    throw py::value_error("prepare_call: expected lists of the same length");
  call->training_name = PyUnicode_InternFromString("training");
  const py::object version = py::getattr(tensor_type, "_version", py::none());
  if (!Py_IS_TYPE(version.ptr(), &PyGetSetDescr_Type)) throw py::type_error("tensor_type: expected torch.Tensor");
  call->version_getter = reinterpret_cast<PyGetSetDescrObject*>(version.ptr())->d_getset;  // lives as long as torch
  for (size_t i = 0; i < stores.size(); ++i) {
    if (!py::isinstance<py::dict>(stores[i])) throw py::type_error("stores: expected a list of dicts");
    if (!py::isinstance(tensors[i], tensor_type)) throw py::type_error("tensors: expected a list of tensors");
    call->watched.push_back({stores[i], names[i], tensors[i], versions[i]});
  }
  for (const auto& module : modules)
    if (!PyWeakref_Check(module.ptr())) throw py::type_error("modules: expected a list of weak references");
  for (size_t i = 0; i < modules.size(); ++i) call->modes.push_back({modules[i], modes[i]});
  call->within_one = within_one;
  Object* object = PyObject_GC_New(Object, prepared_call_type);
  if (!object) throw py::error_already_set();
  object->vectorcall = vectorcall;
  object->call = call.release();
  PyObject_GC_Track(object);
  return py::reinterpret_steal<py::object>(reinterpret_cast<PyObject*>(object));
}

}  // namespace

void add_prepared_call(py::module_& m) {
  PyObject* type = PyType_FromSpec(&spec);
  if (!type) throw py::error_already_set();
  prepared_call_type = reinterpret_cast<PyTypeObject*>(type);
  m.add_object("PreparedCall", type);
  m.def("prepare_call", &prepare_call, py::kw_only(), py::arg("plan"), py::arg("tensor_type"),
        py::arg("empty_like_tensor"), py::arg("array_type"), py::arg("empty_like_array"), py::arg("states_shape"),
        py::arg("actions_shape"), py::arg("stores"), py::arg("names"), py::arg("tensors"), py::arg("versions"),
        py::arg("modules"), py::arg("modes"), py::arg("within_one"),
        "A PreparedCall for calls of these shapes while stores[i][names[i]] is tensors[i] at versions[i] (None: any) and the "
        "modules behind the weak references are in these modes; None where tensors offer no table of DLPack functions.");
}

}  // namespace dtag
