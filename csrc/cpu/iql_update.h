// Updates of implicit Q-learning (Kostrikov et al. 2021, arXiv 2110.06169) on the CPU, a batch of transitions in one call:
// what dtag_fast/algorithms/iql.py does operator by operator, and in the same order.
#pragma once
#include <vector>

#include "cpu/kernels.h"
#include "cpu/mlp_run.h"
#include "cpu/pack.h"

namespace dtag {

// Networks of one shape with their optimizer. Arrays by member and layer, the weights and then the biases of each layer.
struct IqlNetwork {
  std::vector<int> widths;  // empty: there is no such network
  int members = 1;
  Activation activation = Activation::relu;
  std::vector<float*> parameters, first, second, followers;  // followers: of the target network, or empty
  // Behind the last layer: the policy's log standard deviation, where there is one.
  float *extra = nullptr, *extra_first = nullptr, *extra_second = nullptr;
  std::vector<float*> counts;  // Adam's t of each array, all equal
};

struct IqlSettings {
  int64_t rows = 0;  // of a batch
  int state_dim = 0, action_dim = 0;
  float expectile = 0.f, polyak = 0.f, lr = 0.f, inverse_temperature = 0.f, max_weight = 0.f;
  float log_std_low = 0.f, log_std_high = 0.f;
  std::vector<float> mean, std;                        // of states
  std::vector<float> centre, half_range, low, high;    // of the policy's actions, and where given ones are clipped
};

struct IqlBatch {
  MlpRows states, actions, rewards, next_states, terminations, discounts;
  float policy_lr = 0.f;
};

struct IqlMetrics {
  float value_loss = 0.f, value = 0.f, policy_loss = 0.f, critic_loss = 0.f, q = 0.f;
};

class IqlUpdate {
 public:
  IqlUpdate(const IqlSettings& settings, const IqlNetwork& critic, const IqlNetwork& value, const IqlNetwork& policy,
            const Kernels& kernels);

  // One update on up to `threads` threads. Throws std::bad_alloc.
  IqlMetrics run(const IqlBatch& batch, int threads);

 private:
  // A network with room for a pass in both directions.
  struct Pass {
    IqlNetwork network;
    int64_t rows = 0;
    std::vector<const float*> weights, biases, target_weights, target_biases;
    std::vector<float*> weight_grads, bias_grads;
    std::vector<AdamArray> arrays;
    Buffer hidden, before, out, out_grad, hidden_grad, grads;
    float* extra_grad = nullptr;

    void make(const IqlNetwork& from, int64_t rows, const Kernels& kernels);
    MlpCall call(float* in, const std::vector<const float*>& w, const std::vector<const float*>& b) const;
  };

  float* forward(Pass& pass, float* in, bool target = false);
  void backward(Pass& pass, float* in);
  void step(Pass& pass, float lr, float polyak);

  float fit_value();
  float fit_policy(const IqlBatch& batch);
  float fit_critic(const IqlBatch& batch);

  IqlSettings s_;
  const Kernels& kernels_;
  int threads_ = 1;
  int64_t state_stride_ = 0, pair_stride_ = 0;
  Pass critic_, value_, after_, policy_;  // after_: V once it has moved
  Buffer states_, pairs_, target_q_, weights_;
  IqlMetrics metrics_;
};

}  // namespace dtag
