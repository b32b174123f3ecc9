// Entropy coder of sparse ternary weights (docs/format.md, "Trits").
//
// encode_trits writes the trits of one tensor, decode_trits reads them back bit for bit:
//     decode_trits(encode_trits(t, shape), shape) == t
// Each trit is one or two binary decisions, "is it nonzero?" and "is it negative?", whose probabilities are learned
// from the trits before it: neighbours in the kernel, the input channel, the filter.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/buffer.h"
#include "core/base/status.h"

namespace sterna {

inline constexpr std::uint64_t kMaxWeights = std::uint64_t{1} << 32;

// A tensor as the coder sees it: `filters` x `channels` kernels of `rows` x `columns`, in row-major order.
struct KernelShape {
    std::uint64_t filters = 1;
    std::uint64_t channels = 1;
    std::uint64_t rows = 1;
    std::uint64_t columns = 1;
};

// The view of a tensor of any rank: (filters, channels, all other axes but the last, last axis); a tensor of one axis
// is one filter. Fails with kTooManyWeights when the product is larger than kMaxWeights.
Status kernel_shape(const std::uint64_t* shape, std::size_t rank, KernelShape& out);

Status encode_trits(const std::int8_t* trits, const KernelShape& shape, Buffer<std::uint8_t>& bytes);

// `trits` has room for the whole tensor. Every byte is read, none may be left.
Status decode_trits(const std::uint8_t* bytes, std::size_t size, const KernelShape& shape, std::int8_t* trits);

}  // namespace sterna
