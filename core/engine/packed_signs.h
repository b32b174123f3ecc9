// Signs in two bits each, in groups (packed_dot.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/kernels/kernel_types.h"

namespace sterna {

// A byte whose weights are all 0: code 1 in each place.
inline constexpr std::uint8_t kPackedZeros = 0x55;

// Writes the sign of a place among zeros; `groups` begin with place 0.
inline void pack_sign(std::size_t place, int sign, std::uint8_t* groups) {
    const std::size_t in_group = place % kPackedGroup;
    const std::size_t shift = 2 * (in_group / kPackedBytes);
    const unsigned code = static_cast<unsigned>(sign + 1);
    std::uint8_t& byte = groups[place / kPackedGroup * kPackedBytes + in_group % kPackedBytes];
    byte = static_cast<std::uint8_t>((byte & ~(3u << shift)) | code << shift);
}

}  // namespace sterna
