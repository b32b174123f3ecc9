// Coder of the arrays in a file: scales, folded batch norms, layers that are not ternary (docs/format.md, "Numbers").
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/buffer.h"
#include "core/base/status.h"

namespace sterna {

// `count` numbers of `width` bytes each (1 to 8), the lowest byte first. The bytes of one place form a plane: sign and
// exponent of neighbouring numbers are alike and compress, the low bits of a mantissa are noise and are kept as they
// are.
Status encode_numbers(const std::uint8_t* numbers, std::size_t count, unsigned width, Buffer<std::uint8_t>& bytes);

// `numbers` has room for count * width bytes. Every coded byte is read, none may be left.
Status decode_numbers(const std::uint8_t* bytes, std::size_t coded_size, std::uint8_t* numbers, std::size_t count,
                      unsigned width);

}  // namespace sterna
