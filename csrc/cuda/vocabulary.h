// What the CUDA kernels are written with: the primitives, and the arithmetic of one row that they share with the CPU.
#pragma once
#include "cuda/primitives.h"

#define DTAG_ISA gpu
#include "refine/scalar.h"
// After the vocabulary:
#include "refine/activations.h"
#include "refine/ascent.h"
