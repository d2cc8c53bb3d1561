#include "cuda/refine/latency_layout.h"

#include <algorithm>

namespace dtag::cuda {
namespace {

// LayerNorm or not, then an activation or not; anything else is refused.
bool op_of(const Stage& stage, LatencyOp& op, int* norm_at) {
  op = {};
  op.width = stage.out;
  op.kind = Activation::identity;
  *norm_at = -1;
  bool activated = false;
  for (size_t i = 0; i < stage.post.size(); ++i) {
    const PostOp& post = stage.post[i];
    if (!post.is_norm && post.kind == Activation::identity) continue;
    if (activated || (post.is_norm && op.norm)) return false;
    if (post.is_norm) {
      op.norm = 1;
      op.eps = post.p0;
      *norm_at = int(i);
    } else {
      op.kind = post.kind;
      op.p0 = post.p0;
      op.p1 = post.p1;
      activated = true;
    }
  }
  return true;
}

std::string number(int64_t n) { return std::to_string(n); }

}  // namespace

LatencyLayout::LatencyLayout(const Program& program, bool bounded, bool clusters) {
  const int count = int(program.members.size());
  if (count > kLatencyMembers) {
    refusal = "it takes up to " + number(kLatencyMembers) + " members, the critic has " + number(count);
    return;
  }
  if (program.action_dim > kLatencyActions) {
    refusal = "it takes up to " + number(kLatencyActions) + " action dimensions, the critic has " + number(program.action_dim);
    return;
  }
  depth = int(program.members[0].size()) - 1;
  int whole = 0, split = 0;  // widest of the layers that blocks hold whole, and of those they divide
  for (const auto& stages : program.members) {
    if (int(stages.size()) - 1 != depth || depth < 2 || depth > 3) {
      refusal = "it takes two or three hidden layers, the same number in all members";
      return;
    }
    whole = std::max({whole, stages[0].out, depth == 3 ? stages[2].out : 0});
    split = std::max(split, stages[1].out);
  }
  const int most = clusters ? kLatencyCluster : kLatencyGroup;
  for (int blocks = kLatencyCluster; !quads && blocks <= most; blocks *= 2) {
    slices = blocks / count;
    for (const LatencyShapeRule& shape : kLatencyShapes)
      if (!quads && shape.depth == depth && 128 * shape.quads >= whole && kLatencyWarps * slices * shape.rows >= split &&
          (clusters || !shape.clusters)) {
        quads = shape.quads;
        rows_each = shape.rows;
      }
  }
  if (!quads) {
    refusal = "hidden layers of " + number(whole) + " and " + number(split) + " units in " + number(count) +
              " members do not fit a group of " + number(most) + " blocks";
    return;
  }
  read(program);
  if (!refusal.empty()) return;
  if (bounded) {
    low = pieces.add("low", 0, 0, 1, program.action_dim);
    high = pieces.add("high", 0, 0, 1, program.action_dim);
  }
}

void LatencyLayout::read(const Program& program) {
  const int width = 128 * quads, slice = kLatencyWarps * rows_each, all = slices * slice;
  facts.action_dim = program.action_dim;
  facts.width = width;
  facts.slice = slice;
  facts.depth = depth;
  facts.members = int(program.members.size());
  facts.slices = slices;
  const int rest = rows_each - held_rows(quads, rows_each, depth);
  relu = depth == 2;
  facts.rest_floats = int64_t(depth - 1) * kLatencyWarps * rest * width;
  for (int e = 0; e < facts.members; ++e) {
    const auto& stages = program.members[size_t(e)];
    LatencyMember m{};
    int layer = 0;
    for (int l = 0; l <= depth; ++l) {
      const Stage& stage = stages[size_t(l)];
      const int room = l == 1 ? all : width;
      if (l == depth) {
        const int before = l == 2 ? all : width;
        m.last = pieces.add("backward", e, layer, 1, stage.in, before, 1);
        m.last_bias = pieces.add("bias", e, layer, 1, 1);
        break;
      }
      if (l == 0) {
        m.state = pieces.add("state", e, layer, program.state_dim, stage.out, width, program.state_dim);
        m.action = pieces.add("forward", e, layer, program.action_dim, stage.out, width, program.action_dim);
      } else if (l == 1) {
        m.second = pieces.add("backward", e, layer, stage.out, stage.in, width, all);
      } else {
        m.third = pieces.add("forward", e, layer, stage.in, stage.out, width, all);
      }
      m.bias[l] = pieces.add("bias", e, layer, 1, stage.out, room, 1);
      int norm_at;
      if (!op_of(stage, m.op[l], &norm_at)) {
        refusal = "it takes a LayerNorm, then an activation after a layer, the critic has another order";
        return;
      }
      relu = relu && norm_at < 0 && m.op[l].kind == Activation::relu;
      if (norm_at >= 0) {
        m.op[l].scale = pieces.add("scale", e, layer + 1 + norm_at, 1, stage.out, room, 1);
        m.op[l].shift = pieces.add("shift", e, layer + 1 + norm_at, 1, stage.out, room, 1);
        facts.norm[l] = true;
      }
      layer += 1 + int(stage.post.size());
    }
    members.push_back(m);
  }
}

}  // namespace dtag::cuda
