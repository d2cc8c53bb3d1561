// Starting the kernels: on a GPU (launch*.cu), or on the host's stand-in for one (simt_host/launch*.cpp).
// Both throw std::runtime_error with what the device said.
#pragma once
#include <iterator>
#include <utility>

#include "cuda/refine/generic_params.h"
#include "cuda/refine/heuristics.h"
#include "cuda/refine/hopper_params.h"
#include "cuda/refine/tensor_params.h"

namespace dtag::cuda {

// The device numbered as torch does. Throws when there is none, or none that the build has code for.
DeviceTraits device_traits(int device);
// Whether the build has code for the device with clusters, and the Hopper kernel: they are compiled for fewer than the others.
bool has_clusters(int device);
bool has_hopper(int device);

// Queue a kernel on `stream` (a cudaStream_t) of `device`; wait for nothing and allocate nothing.
void launch_generic(const GenericParams& params, const Choice& choice, int device, void* stream);
void launch_clusters(const LatencyParams& params, const LatencyLayout& layout, const Choice& choice, int device, void* stream);
void launch_groups(const LatencyParams& params, const LatencyLayout& layout, const Choice& choice, int device, void* stream);
void launch_hopper(const HopperParams& params, const HopperLayout& layout, const Choice& choice, int device, void* stream);
void launch_tensor(const TensorParams& params, const Choice& choice, int device, void* stream);

// Calls f.operator()<LatencyShape, relu>() for the layout's, in clusters or not.
template <bool clusters, class F>
void with_latency_shape(const LatencyLayout& l, F f) {
  const auto if_it = [&]<size_t i>() {
    constexpr LatencyShapeRule s = kLatencyShapes[i];
    if constexpr (clusters || !s.clusters)
      if (l.quads == s.quads && l.rows_each == s.rows && l.depth == s.depth) {
        using Shape = LatencyShape<s.quads, s.rows, s.depth>;
        if constexpr (s.depth == 2 && Shape::kRestFloats == 0)  // the largest shape has no register left for it
          if (l.relu) return f.template operator()<Shape, true>();
        f.template operator()<Shape, false>();
      }
  };
  [&]<size_t... i>(std::index_sequence<i...>) {
    (if_it.template operator()<i>(), ...);
  }(std::make_index_sequence<std::size(kLatencyShapes)>());
}

// The same for the Hopper kernel.
template <class F>
void with_hopper_shape(const HopperLayout& l, F f) {
  switch (l.kind) {
    case Activation::gelu: return f.template operator()<HopperShape<256, Activation::gelu>>();
    case Activation::mish: return f.template operator()<HopperShape<256, Activation::mish>>();
    case Activation::silu: return f.template operator()<HopperShape<256, Activation::silu>>();
    case Activation::tanh: return f.template operator()<HopperShape<256, Activation::tanh>>();
    default: break;
  }
  if (l.facts.width == 64) return f.template operator()<HopperShape<64, Activation::relu>>();
  if (l.facts.width == 128) return f.template operator()<HopperShape<128, Activation::relu>>();
  f.template operator()<HopperShape<256, Activation::relu>>();
}

// The same for the tiles of the tensor kernel.
template <class F>
void with_tensor_tile(const Choice& c, F f) {
  if (c.parts == 2) return c.rows == 64 ? f.template operator()<TensorTile<64, 2>>() : f.template operator()<TensorTile<32, 2>>();
  if (c.rows == 128) return f.template operator()<TensorTile<128, 1>>();
  c.rows == 64 ? f.template operator()<TensorTile<64, 1>>() : f.template operator()<TensorTile<32, 1>>();
}

}  // namespace dtag::cuda
