// As kernels_emulated.cpp for AVX512-BF16: bf16 dot products included, in float32 arithmetic.
#define DTAG_ISA emulated512bf16
#define DTAG_LANES 16
#define DTAG_BLOCK 12
#define DTAG_PANEL 16
#define DTAG_BF16_DOT
#include "cpu/isa_kernels.h"
