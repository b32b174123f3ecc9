// What the kernel of pools needs to know of a node.
#pragma once

#include <cstddef>

#include "core/engine/graph.h"
#include "core/engine/shapes.h"
#include "core/kernels/kernel_set.h"

namespace sterna {

// Of a node `max_pool2d` or `avg_pool2d`.
PoolShape pool_shape(const GraphNode& node);

// Floats of scratch memory: the windows' rows merged, and two rows.
std::size_t pool_scratch(const PoolShape& shape, const Shape& input, const Shape& output);

}  // namespace sterna
