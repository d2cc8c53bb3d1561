#include "cuda/refine/layout.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace dtag::cuda {
namespace {

int padded(int n) { return (n + 3) / 4 * 4; }

}  // namespace

Layout::Layout(const Program& program, bool bounded) : state_dim_(program.state_dim), action_dim_(program.action_dim) {
  for (size_t e = 0; e < program.members.size(); ++e) {
    DeviceMember member{};
    member.stages = int32_t(stages.size());
    member.depth = int32_t(program.members[e].size());
    member.base = int32_t(base_units);
    int64_t unit = 0;
    int layer = 0;
    for (size_t l = 0; l < program.members[e].size(); ++l) {
      const Stage& stage = program.members[e][l];
      DeviceStage s{};
      s.in = l == 0 ? program.action_dim : stage.in;
      s.out = stage.out;
      s.in_padded = padded(s.in);
      s.out_padded = padded(s.out);
      if (l == 0) member.state = pieces.add("state", int(e), layer, program.state_dim, s.out);
      s.forward = pieces.add("forward", int(e), layer, s.in, s.out);
      s.backward = pieces.add("backward", int(e), layer, s.out, s.in);
      s.bias = pieces.add("bias", int(e), layer, 1, s.out);
      weights += int64_t(s.in) * s.out;
      s.value = int32_t(unit);
      unit += s.out;
      bool relu;
      const auto kept = kept_ops(stage, &relu);
      s.relu = relu;
      s.ops = int32_t(ops.size());
      s.op_count = int32_t(kept.size());
      for (const PostOp* op : kept) {
        DeviceOp o{};
        o.is_norm = op->is_norm;
        o.kind = op->kind;
        o.p0 = op->p0;
        o.p1 = op->p1;
        o.saved = int32_t(unit);
        unit += s.out;
        if (op->is_norm) {
          o.saved_rstd = int32_t(unit++);
          const int at = layer + 1 + int(op - stage.post.data());
          o.scale = pieces.add("scale", int(e), at, 1, s.out);
          o.shift = pieces.add("shift", int(e), at, 1, s.out);
        }
        ops.push_back(o);
      }
      layer += 1 + int(stage.post.size());
      stages.push_back(s);
    }
    units = std::max(units, unit);
    base_units += stages[size_t(member.stages)].out;
    members.push_back(member);
  }
  if (bounded) {
    low = pieces.add("low", 0, 0, 1, action_dim_);
    high = pieces.add("high", 0, 0, 1, action_dim_);
  }
}

std::vector<unsigned char> Layout::tables() const {
  const size_t m = aligned_to_16(members.size() * sizeof(DeviceMember)), s = aligned_to_16(stages.size() * sizeof(DeviceStage));
  std::vector<unsigned char> bytes(m + s + aligned_to_16(ops.size() * sizeof(DeviceOp)) + 16);
  std::memcpy(bytes.data(), members.data(), members.size() * sizeof(DeviceMember));
  std::memcpy(bytes.data() + m, stages.data(), stages.size() * sizeof(DeviceStage));
  if (!ops.empty()) std::memcpy(bytes.data() + m + s, ops.data(), ops.size() * sizeof(DeviceOp));
  return bytes;
}

DeviceProgram Layout::program(const unsigned char* tables, const float* numbers) const {
  const unsigned char* stage_table = tables + aligned_to_16(members.size() * sizeof(DeviceMember));
  const unsigned char* op_table = stage_table + aligned_to_16(stages.size() * sizeof(DeviceStage));
  return {reinterpret_cast<const DeviceMember*>(tables),
          reinterpret_cast<const DeviceStage*>(stage_table),
          reinterpret_cast<const DeviceOp*>(op_table),
          numbers,
          state_dim_,
          action_dim_,
          int32_t(members.size()),
          int32_t(units),
          int32_t(base_units)};
}

}  // namespace dtag::cuda
