// Convolutions and linear layers as products of matrices.
#pragma once

#include <cstdint>
#include <vector>

#include "core/engine/conv_plan.h"
#include "core/engine/plan.h"

namespace sterna {

// A position of a kernel: the plane that it reads, counted in elements from the first one of its channel, and how far
// from the element of the output.
struct KernelPosition {
    std::int32_t plane = 0;
    std::int32_t shift = 0;
};

// Of a filter, weight `channel * positions.size() + p` is for position p. False, and the step as it was, where no
// kernel takes the layer, or a filter has so many weights that they or their inputs would take memory beyond all
// measure.
bool plan_matrices(const ConvRequest& request, const std::vector<KernelPosition>& positions,
                   std::int32_t channel_stride, Step& step);

// What kernels are told of it, but for the input, the output and what follows the sums.
MatrixConv matrix_conv_of(const ConvData& data);

}  // namespace sterna
