// Training of small networks as Python sees it.
#pragma once
#include <pybind11/pybind11.h>

namespace dtag {

// Adds the class Mlp.
void add_mlp(pybind11::module_& m);

}  // namespace dtag
