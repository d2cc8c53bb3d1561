// What a stream tells of itself: on a GPU (launch.cu), or on the host's stand-in for one (simt_host/bindings.cpp).
#pragma once

namespace dtag::cuda {

// Whether work queued on the stream (a cudaStream_t) becomes part of a CUDA graph, or might.
bool is_capturing(void* stream);

}  // namespace dtag::cuda
