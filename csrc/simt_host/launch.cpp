// The launchers of cuda/refine/launch.h on the host: the very kernels, threads as fibers.
#include "cuda/refine/launch.h"

#include <stdexcept>

#include "cuda/refine/generic_kernel.h"
#include "cuda/refine/hopper_kernel.h"
#include "cuda/refine/latency_kernel.h"
#include "cuda/refine/meet_in_cluster.h"
#include "cuda/refine/meet_in_global_memory.h"
#include "cuda/refine/tensor_kernel.h"
#include "simt_host/device.h"
#include "simt_host/machine.h"

namespace dtag {

simt::Device& simt::device() {
  static Device device;
  return device;
}

namespace cuda {
namespace {

simt::Shape shape_of(const Choice& choice, int cluster, int threads) {
  simt::Shape shape;
  shape.grid = choice.blocks;
  shape.cluster = cluster;
  shape.threads = threads;
  shape.shared_bytes = choice.shared_bytes();
  shape.shared_limit = simt::device().traits.shared_bytes;
  shape.seed = simt::device().seed;
  shape.capability = simt::device().traits.capability;
  return shape;
}

template <class Tile>
void launch(const GenericParams& params, const Choice& choice) {
  simt::launch(shape_of(choice, 1, kThreads), [&] {
    params.variants ? gpu::generic_kernel<Tile, true>(params) : gpu::generic_kernel<Tile, false>(params);
  });
}

}  // namespace

void launch_clusters(const LatencyParams& params, const LatencyLayout& layout, const Choice& choice, int, void*) {
  with_latency_shape<true>(layout, [&]<class Shape, bool relu>() {
    const simt::Shape shape = shape_of(choice, layout.group(), kLatencyThreads);
    simt::launch(shape, [&] { gpu::latency_kernel<Shape, gpu::MeetInCluster, relu>(params); });
  });
}

void launch_groups(const LatencyParams& params, const LatencyLayout& layout, const Choice& choice, int, void*) {
  simt::Shape shape = shape_of(choice, 1, kLatencyThreads);
  shape.cooperative = true;
  shape.resident = simt::device().traits.multiprocessors;
  with_latency_shape<false>(layout, [&]<class Shape, bool relu>() {
    simt::launch(shape, [&] { gpu::latency_kernel<Shape, gpu::MeetInGlobalMemory, relu>(params); });
  });
}

void launch_hopper(const HopperParams& params, const HopperLayout& layout, const Choice& choice, int, void*) {
  with_hopper_shape(layout, [&]<class Shape>() {
    simt::launch(shape_of(choice, layout.facts.members, params.groups * kHopperGroupThreads),
                 [&] { gpu::hopper_kernel<Shape>(params); });
  });
}

void launch_tensor(const TensorParams& params, const Choice& choice, int, void*) {
  with_tensor_tile(choice, [&]<class Tile>() {
    simt::launch(shape_of(choice, 1, kThreads), [&] { gpu::tensor_kernel<Tile>(params); });
  });
}

DeviceTraits device_traits(int) { return simt::device().traits; }

void launch_generic(const GenericParams& params, const Choice& choice, int, void*) {
  switch (choice.rows) {
    case 64: return launch<Tile64>(params, choice);
    case 32: return launch<Tile32>(params, choice);
    case 16: return launch<Tile16>(params, choice);
    case 8: return launch<Tile8>(params, choice);
    case 4: return launch<Tile4>(params, choice);
    default: throw std::runtime_error("generic kernel: no tile of " + std::to_string(choice.rows) + " rows");
  }
}

}  // namespace cuda
}  // namespace dtag
