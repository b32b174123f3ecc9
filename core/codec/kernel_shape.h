// A ternary tensor as the coders see it (docs/format.md, "Shape").
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/status.h"

namespace sterna {

inline constexpr std::uint64_t kMaxWeights = std::uint64_t{1} << 32;

// `filters` x `channels` kernels of `rows` x `columns`, in row-major order.
struct KernelShape {
    std::uint64_t filters = 1;
    std::uint64_t channels = 1;
    std::uint64_t rows = 1;
    std::uint64_t columns = 1;

    std::uint64_t weights() const { return filters * channels * rows * columns; }
};

// The view of a tensor of any rank: (filters, channels, all other axes but the last, last axis); a tensor of one axis
// is one filter. Fails with kTooManyWeights when the product is larger than kMaxWeights.
Status kernel_shape(const std::uint64_t* shape, std::size_t rank, KernelShape& out);

}  // namespace sterna
