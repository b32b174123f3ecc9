// Entropy coders of sparse ternary weights, by the numbers that files name them with (docs/format.md, "Coders of
// trits"):
//     decode_trits(c, encode_trits(c, t, shape), shape) == t    bit for bit
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/buffer.h"
#include "core/base/status.h"
#include "core/codec/kernel_shape.h"

namespace sterna {

enum class TritCoder : std::uint8_t {
    kSmall = 0,     // learns from contexts: for size
    kFast = 1,      // static tables: for load time
    kSmallest = 2,  // learns from more contexts: for size above all
};
inline constexpr std::uint8_t kNumTritCoders = 3;

// What no coder exceeds: a byte of code stands for at most so many trits.
inline constexpr std::uint64_t kMaxTritsPerByte = 32768;

Status encode_trits(TritCoder coder, const std::int8_t* trits, const KernelShape& shape, Buffer<std::uint8_t>& bytes);

// `trits` has room for the whole tensor. Every byte is read, none may be left.
Status decode_trits(TritCoder coder, const std::uint8_t* bytes, std::size_t size, const KernelShape& shape,
                    std::int8_t* trits);

}  // namespace sterna
