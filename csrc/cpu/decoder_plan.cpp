#include "cpu/decoder_plan.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "cpu/heuristics.h"
#include "cpu/scratch.h"
#include "cpu/thread_pool.h"

namespace dtag {
namespace {

// Tokens that go through the matrices together, where rollouts have fewer: few enough for the caches, enough to read each
// weight for more than one block of rows.
constexpr int64_t kGroupTokens = 64;

struct Group {
  int64_t begin, end, tokens;
};

// Neighbouring rollouts of up to `most` tokens, at least one.
std::vector<Group> groups_of(const DecoderWeights& w, const DecoderCall& call, int64_t most) {
  std::vector<Group> groups;
  for (int64_t i = 0; i < call.count; ++i) {
    const int64_t tokens = tokens_to_compute(w, call.timesteps[i]);
    if (groups.empty() || groups.back().tokens + tokens > most) groups.push_back({i, i, 0});
    groups.back().end = i + 1;
    groups.back().tokens += tokens;
  }
  return groups;
}

struct Shared {
  const DecoderWeights* weights;
  const DecoderKernels* kernels;
  const DecoderRings* rings;
  const DecoderCall* call;
  const std::vector<Group>* groups;
  std::atomic<size_t> next{0};
  std::atomic<bool> out_of_memory{false};
};

void run_groups(void* context, int) {
  auto& s = *static_cast<Shared*>(context);
  for (size_t i; (i = s.next.fetch_add(1, std::memory_order_relaxed)) < s.groups->size();) {
    const Group& g = (*s.groups)[i];
    try {
      float* memory = scratch(size_t(s.kernels->scratch(*s.weights, g.end - g.begin, g.tokens)), 0);
      s.kernels->run(*s.weights, *s.rings, *s.call, g.begin, g.end, g.tokens, memory);
    } catch (const std::bad_alloc&) {
      s.out_of_memory.store(true);
      return;
    }
  }
}

}  // namespace

DecoderPlan::DecoderPlan(const DecoderWeights& shape, const DecoderNumbers& numbers, const Kernels& kernels)
    : weights_(shape), kernels_(kernels) {
  DecoderWeights& w = weights_;
  w.embed_state = panels(numbers.embed_state);
  w.embed_action = panels(numbers.embed_action);
  w.embed_return = panels(numbers.embed_return);
  w.action_head = panels(numbers.action_head);
  if (w.predicts_returns) w.return_head = panels(numbers.return_head);
  w.timesteps = numbers.timesteps;
  w.embed_norm = norm(numbers.embed_norm);
  w.has_final_norm = numbers.final_norm.scale != nullptr;
  if (w.has_final_norm) w.final_norm = norm(numbers.final_norm);
  if (numbers.centre) {
    w.centre = kept(numbers.centre, w.action_dim, w.action_dim);
    w.half_range = kept(numbers.half_range, w.action_dim, w.action_dim);
  }
  for (const DecoderNumbers::Block& from : numbers.blocks) {
    BlockWeights& b = blocks_.emplace_back();
    b.query = panels(from.qkv, 0, w.d_model);
    b.key_value = panels(from.qkv, w.d_model, 2 * w.d_model);
    b.out = panels(from.out);
    b.expand = panels(from.expand);
    b.contract = panels(from.contract);
    b.norm_1 = norm(from.norm_1);
    b.norm_2 = norm(from.norm_2);
  }
  w.n_layer = int(blocks_.size());
  w.blocks = blocks_.data();
}

// Outputs first .. first + count of a layer.
PanelMatrix DecoderPlan::panels(const DecoderNumbers::Linear& from, int first, int count) {
  const int width = kernels_.decoder.panel_width;
  PanelMatrix m;
  m.in = from.in;
  m.out = count;
  m.padded = (count + width - 1) / width * width;
  m.bias = kept(from.bias + first, count, m.padded);
  float* to = buffers_.emplace_back(size_t(m.padded) * size_t(m.in) * 4).floats();
  m.panels = to;
  for (int c0 = 0; c0 < count; c0 += width, to += int64_t(m.in) * width)
    // Runs of 16 inputs: strided writes alone would fall on the same few lines of the cache over and over.
    for (int k0 = 0; k0 < m.in; k0 += 16)
      for (int c = c0; c < std::min(c0 + width, count); ++c)
        for (int k = k0; k < std::min(k0 + 16, m.in); ++k)
          to[int64_t(k) * width + c - c0] = from.weight[int64_t(first + c) * m.in + k];
  return m;
}

NormWeights DecoderPlan::norm(const DecoderNumbers::Norm& from) {
  return {kept(from.scale, weights_.d_model, weights_.d_model), kept(from.shift, weights_.d_model, weights_.d_model), from.eps};
}

const float* DecoderPlan::kept(const float* numbers, int count, int room) {
  float* to = buffers_.emplace_back(size_t(room) * 4).floats();
  std::memcpy(to, numbers, size_t(count) * 4);
  return to;
}

void DecoderPlan::run(const DecoderRings& rings, const DecoderCall& call, int threads) const {
  if (call.count == 0) return;
  int64_t tokens = 0;
  for (int64_t i = 0; i < call.count; ++i) tokens += tokens_to_compute(weights_, call.timesteps[i]);
  Shape shape;
  shape.threads = threads;
  shape.shared = ThreadPool::shares_threads();
  if (tokens * 12 * weights_.d_model * weights_.d_model * weights_.n_layer < thread_work(shape)) threads = 1;
  const std::vector<Group> groups = groups_of(weights_, call, std::min(kGroupTokens, ceil_div(tokens, threads)));
  Shared shared{&weights_, &kernels_.decoder, &rings, &call, &groups};
  const int wanted = int(std::min<int64_t>(threads, int64_t(groups.size())));
  if (wanted == 1 || !ThreadPool::instance().run(wanted, threads, false, run_groups, &shared)) run_groups(&shared, 0);
  if (shared.out_of_memory.load()) throw std::bad_alloc();
}

}  // namespace dtag
