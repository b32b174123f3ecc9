#include "core/engine/pool_plan.h"

#include <algorithm>

namespace sterna {

PoolShape pool_shape(const GraphNode& node) {
    const auto& a = node.attributes;
    PoolShape shape;
    shape.kernel_height = a[PoolAttribute::kKernelHeight];
    shape.kernel_width = a[PoolAttribute::kKernelWidth];
    shape.stride_height = a[PoolAttribute::kStrideHeight];
    shape.stride_width = a[PoolAttribute::kStrideWidth];
    shape.pad_top = a[PoolAttribute::kPadTop];
    shape.pad_left = a[PoolAttribute::kPadLeft];
    shape.pad_bottom = a[PoolAttribute::kPadBottom];
    shape.pad_right = a[PoolAttribute::kPadRight];
    if (node.op == Operator::kMaxPool2d) {
        shape.dilation_height = a[PoolAttribute::kDilationHeight];
        shape.dilation_width = a[PoolAttribute::kDilationWidth];
    } else {
        shape.count_include_pad = a[PoolAttribute::kCountIncludePad] != 0;
    }
    return shape;
}

std::size_t pool_scratch(const PoolShape& shape, const Shape& input, const Shape& output) {
    const std::size_t windows =
        std::size_t{output.width} * shape.stride_width + std::size_t{shape.kernel_width} * shape.dilation_width;
    const std::size_t padded = std::max(windows, std::size_t{shape.pad_left} + input.width);
    return output.height * padded + input.width + std::size_t{output.width};
}

}  // namespace sterna
