// A sequence policy's step as Python sees it.
#pragma once
#include <pybind11/pybind11.h>

namespace dtag {

// Adds the class Decoder.
void add_decoder(pybind11::module_& m);

}  // namespace dtag
