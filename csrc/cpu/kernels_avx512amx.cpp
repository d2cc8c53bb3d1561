// AVX-512 with AMX: products of bf16 matrices in tile registers, all else as in kernels_avx512.cpp.
#define DTAG_ISA avx512amx
#define DTAG_LANES 16
#define DTAG_BLOCK 12
#define DTAG_PANEL 16
#define DTAG_TILES
#define DTAG_INTRINSICS_AVX512
#define DTAG_INTRINSICS_AVX512BF16
#include "cpu/isa_kernels.h"
