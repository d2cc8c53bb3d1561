// The part of DLPack's C interface (version 1.3) through which tensors are read without linking their library: a table of
// functions that a tensor type offers as its attribute `__dlpack_c_exchange_api__`. Layouts are DLPack's, names are ours.
#pragma once
#include <cstdint>

namespace dtag::dlpack {

constexpr uint32_t kMajor = 1;  // layouts may change with the major version
constexpr const char* kCapsule = "dlpack_exchange_api";
constexpr int32_t kCpu = 1, kCuda = 2;
constexpr uint8_t kFloat = 2;

struct Version {
  uint32_t major, minor;
};

// A view of a tensor; shape and strides (in elements) belong to the tensor.
struct TensorView {
  void* data;
  int32_t device_type, device_id;
  int32_t ndim;
  uint8_t type_code, type_bits;
  uint16_t type_lanes;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
};
static_assert(sizeof(TensorView) == 48);

struct ExchangeApi {
  Version version;
  ExchangeApi* previous;
  void* allocate;
  void* managed_from_object;
  void* object_from_managed;
  // Fills the view; -1 with a Python error set where the tensor has no memory of this kind. May be null.
  int (*view_from_object)(void* object, TensorView* out);
  // The stream on which the calling thread queues work for the device; -1 with a Python error set.
  int (*current_stream)(int32_t device_type, int32_t device_id, void** out);
};

}  // namespace dtag::dlpack
