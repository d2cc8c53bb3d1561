// As kernels_emulated.cpp for AMX: products of tiles in plain C.
#define DTAG_ISA emulated512amx
#define DTAG_LANES 16
#define DTAG_BLOCK 12
#define DTAG_PANEL 16
#define DTAG_TILES
#include "cpu/isa_kernels.h"
