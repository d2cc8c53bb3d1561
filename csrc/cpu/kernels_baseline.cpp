// Any machine: four lanes of the compiler's vector extensions (SSE2 on x86-64, NEON on AArch64).
#define DTAG_ISA baseline
#define DTAG_LANES 4
#include "cpu/isa_kernels.h"
