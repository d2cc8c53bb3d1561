#include "cpu/dispatch.h"

#include <cstdlib>
#include <stdexcept>

namespace dtag {

namespace baseline { extern const Kernels kernels; }
namespace emulated512 { extern const Kernels kernels; }
namespace emulated512bf16 { extern const Kernels kernels; }
#ifdef DTAG_HAS_AVX2
namespace avx2 { extern const Kernels kernels; }
#endif
#ifdef DTAG_HAS_AVX512
namespace avx512 { extern const Kernels kernels; }
#endif
#ifdef DTAG_HAS_AVX512BF16
namespace avx512bf16 { extern const Kernels kernels; }
#endif

namespace {

struct Isa {
  const Kernels* kernels;
  bool runnable;
  bool emulated;
};

// __builtin_cpu_supports asks CPUID, and XGETBV whether the operating system saves the wide registers.
#if defined(DTAG_HAS_AVX2) || defined(DTAG_HAS_AVX512) || defined(DTAG_HAS_AVX512BF16)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
#ifdef DTAG_USE_SIMDE
  return has_avx2();  // a test build: those units hold no AVX-512 instruction
#endif
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
}
bool has_avx512bf16() {
#ifdef DTAG_USE_SIMDE
  return has_avx2();
#endif
  return has_avx512() && __builtin_cpu_supports("avx512bf16");
}
#endif

const std::vector<Isa>& isas() {
  static const std::vector<Isa> all = [] {
    std::vector<Isa> list{{&emulated512::kernels, true, true}, {&emulated512bf16::kernels, true, true}};
    list.push_back({&baseline::kernels, true, false});
#if defined(DTAG_HAS_AVX2) || defined(DTAG_HAS_AVX512) || defined(DTAG_HAS_AVX512BF16)
    __builtin_cpu_init();
#endif
#ifdef DTAG_HAS_AVX2
    list.push_back({&avx2::kernels, has_avx2(), false});
#endif
#ifdef DTAG_HAS_AVX512
    list.push_back({&avx512::kernels, has_avx512(), false});
#endif
#ifdef DTAG_HAS_AVX512BF16
    // Intel's vdpbf16ps is slower than the fused multiply-adds it replaces (Sapphire Rapids: 1.3 to 1.6 times the time of a call).
    const bool first_choice = !__builtin_cpu_is("intel");
    list.insert(first_choice ? list.end() : list.end() - 1, {&avx512bf16::kernels, has_avx512bf16(), false});
#endif
    return list;
  }();
  return all;
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const auto& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

}  // namespace

std::vector<std::string> compiled_isas() {
  std::vector<std::string> names;
  for (const Isa& isa : isas()) names.push_back(isa.kernels->name);
  return names;
}

std::vector<std::string> runnable_isas() {
  std::vector<std::string> names;
  for (const Isa& isa : isas())
    if (isa.runnable && !isa.emulated) names.push_back(isa.kernels->name);
  return names;
}

const Kernels& kernels_of(const std::string& name) {
  for (const Isa& isa : isas()) {
    if (name != isa.kernels->name) continue;
    if (isa.runnable) return *isa.kernels;
    throw std::invalid_argument("instruction set \"" + name + "\" is compiled in, but this machine does not run it; it runs " +
                                joined(runnable_isas()));
  }
  throw std::invalid_argument("instruction set: expected one of " + joined(compiled_isas()) + ", got \"" + name + "\"");
}

std::string default_isa() {
  const char* wanted = std::getenv("DTAG_ISA");
  if (!wanted || !*wanted) return runnable_isas().back();
  try {
    return kernels_of(wanted).name;
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument("DTAG_ISA: " + std::string(error.what()));
  }
}

}  // namespace dtag
