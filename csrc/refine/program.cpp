#include "refine/program.h"

#include <stdexcept>
#include <string>

namespace dtag {
namespace {

[[noreturn]] void refuse(size_t member, size_t stage, const std::string& what) {
  throw std::invalid_argument("program: member " + std::to_string(member) + ", linear layer " +
                              std::to_string(stage) + ": " + what);
}

bool between(int value, int low, int high) { return low <= value && value <= high; }

}  // namespace

void Program::validate_structure() const {
  if (!between(state_dim, 1, kMaxState))
    throw std::invalid_argument("state_dim: expected 1.." + std::to_string(kMaxState) + ", got " +
                                std::to_string(state_dim));
  if (!between(action_dim, 1, kMaxAction))
    throw std::invalid_argument("action_dim: expected 1.." + std::to_string(kMaxAction) + ", got " +
                                std::to_string(action_dim));
  if (members.empty() || members.size() > size_t(kMaxMembers))
    throw std::invalid_argument("members: expected 1.." + std::to_string(kMaxMembers) + ", got " +
                                std::to_string(members.size()));
  for (size_t m = 0; m < members.size(); ++m) {
    const auto& stages = members[m];
    if (stages.empty() || stages.size() > size_t(kMaxDepth))
      throw std::invalid_argument("program: member " + std::to_string(m) + " has " + std::to_string(stages.size()) +
                                  " linear layers, expected 1.." + std::to_string(kMaxDepth));
    int width = state_dim + action_dim;
    for (size_t l = 0; l < stages.size(); ++l) {
      const Stage& s = stages[l];
      if (s.in != width) refuse(m, l, "takes " + std::to_string(s.in) + " inputs, expected " + std::to_string(width));
      if (!between(s.out, 1, kMaxWidth))
        refuse(m, l, "has " + std::to_string(s.out) + " outputs, expected 1.." + std::to_string(kMaxWidth));
      width = s.out;
    }
    if (width != 1) refuse(m, stages.size() - 1, "the last layer must have one output, got " + std::to_string(width));
    if (!stages.back().post.empty()) refuse(m, stages.size() - 1, "the last layer must be linear alone");
  }
}

void Program::validate() const {
  validate_structure();
  for (size_t m = 0; m < members.size(); ++m)
    for (size_t l = 0; l < members[m].size(); ++l) {
      const Stage& s = members[m][l];
      if (s.weight.size() != size_t(s.in) * size_t(s.out)) refuse(m, l, "weight has the wrong number of entries");
      if (s.bias.size() != size_t(s.out)) refuse(m, l, "bias has the wrong number of entries");
      for (const PostOp& op : s.post)
        if (op.is_norm && (op.scale.size() != size_t(s.out) || op.shift.size() != size_t(s.out)))
          refuse(m, l, "LayerNorm scale and shift must have one entry per output");
    }
}

bool Program::same_structure(const Program& other) const {
  if (state_dim != other.state_dim || action_dim != other.action_dim || members.size() != other.members.size())
    return false;
  for (size_t m = 0; m < members.size(); ++m) {
    if (members[m].size() != other.members[m].size()) return false;
    for (size_t l = 0; l < members[m].size(); ++l) {
      const Stage &a = members[m][l], &b = other.members[m][l];
      if (a.in != b.in || a.out != b.out || a.post.size() != b.post.size()) return false;
      for (size_t i = 0; i < a.post.size(); ++i)
        if (a.post[i].is_norm != b.post[i].is_norm || a.post[i].kind != b.post[i].kind) return false;
    }
  }
  return true;
}

}  // namespace dtag
