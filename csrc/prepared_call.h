// What a prepared Refiner does between the Python call and the kernel, for the one case that evaluation loops repeat: the
// shapes of the call before, float32 on the host, weights and modes unchanged.
#pragma once
#include <pybind11/pybind11.h>

namespace dtag {

// Adds the type PreparedCall to the module.
void add_prepared_call(pybind11::module_& m);

}  // namespace dtag
