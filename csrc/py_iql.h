// Updates of implicit Q-learning as Python sees them.
#pragma once
#include <pybind11/pybind11.h>

namespace dtag {

// Adds the class IqlUpdate.
void add_iql(pybind11::module_& m);

}  // namespace dtag
