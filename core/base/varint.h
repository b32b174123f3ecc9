// Unsigned integers in bytes of seven bits, the lowest first; the eighth bit says that another byte follows.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/buffer.h"
#include "core/base/status.h"

namespace sterna {

inline Status put_varint(std::uint64_t value, Buffer<std::uint8_t>& bytes) {
    while (value > 127) {
        const auto low = static_cast<std::uint8_t>(128 | (value & 127));
        if (const Status status = bytes.push_back(low); status != Status::kOk) return status;
        value >>= 7;
    }
    return bytes.push_back(static_cast<std::uint8_t>(value));
}

// Reads at `position`, which moves on. Each value has one form: no needless zero byte at its end, and 63 bits at most.
inline Status get_varint(const std::uint8_t* bytes, std::size_t size, std::size_t& position, std::uint64_t& value) {
    value = 0;
    for (unsigned shift = 0; shift < 63; shift += 7) {
        if (position >= size) return Status::kTruncated;
        const std::uint8_t byte = bytes[position++];
        value |= std::uint64_t{byte & 127u} << shift;
        if (byte < 128) return byte == 0 && shift != 0 ? Status::kBadVarint : Status::kOk;
    }
    return Status::kBadVarint;
}

}  // namespace sterna
