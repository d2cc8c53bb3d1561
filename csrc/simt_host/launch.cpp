// The launchers of cuda/refine/launch.h on the host: the very kernels, threads as fibers. A file for each of the .cu files, so
// that they compile side by side.
#include "cuda/refine/launch.h"

#include <stdexcept>
#include <string>

#include "cuda/refine/generic_kernel.h"
#include "simt_host/launch_shape.h"

namespace dtag {

simt::Device& simt::device() {
  static Device device;
  return device;
}

namespace cuda {
namespace {

template <class Tile>
void launch(const GenericParams& params, const Choice& choice) {
  simt::launch(shape_of(choice, 1, kThreads), [&] {
    params.variants ? gpu::generic_kernel<Tile, true>(params) : gpu::generic_kernel<Tile, false>(params);
  });
}

}  // namespace

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
