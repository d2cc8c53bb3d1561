#include "cpu/iql_update.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <utility>

#include "cpu/heuristics.h"
#include "cpu/thread_pool.h"

namespace dtag {
namespace {

constexpr int64_t kAdamNumbers = 8192;  // that a thread takes at a time
constexpr float kHalfLog2Pi = 0.918938533f;

float* numbers(Buffer& buffer, int64_t count) {
  buffer = Buffer(size_t(count) * sizeof(float));  // zeros
  return buffer.floats();
}

int64_t whole_vectors(int64_t count, const Kernels& kernels) {
  return ceil_div(count, kernels.geometry.lanes) * kernels.geometry.lanes;
}

void write_rows(const MlpRows& from, int64_t rows, int64_t skip, int64_t stride, float* to) {
  for (int64_t r = 0; r < rows; ++r) std::copy_n(from.at + r * from.stride, from.width, to + r * stride + skip);
}

void standardise(const IqlSettings& s, int64_t rows, int64_t stride, float* x) {
  for (int64_t r = 0; r < rows; ++r)
    for (int k = 0; k < s.state_dim; ++k) x[r * stride + k] = (x[r * stride + k] - s.mean[size_t(k)]) / s.std[size_t(k)];
}

struct AdamWork {
  const std::vector<AdamArray>* arrays;
  const Kernels* kernels;
  AdamStep step;
  std::atomic<int64_t> next{0};
};

void adam_parts(void* context, int) {
  auto& w = *static_cast<AdamWork*>(context);
  int64_t before = 0;
  size_t array = 0;
  for (;;) {
    const int64_t part = w.next.fetch_add(1, std::memory_order_relaxed);
    const auto parts = [&] { return ceil_div((*w.arrays)[array].count, kAdamNumbers); };
    for (; array < w.arrays->size() && part >= before + parts(); ++array) before += parts();
    if (array == w.arrays->size()) return;
    const AdamArray& a = (*w.arrays)[array];
    const int64_t begin = (part - before) * kAdamNumbers;
    w.kernels->train.adam(a, w.step, begin, std::min(begin + kAdamNumbers, a.count));
  }
}

}  // namespace

void IqlUpdate::Pass::make(const IqlNetwork& from, int64_t count, const Kernels& kernels) {
  network = from;
  rows = count;
  const int layers = int(network.widths.size()) - 1;
  int64_t all = 0;
  for (int m = 0; m < network.members; ++m)
    for (int l = 0; l < layers; ++l) all += (int64_t(network.widths[size_t(l)]) + 1) * network.widths[size_t(l) + 1];
  const int extras = network.extra ? network.widths.back() : 0;
  float* grad = numbers(grads, all + extras);
  for (int i = 0; i < network.members * layers; ++i) {
    const size_t w = size_t(2 * i), b = w + 1;
    const int64_t in = network.widths[size_t(i % layers)], out = network.widths[size_t(i % layers) + 1];
    weights.push_back(network.parameters[w]);
    biases.push_back(network.parameters[b]);
    if (!network.followers.empty()) {
      target_weights.push_back(network.followers[w]);
      target_biases.push_back(network.followers[b]);
    }
    weight_grads.push_back(grad);
    bias_grads.push_back(grad + in * out);
    const auto follower = [&](size_t k) { return network.followers.empty() ? nullptr : network.followers[k]; };
    arrays.push_back({network.parameters[w], grad, network.first[w], network.second[w], follower(w), in * out});
    arrays.push_back({network.parameters[b], grad + in * out, network.first[b], network.second[b], follower(b), out});
    grad += (in + 1) * out;
  }
  if (extras) {
    extra_grad = grad;
    arrays.push_back({network.extra, grad, network.extra_first, network.extra_second, nullptr, extras});
  }
  const MlpCall shape = call(nullptr, weights, biases);
  const int64_t hidden_size = mlp_hidden_size(shape, kernels), out_size = rows * network.members * network.widths.back();
  numbers(hidden, hidden_size);
  numbers(hidden_grad, hidden_size);
  if (network.activation != Activation::relu) numbers(before, hidden_size);
  numbers(out, whole_vectors(out_size, kernels));
  numbers(out_grad, out_size);
}

MlpCall IqlUpdate::Pass::call(float* in, const std::vector<const float*>& w, const std::vector<const float*>& b) const {
  MlpCall c;
  c.members = network.members;
  c.layers = int(network.widths.size()) - 1;
  c.widths = network.widths.data();
  c.activation = network.activation;
  c.weights = w.data();
  c.biases = b.data();
  c.rows = rows;
  c.in = in;
  c.hidden = hidden.floats();
  c.before = network.activation == Activation::relu ? nullptr : before.floats();
  c.out = out.floats();
  return c;
}

IqlUpdate::IqlUpdate(const IqlSettings& settings, const IqlNetwork& critic, const IqlNetwork& value, const IqlNetwork& policy,
                     const Kernels& kernels)
    : s_(settings), kernels_(kernels) {
  const bool acts = !policy.widths.empty();
  critic_.make(critic, s_.rows, kernels);
  value_.make(value, s_.rows, kernels);
  after_.make(value, acts ? 2 * s_.rows : s_.rows, kernels);
  if (acts) policy_.make(policy, s_.rows, kernels);
  state_stride_ = mlp_padded(s_.state_dim, kernels);
  pair_stride_ = mlp_padded(s_.state_dim + s_.action_dim, kernels);
  numbers(states_, 2 * s_.rows * state_stride_);
  numbers(pairs_, s_.rows * pair_stride_);
  numbers(target_q_, s_.rows);
  numbers(weights_, whole_vectors(s_.rows, kernels));
}

float* IqlUpdate::forward(Pass& pass, float* in, bool target) {
  mlp_forward(target ? pass.call(in, pass.target_weights, pass.target_biases) : pass.call(in, pass.weights, pass.biases), kernels_,
              threads_);
  return pass.out.floats();
}

void IqlUpdate::backward(Pass& pass, float* in) {
  MlpGradients g;
  g.out = pass.out_grad.floats();
  g.hidden = pass.hidden_grad.floats();
  g.weights = pass.weight_grads.data();
  g.biases = pass.bias_grads.data();
  mlp_backward(pass.call(in, pass.weights, pass.biases), g, kernels_, threads_);
}

void IqlUpdate::step(Pass& pass, float lr, float polyak) {
  AdamStep step;
  for (float* count : pass.network.counts) *count += 1.f;
  const double t = *pass.network.counts.front();
  step.step = float(lr / (1. - std::pow(double(step.beta1), t)));
  step.root = float(std::sqrt(1. - std::pow(double(step.beta2), t)));
  step.polyak = polyak;
  AdamWork work{&pass.arrays, &kernels_, step};
  if (threads_ < 2 || !ThreadPool::instance().run(threads_, threads_, false, adam_parts, &work)) adam_parts(&work, 0);
}

// V towards an expectile of the target critic's smallest Q.
float IqlUpdate::fit_value() {
  const int64_t rows = s_.rows;
  const int members = critic_.network.members;
  const float* q = forward(critic_, pairs_.floats(), true);
  float* least = target_q_.floats();
  for (int64_t r = 0; r < rows; ++r) {
    least[r] = q[r];
    for (int m = 1; m < members; ++m) {
      const float other = q[m * rows + r];
      if (other < least[r] || other != other) least[r] = other;  // NaN goes through
    }
  }
  const float* value = forward(value_, states_.floats());
  float* grad = value_.out_grad.floats();
  double loss = 0., mean = 0.;
  for (int64_t r = 0; r < rows; ++r) {
    const float u = least[r] - value[r];
    const float weight = std::fabs(s_.expectile - (u < 0.f ? 1.f : 0.f));
    loss += double(weight * u * u);
    mean += double(value[r]);
    grad[r] = -2.f * weight * u / float(rows);
  }
  metrics_.value = float(mean / double(rows));
  backward(value_, states_.floats());
  step(value_, s_.lr, 0.f);
  return float(loss / double(rows));
}

// The likelihood of the data's actions, weighted by their advantages.
float IqlUpdate::fit_policy(const IqlBatch& batch) {
  const int64_t rows = s_.rows;
  const int actions = s_.action_dim;
  const float *least = target_q_.floats(), *value = after_.out.floats();
  float* weight = weights_.floats();
  for (int64_t r = 0; r < rows; ++r) weight[r] = s_.inverse_temperature * (least[r] - value[r]);
  kernels_.train.exp(weight, whole_vectors(rows, kernels_));
  for (int64_t r = 0; r < rows; ++r) weight[r] = weight[r] > s_.max_weight ? s_.max_weight : weight[r];

  float *squashed = forward(policy_, states_.floats()), *grad = policy_.out_grad.floats();
  kernels_.train.tanh(squashed, whole_vectors(rows * actions, kernels_));
  std::vector<double> log_std_grad(static_cast<size_t>(actions), 0.);
  double loss = 0., normaliser = 0.;
  for (int k = 0; k < actions; ++k)
    normaliser += double(std::clamp(policy_.network.extra[k], s_.log_std_low, s_.log_std_high) + kHalfLog2Pi);
  for (int64_t r = 0; r < rows; ++r) {
    const float* given = batch.actions.at + r * batch.actions.stride;
    const float share = weight[r] / float(rows);
    double nll = normaliser;
    for (int k = 0; k < actions; ++k) {
      const size_t j = size_t(k);
      const float precision = std::exp(-std::clamp(policy_.network.extra[k], s_.log_std_low, s_.log_std_high));
      const float t = squashed[r * actions + k], action = std::clamp(given[k], s_.low[j], s_.high[j]);
      const float z = (action - (s_.centre[j] + s_.half_range[j] * t)) * precision;
      nll += 0.5 * double(z * z);
      grad[r * actions + k] = -share * z * precision * s_.half_range[j] * (1.f - t * t);
      log_std_grad[j] += double(share * (1.f - z * z));
    }
    loss += double(weight[r]) * nll;
  }
  for (int k = 0; k < actions; ++k) {
    const float log_std = policy_.network.extra[k];
    const bool inside = log_std >= s_.log_std_low && log_std <= s_.log_std_high;
    policy_.extra_grad[k] = inside ? float(log_std_grad[size_t(k)]) : 0.f;
  }
  backward(policy_, states_.floats());
  step(policy_, batch.policy_lr, 0.f);
  return float(loss / double(rows));
}

// Q towards r + discount (1 - terminal) V(s').
float IqlUpdate::fit_critic(const IqlBatch& batch) {
  const int64_t rows = s_.rows;
  const int members = critic_.network.members;
  const float* next = after_.out.floats() + (after_.rows - rows);
  const float* q = forward(critic_, pairs_.floats());
  float* grad = critic_.out_grad.floats();
  double loss = 0., mean = 0.;
  for (int64_t r = 0; r < rows; ++r) {
    const float reward = batch.rewards.at[r * batch.rewards.stride], terminal = batch.terminations.at[r * batch.terminations.stride];
    const float y = reward + batch.discounts.at[r * batch.discounts.stride] * (1.f - terminal) * next[r];
    for (int m = 0; m < members; ++m) {
      const float error = q[m * rows + r] - y;
      loss += double(error * error);
      mean += double(q[m * rows + r]);
      grad[m * rows + r] = 2.f * error / float(rows);
    }
  }
  metrics_.q = float(mean / double(rows * members));
  backward(critic_, pairs_.floats());
  step(critic_, s_.lr, s_.polyak);
  return float(loss / double(rows));
}

IqlMetrics IqlUpdate::run(const IqlBatch& batch, int threads) {
  const int64_t rows = s_.rows;
  threads_ = threads;
  float *states = states_.floats(), *next = states + rows * state_stride_, *pairs = pairs_.floats();
  write_rows(batch.states, rows, 0, state_stride_, states);
  write_rows(batch.next_states, rows, 0, state_stride_, next);
  standardise(s_, 2 * rows, state_stride_, states);
  write_rows({states, state_stride_, s_.state_dim}, rows, 0, pair_stride_, pairs);
  write_rows(batch.actions, rows, s_.state_dim, pair_stride_, pairs);

  metrics_.value_loss = fit_value();
  const bool acts = !policy_.network.widths.empty();
  forward(after_, acts ? states : next);
  if (acts) metrics_.policy_loss = fit_policy(batch);
  metrics_.critic_loss = fit_critic(batch);
  return metrics_;
}

}  // namespace dtag
