// Where everything of a critic lies in the generic kernel's memory. Knows the program's structure, not its numbers.
#pragma once
#include <string>
#include <vector>

#include "cuda/refine/device_program.h"
#include "cuda/refine/pieces.h"
#include "refine/program.h"

namespace dtag::cuda {

struct Layout {
  std::vector<DeviceMember> members;
  std::vector<DeviceStage> stages;
  std::vector<DeviceOp> ops;
  Pieces pieces;
  int64_t units = 0, base_units = 0;
  int64_t weights = 0;  // of all matrices that take part in every iteration, one direction

  // Throws std::length_error for a critic whose places do not fit 31 bits.
  Layout(const Program& program, bool bounded);

  // The three tables in one block of bytes, each at a multiple of 16; and where they start.
  std::vector<unsigned char> tables() const;
  DeviceProgram program(const unsigned char* tables, const float* numbers) const;
  int32_t low = -1, high = -1;  // places of the bounds

  Layout() = default;
 private:
  int state_dim_ = 0, action_dim_ = 0;
};

}  // namespace dtag::cuda
