// The AVX-512 kernels' shape (16 lanes, 12 x 2 blocks) on the baseline instruction set: slow, for tests on machines
// without AVX-512. The compiler splits each 16-lane vector.
#define DTAG_ISA emulated512
#define DTAG_LANES 16
#define DTAG_BLOCK 12
#define DTAG_PANEL 16
#include "cpu/isa_kernels.h"
