// Compiled once for each instruction set, with its compiler flags and STERNA_ISA set to its name.
#include "core/kernels/kernel_set.h"

#include "core/kernels/dense_conv/dense_conv.h"
#include "core/kernels/depthwise_conv/depthwise_conv.h"
#include "core/kernels/fast_conv/fast_conv.h"
#include "core/kernels/image_ops/elementwise.h"
#include "core/kernels/image_ops/pools.h"
#include "core/kernels/image_ops/rows.h"
#include "core/kernels/image_ops/split.h"
#include "core/kernels/packed_dot/packed_dot.h"
#include "core/kernels/sparse_conv/sparse_conv.h"

namespace sterna::STERNA_ISA {

extern const KernelSet kKernels;
const KernelSet kKernels = {
    kSparseForms,
    sizeof(kSparseForms) / sizeof(kSparseForms[0]),
    kUntunedFormFloat32,
    0,
    &sparse_gather,
    kDenseTaps,
    &dense_conv,
    &dense_dot,
    &packed_dot,
    kDepthwiseTaps,
    &depthwise_conv,
    &load_images,
    &store_images,
    &split,
    &merge,
    &flatten,
    &pool,
    &adaptive_pool,
    &resize,
    &pad,
    &map,
    &combine,
    &softmax,
    nullptr,
#if !defined(__AVX512VNNI__)
    &fast_conv,
    kVectorBytes,
#endif
};

}  // namespace sterna::STERNA_ISA
