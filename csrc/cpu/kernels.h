// The door between the plan (ordinary C++) and the kernels of one instruction set: a table of functions on plain
// structs.
#pragma once
#include <cstdint>

#include "cpu/adam.h"
#include "cpu/decoder.h"
#include "cpu/mlp.h"
#include "cpu/packed.h"
#include "refine/params.h"

namespace dtag {

// Threads meeting at every iteration of one row, members divided among them (row kernel).
struct Team {
  int size = 1, rank = 0;
  float* exchange = nullptr;  // [2][members][action_dim + 1], see row_kernel.h
  void (*meet)(void* barrier, int size) = nullptr;  // returns once all `size` threads have called it
  void* barrier = nullptr;
};

// Rows are numbered over states and candidates: row r is candidate r % M of state r / M. With M > 1 results go to
// candidate_out [B, M, A] and candidate_q [B, M], with a prior Q - F to candidate_cost [B, M]; with M = 1 to call.out.
struct Job {
  const Packed* packed = nullptr;
  const Settings* settings = nullptr;  // as many as the plan has
  int32_t settings_count = 1;
  const Call* call = nullptr;
  float* candidate_out = nullptr;
  float* candidate_q = nullptr;
  float* candidate_cost = nullptr;
};

struct TrainKernels {
  void (*adam)(const AdamArray&, const AdamStep&, int64_t begin, int64_t end);
  void (*tanh)(float* x, int64_t count);  // in place, whole vectors
  void (*exp)(float* x, int64_t count);
};

struct Kernels {
  const char* name;
  Geometry geometry;
  int64_t (*row_scratch)(const Packed&);  // bytes
  void (*run_rows)(const Job&, int64_t begin, int64_t end, float* scratch, const Team& team);
  int64_t (*tile_scratch)(const Packed&, int tile_rows);  // bytes
  void (*run_tile)(const Job&, int64_t begin, int64_t end, int tile_rows, float* scratch);
  DecoderKernels decoder;
  MlpKernels mlp;
  TrainKernels train;
};

}  // namespace dtag
