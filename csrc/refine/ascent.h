// One row's walk over actions: keep the best iterate, shape the gradient, take the optimizer's step, project.
// Written once for F = float (the CPU's row kernel, the CUDA kernels) and F = vf (a vector of rows in the CPU's tile kernel);
// number k of a row's action stands at [k * stride]. Included after the machine's vocabulary (scalar.h).
#pragma once
#include "refine/params.h"

namespace dtag::DTAG_ISA {

template <class F, class P>
DTAG_INLINE F get(P p) {
  if constexpr (Lanes<F>::count == 1)
    return *p;
  else
    return load<F>(p);
}
template <class F, class P>
DTAG_INLINE typename Lanes<F>::Mask get_mask(P p) {
  if constexpr (Lanes<F>::count == 1)
    return *p != 0;
  else
    return load<typename Lanes<F>::Mask>(p);
}

// Who else holds dimensions of the same row: nobody.
struct Alone {
  template <class Mask>
  DTAG_MEMBER static Mask all(Mask m) {
    return m;
  }
  template <class F>
  DTAG_MEMBER static F max(F x) {
    return x;
  }
  template <class F>
  DTAG_MEMBER static F sum(F x) {
    return x;
  }
};

// The rows of one F: where their numbers stand.
// Floats, Ints: pointers. Group: how those who share a row agree where all dimensions matter.
//
// A step is taken with a walk that also has, of the coordinate u in which the ascent takes place, a = a_0 + scale * u:
//   bool scaled()                     whether scale is not 1 throughout, the same for all rows
//   F scale_of<F>(int k)              of dimension k; asked only when scaled()
//   F radius_of<F>(const Settings&)   in units of u
// A step and a comparison of iterates ask of the prior, by which F differs from Q (params.h):
//   bool has_prior()                  the same for all rows
//   F prior_mean<F>(int k), F prior_weight<F>()   asked only when has_prior(); the weight is divided by A
template <class Floats, class Ints, class Group = Alone>
struct WalkOf {
  int dims, stride;
  Floats action, start, best, grad;    // [A], strided: a_i, a_0, the iterate to return, g_i
  Floats first_moment, second_moment;  // [A], strided
  Floats lr;                           // [A], strided
  Ints steps;                          // a row's own number of steps
  Ints alive, best_index;              // alive: the row stands at a_i and has not ended
  Floats q, q_first, q_best;
  using group = Group;

  DTAG_MEMBER static float low(const Settings& s, int k) { return s.low[k]; }
  DTAG_MEMBER static float high(const Settings& s, int k) { return s.high[k]; }

