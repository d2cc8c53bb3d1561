#define DTAG_ISA avx2
#define DTAG_LANES 8
#define DTAG_INTRINSICS_AVX2
#include "cpu/isa_kernels.h"
