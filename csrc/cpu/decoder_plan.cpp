#include "cpu/decoder_plan.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "cpu/bf16.h"
#include "cpu/heuristics.h"
#include "cpu/scratch.h"
#include "cpu/thread_pool.h"

namespace dtag {
namespace {

// Tokens that go through the matrices together, where rollouts have fewer: few enough for the caches, enough to read each
// weight for more than one block of rows.
constexpr int64_t kGroupTokens = 64;
// Rollouts that a thread takes at a time: their predicted returns go through the matrices together, for which the weights
// are read once, and the last of several threads is not waited for long.
constexpr int64_t kShareRollouts = 16;

struct Share {
  int64_t begin, end;
  int64_t tokens;   // of all
  int64_t longest;  // of one rollout
};

// Neighbouring rollouts, at least one, of up to kShareRollouts and up to `most` tokens.
std::vector<Share> shares_of(const DecoderWeights& w, const DecoderCall& call, int64_t most) {
  std::vector<Share> shares;
  for (int64_t i = 0; i < call.count; ++i) {
    const int64_t tokens = tokens_to_compute(w, call.timesteps[i]);
    if (shares.empty() || shares.back().tokens + tokens > most || i - shares.back().begin == kShareRollouts)
      shares.push_back({i, i, 0, 0});
    shares.back().end = i + 1;
    shares.back().tokens += tokens;
    shares.back().longest = std::max(shares.back().longest, tokens);
  }
  return shares;
}

struct Shared {
  const DecoderWeights* weights;
  const DecoderKernels* kernels;
  const DecoderRings* rings;
  const DecoderCall* call;
  const std::vector<Share>* shares;
  std::atomic<size_t> next{0};
  std::atomic<bool> out_of_memory{false};
};

void run_shares(void* context, int) {
  auto& s = *static_cast<Shared*>(context);
  for (size_t i; (i = s.next.fetch_add(1, std::memory_order_relaxed)) < s.shares->size();) {
    const Share& g = (*s.shares)[i];
    const int64_t tokens = std::max(g.longest, std::min(g.tokens, kGroupTokens));
    try {
      float* memory = scratch(size_t(s.kernels->scratch(*s.weights, g.end - g.begin, tokens)), 0);
      s.kernels->run(*s.weights, *s.rings, *s.call, g.begin, g.end, tokens, memory);
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
    b.query = panels(from.qkv, 0, w.d_model, w.bf16);
    b.key_value = panels(from.qkv, w.d_model, 2 * w.d_model, w.bf16);
    b.out = panels(from.out, 0, from.out.out, w.bf16);
    b.expand = panels(from.expand, 0, from.expand.out, w.bf16);
    b.contract = panels(from.contract, 0, from.contract.out, w.bf16);
    b.norm_1 = norm(from.norm_1);
    b.norm_2 = norm(from.norm_2);
  }
  w.n_layer = int(blocks_.size());
  w.blocks = blocks_.data();
}

// Outputs first .. first + count of a layer.
PanelMatrix DecoderPlan::panels(const DecoderNumbers::Linear& from, int first, int count, bool bf16) {
  const int width = kernels_.decoder.panel_width;
  const float* weights = from.weight + int64_t(first) * from.in;
  PanelMatrix m;
  m.in = from.in;
  m.out = count;
  m.padded = (count + width - 1) / width * width;
  m.bf16 = bf16 && std::all_of(weights, weights + int64_t(count) * m.in, [](float x) { return std::isfinite(through_bf16(x)); });
  m.bias = kept(from.bias + first, count, m.padded);
  if (m.bf16 && kernels_.decoder.pairs) {
    const int64_t pairs = (int64_t(m.in) + kPairedInputs - 1) / kPairedInputs * kPairedInputs / 2;
    const Buffer& words = buffers_.emplace_back(size_t(m.padded) * size_t(pairs) * 4);
    m.panels = words.words();
    for (int c = 0; c < count; ++c)
      for (int k = 0; k < m.in; ++k)
        words.words()[(c / width * pairs + k / 2) * width + c % width] |= uint32_t(to_bf16(weights[int64_t(c) * m.in + k]))
                                                                         << (k % 2 * 16);
    return m;
  }
  float* to = buffers_.emplace_back(size_t(m.padded) * size_t(m.in) * 4).floats();
  m.panels = to;
  for (int c0 = 0; c0 < count; c0 += width, to += int64_t(m.in) * width)
    // Runs of 16 inputs: strided writes alone would fall on the same few lines of the cache over and over.
    for (int k0 = 0; k0 < m.in; k0 += 16)
      for (int c = c0; c < std::min(c0 + width, count); ++c)
        for (int k = k0; k < std::min(k0 + 16, m.in); ++k)
          to[int64_t(k) * width + c - c0] =
              m.bf16 ? through_bf16(weights[int64_t(c) * m.in + k]) : weights[int64_t(c) * m.in + k];
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
  const std::vector<Share> shares = shares_of(weights_, call, ceil_div(tokens, threads));
  Shared shared{&weights_, &kernels_.decoder, &rings, &call, &shares};
  const int wanted = int(std::min<int64_t>(threads, int64_t(shares.size())));
  if (wanted == 1 || !ThreadPool::instance().run(wanted, threads, false, run_shares, &shared)) run_shares(&shared, 0);
  if (shared.out_of_memory.load()) throw std::bad_alloc();
}

}  // namespace dtag