  // The walk of rows `row` on, where this is that of row 0 and `at` the distance between their actions.
  DTAG_MEMBER WalkOf moved(int64_t row, int64_t at) const {
    return {dims,     stride,      action + at,      start + at,  best + at,       grad + at,
            first_moment + at, second_moment + at, lr + at, steps + row, alive + row, best_index + row,
            q + row,  q_first + row, q_best + row};
  }
};

// What changes from one step to the next but is the same for every row.
struct Clock {
  double beta1_power = 1., beta2_power = 1.;
  float step_scale = 1.f, root_scale = 1.f;  // Adam: 1 / (1 - b1^t) and 1 / sqrt(1 - b2^t)
  DTAG_MEMBER void tick(const Settings& s) {
    beta1_power *= s.beta1;
    beta2_power *= s.beta2;
    step_scale = float(1. / (1. - beta1_power));
    root_scale = float(1. / DTAG_BUILTIN(sqrt)(1. - beta2_power));
  }
};

template <class F>
DTAG_INLINE F clip(F a, F low, F high) {
  a = select(a < low, low, a);
  return select(a > high, high, a);
}

// Length of x[0..dims) as largest * root, so that neither overflows nor vanishes; largest is 1 for a zero vector.
template <class F, class Group, class Get>
DTAG_INLINE void length(int dims, Get x, F& largest, F& root) {
  largest = spread<F>(0.f);
  for (int k = 0; k < dims; ++k) {
    const F m = abs_of(x(k));
    largest = select(m > largest, m, largest);
  }
  largest = Group::max(largest);
  largest = select(largest > spread<F>(0.f), largest, spread<F>(1.f));
  F sum = spread<F>(0.f);
  for (int k = 0; k < dims; ++k) {
    const F scaled = x(k) / largest;
    sum = sum + scaled * scaled;
  }
  root = sqrt(Group::sum(sum));
}

template <class F, class Walk>
DTAG_FUNCTION void walk_begin(const Walk& w, const Settings& s) {
  for (int k = 0; k < w.dims; ++k) {
    const int at = k * w.stride;
    F a = get<F>(w.action + at);
    if (s.low) a = clip(a, spread<F>(w.low(s, k)), spread<F>(w.high(s, k)));
    put(w.action + at, a);
    put(w.start + at, a);
    put(w.best + at, a);
    put(w.first_moment + at, spread<F>(0.f));
    put(w.second_moment + at, spread<F>(0.f));
  }
}

// Whether the call gives a prior; one of weight 0 for all is none.
DTAG_INLINE bool has_prior(const Call& c) { return c.prior_weight_values || c.prior_weight != 0.f; }

// How far number k of an action, a, is from the prior's mean in units of u; 0 where scale is 0.
template <class F, class Walk>
DTAG_INLINE F from_mean(const Walk& w, int k, F a) {
  const F way = a - w.template prior_mean<F>(k), zero = spread<F>(0.f);
  if (!w.scaled()) return way;
  const F scale = w.template scale_of<F>(k);
  return select(scale > zero, way / scale, zero);
}

// Q - F of the action whose numbers `action(k)` gives.
template <class F, class Walk, class Get>
DTAG_INLINE F prior_cost(const Walk& w, Get action) {
  const F zero = spread<F>(0.f), weight = w.template prior_weight<F>();
  F sum = zero;
  for (int k = 0; k < w.dims; ++k) {
    const F far = from_mean<F>(w, k, action(k));
    sum = sum + far * far;
  }
  return select(weight > zero, weight * Walk::group::sum(sum), zero);
}

// The same of a_i and of the iterate to return.
template <class F, class Walk>
DTAG_INLINE F cost_here(const Walk& w) {
  return prior_cost<F>(w, [&](int k) DTAG_LAMBDA { return get<F>(w.action + k * w.stride); });
}
template <class F, class Walk>
DTAG_INLINE F cost_of_best(const Walk& w) {
  return prior_cost<F>(w, [&](int k) DTAG_LAMBDA { return get<F>(w.best + k * w.stride); });
}

// Whether q - cost is greater than another. A cost may be lost beside a large Q: differences are compared.
template <class F>
DTAG_INLINE auto higher(F q, F cost, F than_q, F than_cost) {
  return q - than_q > cost - than_cost;
}

// g_i, dQ/du, becomes dF/du.
template <class F, class Walk>
DTAG_INLINE void pull_to_mean(const Walk& w) {
  const F zero = spread<F>(0.f), weight = w.template prior_weight<F>();
  for (int k = 0; k < w.dims; ++k) {
    const int at = k * w.stride;
    const F pull = 2.f * weight * from_mean<F>(w, k, get<F>(w.action + at));
    put(w.grad + at, get<F>(w.grad + at) - select(weight > zero, pull, zero));
  }
}

// Iterate i becomes the one to return, in the rows of `take`.
template <class F, class Walk, class Mask>
DTAG_INLINE void keep(const Walk& w, F q, Mask take, int i) {
  put(w.q_best, select(take, q, get<F>(w.q_best)));
  put_index(w.best_index, take, i);
  for (int k = 0; k < w.dims; ++k) {
    const int at = k * w.stride;
    put(w.best + at, select(take, get<F>(w.action + at), get<F>(w.best + at)));
  }
}

// Q at iterate i is known: keep the iterate if it is to be returned, and end the rows whose last it was. Q is what is kept
// of it, F what decides.
template <class F, class Walk>
DTAG_FUNCTION void walk_observe(const Walk& w, const Settings& s, int i) {
  const F q = get<F>(w.q);
  auto alive = get_mask<F>(w.alive);
  const bool prior = w.has_prior();
  const F cost = prior ? cost_here<F>(w) : spread<F>(0.f);
  const auto finite = is_finite(prior ? q - cost : q);
  if (i == 0) {
    put(w.q_first, q);
    put(w.q_best, q);
    put_index(w.best_index, alive, 0);
    alive = alive & finite;
  } else {
    const F best = get<F>(w.q_best);
    auto take = alive;
    if (s.select == Select::best) take = alive & finite & (prior ? higher(q, cost, best, cost_of_best<F>(w)) : q > best);
    if (any(take)) keep(w, q, take, i);
  }
  put_mask(w.alive, alive & steps_after(w.steps, i, q));
}

template <class F, class Walk>
DTAG_INLINE F update(const Walk& w, const Settings& s, const Clock& clock, int i, int at, F g) {
  const F lr = get<F>(w.lr + at);
  if (s.optimizer == Optimizer::adam) {
    const float b1 = float(s.beta1), b2 = float(s.beta2), c1 = float(1. - s.beta1), c2 = float(1. - s.beta2);
    const F m = get<F>(w.first_moment + at) * b1 + g * c1;
    const F v = get<F>(w.second_moment + at) * b2 + g * g * c2;
    put(w.first_moment + at, m);
    put(w.second_moment + at, v);
    return lr * clock.step_scale * (m / (sqrt(v) * clock.root_scale + s.eps));
  }
  if (s.optimizer == Optimizer::rmsprop) {
    const F v = get<F>(w.second_moment + at) * float(s.beta2) + g * g * float(1. - s.beta2);
    put(w.second_moment + at, v);
    return lr * (g / (sqrt(v) + s.eps));
  }
  if (s.momentum == 0.f) return lr * g;
  const F m = i == 0 ? g : get<F>(w.first_moment + at) * s.momentum + g;
  put(w.first_moment + at, m);
  return lr * (s.nesterov ? g + m * s.momentum : m);
}

// a_{i+1} from g_i, which becomes dF/du. A row with a non-finite entry in it ends at a_i; where lr or scale is 0 the action
// keeps its bits.
template <class F, class Walk>
DTAG_FUNCTION void walk_step(const Walk& w, const Settings& s, const Clock& clock, int i) {
  const bool scaled = w.scaled();
  if (scaled)
    for (int k = 0; k < w.dims; ++k) {
      const int at = k * w.stride;
      put(w.grad + at, get<F>(w.grad + at) * w.template scale_of<F>(k));
    }
  if (w.has_prior()) pull_to_mean<F>(w);
  auto alive = get_mask<F>(w.alive);
  for (int k = 0; k < w.dims; ++k) alive = alive & is_finite(get<F>(w.grad + k * w.stride));
  alive = Walk::group::all(alive);
  put_mask(w.alive, alive);
  if (!any(alive)) return;

  const F zero = spread<F>(0.f), one = spread<F>(1.f);
  F divide = one, times = one;  // shaped gradient: g / divide * times
  if (s.gradient != Gradient::raw) {
    F largest, root;
    length<F, typename Walk::group>(w.dims, [&](int k) DTAG_LAMBDA { return get<F>(w.grad + k * w.stride); }, largest,
              root);
    if (s.gradient == Gradient::unit) {
      divide = largest;
      times = select(root > zero, one / root, one);
    } else {
      const auto too_long = root > s.clip / largest;
      divide = select(too_long, largest, one);
      times = select(too_long, s.clip / root, one);
    }
  }
  const F radius = w.template radius_of<F>(s);
  for (int k = 0; k < w.dims; ++k) {
    const int at = k * w.stride;
    const F old = get<F>(w.action + at), start = get<F>(w.start + at);
    F g = get<F>(w.grad + at);
    if (s.gradient != Gradient::raw) g = g / divide * times;
    F step = update<F>(w, s, clock, i, at, g), reach = radius;
    auto moves = get<F>(w.lr + at) != zero;
    if (scaled) {
      const F scale = w.template scale_of<F>(k);
      moves = moves & (scale != zero);
      step = step * scale;
      reach = reach * scale;
    }
    F a = old + step;
    if (s.radius_norm == Radius::inf) a = clip(a, start - reach, start + reach);
    if (s.radius_norm != Radius::l2 && s.low) a = clip(a, spread<F>(w.low(s, k)), spread<F>(w.high(s, k)));
    put(w.action + at, select(alive & moves, a, old));
  }
  if (s.radius_norm != Radius::l2) return;
  F largest, root;
  length<F, typename Walk::group>(
      w.dims,
      [&](int k) DTAG_LAMBDA {
        const F way = get<F>(w.action + k * w.stride) - get<F>(w.start + k * w.stride);
        if (!scaled) return way;
        const F scale = w.template scale_of<F>(k);
        return select(scale > zero, way / scale, zero);
      },
      largest, root);
  const auto outside = alive & (root > radius / largest);
  for (int k = 0; k < w.dims; ++k) {
    const int at = k * w.stride;
    const F old = get<F>(w.action + at), start = get<F>(w.start + at);
    F a = select(outside, start + (old - start) / largest * (radius / root), old);
    if (scaled) a = select(w.template scale_of<F>(k) > zero, a, old);
    if (s.low) a = select(alive, clip(a, spread<F>(w.low(s, k)), spread<F>(w.high(s, k))), a);
    put(w.action + at, a);
  }
}

// The ensemble's Q and the member it comes from, as torch.min: the first on ties, the first NaN before all else.
template <class F>
DTAG_INLINE auto beats(Reduce reduce, F q, F than) {
  const auto nan_first = (q != q) & (than == than);
  return (reduce == Reduce::min ? q < than : q > than) | nan_first;
}

}  // namespace dtag::DTAG_ISA
