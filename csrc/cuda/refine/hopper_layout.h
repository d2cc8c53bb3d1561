// Where everything of a critic lies for the Hopper kernel, or why it cannot run it.
#pragma once
#include <string>
#include <vector>

#include "cuda/refine/hopper_params.h"
#include "cuda/refine/pieces.h"
#include "refine/program.h"

namespace dtag::cuda {

struct HopperLayout {
  std::string refusal;  // empty: it can
  HopperFacts facts;
  Activation kind = Activation::identity;
  std::vector<HopperMember> members;
  Pieces pieces;
  int32_t low = -1, high = -1;

  HopperLayout() = default;
  HopperLayout(const Program& program, bool bounded);

  // Of 16 inputs each.
  int input_steps() const { return (hopper_inputs(facts.state_dim, facts.action_dim) + 15) / 16; }

 private:
  std::string reason_against(const Program& program);
};

}  // namespace dtag::cuda
