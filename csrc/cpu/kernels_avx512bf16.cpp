#define DTAG_ISA avx512bf16
#define DTAG_LANES 16
#define DTAG_BLOCK 12
#define DTAG_PANEL 16
#define DTAG_BF16_DOT
#define DTAG_INTRINSICS_AVX512
#define DTAG_INTRINSICS_AVX512BF16
#include "cpu/isa_kernels.h"
