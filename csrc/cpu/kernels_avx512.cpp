// AVX-512 F, VL, DQ and BW. 32 registers: 12 x 2 accumulators leave eight for inputs and weights.
#define DTAG_ISA avx512
#define DTAG_LANES 16
#define DTAG_BLOCK 12
#define DTAG_PANEL 16
#define DTAG_INTRINSICS_AVX512
#include "cpu/isa_kernels.h"
