// Dense convolutions with fewer products (core/kernels/fast_conv/fast_conv.h).
#pragma once

#include "core/engine/conv_plan.h"
#include "core/engine/plan.h"

namespace sterna {

// False, and the step as it was, where no kernel takes the layer.
bool plan_fast(const ConvRequest& request, Step& step);

bool can_be_fast(const ConvRequest& request);
// Whether it is worth it, by its products: for where nothing is measured.
bool gains_by_fast(const ConvRequest& request);

// What kernels are told of it, but for the input, the output and what follows the sums.
FastConv fast_conv_of(const ConvData& data);

}  // namespace sterna
