#include "cuda/refine/tensor_layout.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "cuda/refine/tensor_tile.h"

namespace dtag::cuda {
namespace {

constexpr int kSlabColumns = 96;    // of the plane of inputs, where states have a product of their own

int padded(int n) { return (n + 15) / 16 * 16; }

}  // namespace

int64_t TensorLayout::take(int64_t floats) {
  const int64_t offset = pieces.numbers;
  pieces.numbers += (floats + 3) / 4 * 4;
  if (pieces.numbers > kMostNumbers) throw std::length_error("the critic has more than 2^31 weights, counted in both directions");
  return offset;
}

int32_t TensorLayout::add_floats(const char* what, int member, int layer, int count) {
  const int64_t offset = take(padded(count));
  pieces.list.push_back({what, member, layer, offset, 1, count, padded(count)});
  return int32_t(offset);
}

int32_t TensorLayout::add_matrix(const char* what, int member, int layer, int rows, int columns, int from) {
  const int64_t each = int64_t(padded(rows)) * padded(columns) / 2, offset = take(each * parts);
  for (int part = 0; part < parts; ++part)
    pieces.list.push_back({what, member, layer, offset + part * each, rows, columns, padded(columns),
                           part == 1 ? Piece::Numbers::bf16_rest : Piece::Numbers::bf16, from});
  return int32_t(offset);
}

// The inputs' parts one below the other (tensor_program.h).
int32_t TensorLayout::add_inputs(const char* what, int member, int rows, int columns, int from) {
  const int64_t row = padded(columns) / 2, offset = take(padded((parts + 1) * rows) * row);
  for (int part = 0; part <= parts; ++part)
    pieces.list.push_back({what, member, 0, offset + part * rows * row, rows, columns, padded(columns),
                           part == 2 ? Piece::Numbers::bf16_rest : Piece::Numbers::bf16, from});
  return int32_t(offset);
}

void TensorLayout::add_stream(int32_t place, int inputs, int outputs, int matrix_parts, bool narrow, bool gradient) {
  stream.push_back({place, inputs, outputs, matrix_parts, narrow, gradient});
}

TensorLayout::TensorLayout(const Program& program, bool bounded, int parts_, bool fold_)
    : parts(parts_), fold(fold_), state_dim_(program.state_dim), action_dim_(program.action_dim),
      inputs_(program.action_dim + (fold_ ? 0 : program.state_dim)), slab_(kSlabColumns / (parts_ + 1)) {
  const int input_parts = parts + 1;
  input_columns = padded(input_parts * inputs_);
  if (fold) input_columns = std::max(input_columns, padded(input_parts * std::min(slab_, state_dim_)));
  std::vector<TensorMatrix> evaluation;
  for (size_t e = 0; e < program.members.size(); ++e) {
    TensorMember member{};
    member.stages = int32_t(stages.size());
    member.depth = int32_t(program.members[e].size()) - 1;
    member.base = int32_t(base_panels);
    if (member.depth == 0) refusal = "member " + std::to_string(e) + " has no hidden layer";
    int64_t column = 0;
    std::vector<int32_t> to_action;  // of kNarrowOutputs dimensions each
    int layer = 0;
    for (size_t l = 0; int(l) < member.depth; ++l) {
      const Stage& stage = program.members[e][l];
      TensorStage s{};
      s.width = stage.out;
      s.in = padded(l == 0 ? input_parts * inputs_ : stage.in);
      s.out = padded(stage.out);
      if (l == 0) {
        s.forward = add_inputs("inputs", int(e), inputs_, s.width, 0);
        for (int from = 0; from < action_dim_; from += kNarrowOutputs)
          to_action.push_back(add_matrix("backward", int(e), 0, s.width, std::min(kNarrowOutputs, action_dim_ - from), from));
        for (int from = 0; fold && from < state_dim_; from += slab_) {
          const int count = std::min(slab_, state_dim_ - from);
          const int32_t place = add_inputs("state", int(e), count, s.width, from);
          if (from == 0) member.state = place;
          add_stream(place, padded(input_parts * count), s.out, 1, false, false);
        }
        base_panels += (s.out + kPanel - 1) / kPanel;
      } else {
        s.forward = add_matrix("forward", int(e), layer, stage.in, s.width);
        s.backward = add_matrix("backward", int(e), layer, s.width, stage.in);
      }
      s.bias = add_floats("bias", int(e), layer, s.width);
      const auto take_plane = [&] {
        const int64_t at = column;
        column += int64_t(parts) * (s.out + 8);
        return int32_t(at);
      };
      s.value = take_plane();
      bool relu;
      const auto kept = kept_ops(stage, &relu);
      s.relu = relu;
      s.ops = int32_t(ops.size());
      s.op_count = int32_t(kept.size());
      for (const PostOp* op : kept) {
        TensorOp o{};
        o.is_norm = op->is_norm;
        o.kind = op->kind;
        o.p0 = op->p0;
        o.p1 = op->p1;
        o.saved = take_plane();
        if (op->is_norm) {
          o.saved_rstd = int32_t(column);
          column += 2;
          const int at = layer + 1 + int(op - stage.post.data());
          o.scale = add_floats("scale", int(e), at, s.width);
          o.shift = add_floats("shift", int(e), at, s.width);
        }
        ops.push_back(o);
      }
      layer += 1 + int(stage.post.size());
      stages.push_back(s);
      work += double(s.in) * s.out * (l == 0 ? 1 : parts == 2 ? 6 : 2);
      stream_bytes += 2. * s.in * s.out * (l == 0 ? 1 : 2 * parts);
    }
    columns = std::max(columns, column);
    if (member.depth > 0) {
      member.head = add_floats("backward", int(e), layer, stages.back().width);
      member.head_bias = add_floats("bias", int(e), layer, 1);
      const TensorStage* own = stages.data() + member.stages;
      for (int l = 0; l < member.depth; ++l)
        evaluation.push_back({own[l].forward, own[l].in, own[l].out, l == 0 ? 1 : parts, 0, 0});
      for (int l = member.depth - 1; l > 0; --l)
        evaluation.push_back({own[l].backward, own[l].out, own[l - 1].out, parts, 0, 1});
      for (int32_t place : to_action) evaluation.push_back({place, own[0].out, kNarrowOutputs, parts, 1, 1});
    }
    members.push_back(member);
  }
  fold_matrices_ = int(stream.size());
  stream.insert(stream.end(), evaluation.begin(), evaluation.end());
  if (bounded) {
    low = add_floats("low", 0, 0, action_dim_);
    high = add_floats("high", 0, 0, action_dim_);
  }
}

namespace {

template <class T>
size_t append(std::vector<unsigned char>& bytes, const std::vector<T>& table) {
  const size_t at = bytes.size();
  bytes.resize(at + aligned_to_16(table.size() * sizeof(T)) + 16);
  if (!table.empty()) std::memcpy(bytes.data() + at, table.data(), table.size() * sizeof(T));
  return at;
}

template <class T>
const T* pass(const unsigned char*& at, const std::vector<T>& table) {
  const T* first = reinterpret_cast<const T*>(at);
  at += aligned_to_16(table.size() * sizeof(T)) + 16;
  return first;
}

}  // namespace

std::vector<unsigned char> TensorLayout::tables() const {
  std::vector<unsigned char> bytes;
  append(bytes, members);
  append(bytes, stages);
  append(bytes, ops);
  append(bytes, stream);
  return bytes;
}

TensorProgram TensorLayout::program(const unsigned char* tables, const float* numbers) const {
  TensorProgram p{};
  p.members = pass(tables, members);
  p.stages = pass(tables, stages);
  p.ops = pass(tables, ops);
  p.stream = pass(tables, stream);
  p.numbers = numbers;
  p.fold_matrices = fold_matrices_;
  p.stream_matrices = int32_t(stream.size());
  p.state_dim = state_dim_;
  p.action_dim = action_dim_;
  p.member_count = int32_t(members.size());
  p.fold = fold;
  p.slab = slab_;
  p.inputs = inputs_;
  p.input_columns = input_columns;
  p.columns = int32_t(columns);
  p.base_panels = int32_t(base_panels);
  return p;
}

}  // namespace dtag::cuda
