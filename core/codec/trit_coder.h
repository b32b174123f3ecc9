// Entropy coder for one ternary tensor. Format and derivation: docs/format.md, "Coder 1".
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/buffer.h"
#include "core/base/status.h"

namespace sterna {

inline constexpr std::uint64_t kMaxWeights = (std::uint64_t{1} << 31) - 1;

// How the coder sees a weight tensor: filters x channels kernels of height x width weights, the last axis fastest.
struct TritShape {
    std::uint64_t filters = 1;
    std::uint64_t channels = 1;
    std::uint64_t height = 1;
    std::uint64_t width = 1;

    // Axis 0 is filters, axis 1 channels, the last of three or more axes the width, all between them the height.
    static TritShape of(const std::uint64_t* dimensions, std::size_t num_dimensions);

    // Number of weights; kTooManyWeights beyond kMaxWeights.
    Status count(std::uint64_t* weights) const;
};

// Codes all weights in the order of memory. The bytes depend on the trits and the shape alone.
Status encode_trits(const std::int8_t* trits, const TritShape& shape, Buffer<std::uint8_t>* bytes);

// Inverse of encode_trits; `trits` has room for all weights of the shape. Any bytes are safe to give.
Status decode_trits(const std::uint8_t* bytes, std::size_t size, const TritShape& shape, std::int8_t* trits);

}  // namespace sterna
