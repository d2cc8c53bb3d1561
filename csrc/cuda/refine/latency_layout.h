// Where everything of a critic lies for the latency kernel, or why it cannot run it.
#pragma once
#include <string>
#include <vector>

#include "cuda/refine/latency_params.h"
#include "cuda/refine/pieces.h"
#include "refine/program.h"

namespace dtag::cuda {

struct LatencyLayout {
  std::string refusal;  // empty: it can
  int quads = 0, rows_each = 0, depth = 0, slices = 0;  // LatencyShape; blocks of a member
  bool relu = false;  // two hidden layers, each followed by ReLU alone
  LatencyFacts facts{};
  std::vector<LatencyMember> members;
  Pieces pieces;
  int32_t low = -1, high = -1;

  LatencyLayout() = default;
  // clusters: whether the blocks of a group will be a cluster.
  LatencyLayout(const Program& program, bool bounded, bool clusters);

  int group() const { return int(members.size()) * slices; }  // blocks

 private:
  void read(const Program& program);
};

}  // namespace dtag::cuda
