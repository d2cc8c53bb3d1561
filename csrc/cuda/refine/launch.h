// Starting the kernels: on a GPU (launch*.cu), or on the host's stand-in for one (simt_host/launch.cpp).
// Both throw std::runtime_error with what the device said.
#pragma once
#include "cuda/refine/generic_params.h"
#include "cuda/refine/heuristics.h"
#include "cuda/refine/tensor_params.h"

namespace dtag::cuda {

// The device numbered as torch does. Throws when there is none, or none that the build has code for.
DeviceTraits device_traits(int device);
// Whether the build has the code with clusters for the device: it is compiled for fewer than the others.
bool has_clusters(int device);

// Queue a kernel on `stream` (a cudaStream_t) of `device`; wait for nothing and allocate nothing.
void launch_generic(const GenericParams& params, const Choice& choice, int device, void* stream);
void launch_clusters(const LatencyParams& params, const LatencyLayout& layout, const Choice& choice, int device, void* stream);
void launch_groups(const LatencyParams& params, const LatencyLayout& layout, const Choice& choice, int device, void* stream);
void launch_tensor(const TensorParams& params, const Choice& choice, int device, void* stream);

// The shapes of the latency kernel that are compiled; calls f.operator()<LatencyShape>() for the layout's.
template <class F>
void with_latency_shape(const LatencyLayout& l, F f) {
  const auto of_depth = [&]<int quads, int rows>() {
    l.depth == 2 ? f.template operator()<LatencyShape<quads, rows, 2>>() : f.template operator()<LatencyShape<quads, rows, 3>>();
  };
  if (l.quads == 1) return of_depth.template operator()<1, 8>();
  if (l.quads == 2 && l.rows_each == 4) return of_depth.template operator()<2, 4>();
  if (l.quads == 2 && l.rows_each == 8) return of_depth.template operator()<2, 8>();
  if (l.quads == 2) return f.template operator()<LatencyShape<2, 16, 2>>();
  of_depth.template operator()<4, 8>();
}

// The same for the tiles of the tensor kernel.
template <class F>
void with_tensor_tile(const Choice& c, F f) {
  if (c.parts == 2) return c.rows == 64 ? f.template operator()<TensorTile<64, 2>>() : f.template operator()<TensorTile<32, 2>>();
  if (c.rows == 128) return f.template operator()<TensorTile<128, 1>>();
  c.rows == 64 ? f.template operator()<TensorTile<64, 1>>() : f.template operator()<TensorTile<32, 1>>();
}

}  // namespace dtag::cuda
