// Which instruction sets this module has and this machine runs.
#pragma once
#include <string>
#include <vector>

#include "cpu/kernels.h"

namespace dtag {

// Compiled in, whether or not this machine runs them; slowest first. "emulated512", "emulated512bf16" and
// "emulated512amx" have the shape of the AVX-512 kernels on any machine and exist for tests.
std::vector<std::string> compiled_isas();
// Those this machine (processor and operating system) runs, without the emulated ones; slowest first.
std::vector<std::string> runnable_isas();
// The fastest, or the one named by the environment variable DTAG_ISA. Throws std::invalid_argument.
std::string default_isa();
// Throws std::invalid_argument naming what there is.
const Kernels& kernels_of(const std::string& isa);

}  // namespace dtag
