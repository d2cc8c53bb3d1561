#include "cpu/dispatch.h"

#include <cstdlib>
#include <stdexcept>

#if defined(DTAG_HAS_AVX512AMX) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace dtag {

namespace baseline { extern const Kernels kernels; }
namespace emulated512 { extern const Kernels kernels; }
namespace emulated512bf16 { extern const Kernels kernels; }
namespace emulated512amx { extern const Kernels kernels; }
#ifdef DTAG_HAS_AVX2
namespace avx2 { extern const Kernels kernels; }
#endif
#ifdef DTAG_HAS_AVX512
namespace avx512 { extern const Kernels kernels; }
#endif
#ifdef DTAG_HAS_AVX512BF16
namespace avx512bf16 { extern const Kernels kernels; }
#endif
#ifdef DTAG_HAS_AVX512AMX
namespace avx512amx { extern const Kernels kernels; }
#endif

namespace {

struct Isa {
  const Kernels* kernels;
  bool runnable;
  bool emulated;
};

// __builtin_cpu_supports asks CPUID, and XGETBV whether the operating system saves the wide registers.
#if defined(DTAG_HAS_AVX2) || defined(DTAG_HAS_AVX512) || defined(DTAG_HAS_AVX512BF16) || defined(DTAG_HAS_AVX512AMX)
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
// Linux gives a process the tile registers when it asks, once for all of its threads and forked children.
bool has_avx512amx() {
#ifdef DTAG_USE_SIMDE
  return has_avx2();
#elif defined(DTAG_HAS_AVX512AMX) && defined(__linux__)
  constexpr unsigned tiles = 1u << 24, bf16_products = 1u << 22;
  constexpr long ask_for_state = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  unsigned a = 0, b = 0, c = 0, d = 0;
  return has_avx512bf16() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & tiles) && (d & bf16_products) &&
         syscall(SYS_arch_prctl, ask_for_state, tile_data) == 0;
#else
  return false;
#endif
}
#endif

const std::vector<Isa>& isas() {
  static const std::vector<Isa> all = [] {
    std::vector<Isa> list{{&emulated512::kernels, true, true}, {&emulated512bf16::kernels, true, true},
                          {&emulated512amx::kernels, true, true}};
    list.push_back({&baseline::kernels, true, false});
#if defined(DTAG_HAS_AVX2) || defined(DTAG_HAS_AVX512) || defined(DTAG_HAS_AVX512BF16) || defined(DTAG_HAS_AVX512AMX)
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
#ifdef DTAG_HAS_AVX512AMX
    list.push_back({&avx512amx::kernels, has_avx512amx(), false});
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
