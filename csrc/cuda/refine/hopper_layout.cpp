#include "cuda/refine/hopper_layout.h"

#include <algorithm>

namespace dtag::cuda {
namespace {

// The shapes that are compiled (launch.h): all widths for ReLU, the largest for others.
int width_for(Activation kind, int units) {
  if (kind != Activation::relu) return 256;
  return units <= 64 ? 64 : units <= 128 ? 128 : 256;
}

bool is_compiled(Activation kind) {
  switch (kind) {
    case Activation::relu:
    case Activation::gelu:
    case Activation::mish:
    case Activation::silu:
    case Activation::tanh: return true;
    default: return false;
  }
}

// The one activation after a layer, or null.
const PostOp* activation_of(const Stage& stage) {
  const PostOp* found = nullptr;
  for (const PostOp& op : stage.post) {
    if (!op.is_norm && op.kind == Activation::identity) continue;
    if (found || op.is_norm) return nullptr;
    found = &op;
  }
  return found;
}

}  // namespace

// Fills in facts and kind on the way.
std::string HopperLayout::reason_against(const Program& program) {
  const int count = int(program.members.size()), dims = program.action_dim, inputs = program.state_dim + dims;
  const auto number = [](int n) { return std::to_string(n); };
  if (count > kHopperCluster) return "it takes up to " + number(kHopperCluster) + " members, the critic has " + number(count);
  if (dims > kHopperActions)
    return "it takes up to " + number(kHopperActions) + " action dimensions, the critic has " + number(dims);
  if (hopper_inputs(program.state_dim, dims) > kHopperInputs)
    return "it takes up to " + number(kHopperInputs - 2) + " dimensions of state and action together, the critic has " +
           number(inputs);
  const PostOp* first = nullptr;
  int units = 0;
  for (const auto& stages : program.members) {
    if (stages.size() != 3) return "it takes two hidden layers in every member";
    for (int l = 0; l < 2; ++l) {
      const PostOp* op = activation_of(stages[size_t(l)]);
      if (!first) first = op;
      if (!op || op->kind != first->kind) return "it takes one activation after each hidden layer, the same after all";
      units = std::max(units, stages[size_t(l)].out);
    }
  }
  if (!is_compiled(first->kind)) return "it is compiled for ReLU, GELU (exact), SiLU, Mish and Tanh";
  if (units > 256) return "it takes hidden layers of up to 256 units, the critic has " + number(units);
  kind = first->kind;
  facts = {program.state_dim, dims, width_for(kind, units), count, kind != Activation::relu};
  return "";
}

HopperLayout::HopperLayout(const Program& program, bool bounded) {
  refusal = reason_against(program);
  if (!refusal.empty()) return;
  const int width = facts.width;
  for (int e = 0; e < facts.members; ++e) {
    const auto& stages = program.members[size_t(e)];
    const Stage &first = stages[0], &second = stages[1];
    const int second_layer = 1 + int(first.post.size()), head_layer = second_layer + 1 + int(second.post.size());
    HopperMember m{};
    m.state = pieces.add("state", e, 0, program.state_dim, first.out, width, program.state_dim);
    m.action = pieces.add("forward", e, 0, program.action_dim, first.out, width, program.action_dim);
    m.bias[0] = pieces.add("bias", e, 0, 1, first.out, width, 1);
    m.bias[1] = pieces.add("bias", e, second_layer, 1, second.out, width, 1);
    m.head = pieces.add("backward", e, head_layer, 1, second.out, width, 1);
    m.head_bias = pieces.add("bias", e, head_layer, 1, 1);
    // Two of its numbers take the room of one.
    m.hidden = pieces.add("backward", e, second_layer, second.out, second.in, width, width / 2);
    pieces.list.back().numbers = Piece::Numbers::bf16;
    for (int l = 0; l < 2; ++l) {
      const PostOp* op = activation_of(stages[size_t(l)]);
      m.p0[l] = op->p0;
      m.p1[l] = op->p1;
    }
    members.push_back(m);
  }
  if (bounded) {
    low = pieces.add("low", 0, 0, 1, program.action_dim);
    high = pieces.add("high", 0, 0, 1, program.action_dim);
  }
}

}  // namespace dtag::cuda
