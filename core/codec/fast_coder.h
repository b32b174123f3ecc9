// Coder `fast` of ternary weights, for load time above all: interleaved rANS over groups of trits with the static
// tables of its own tensor (docs/format.md, "Coder fast").
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/buffer.h"
#include "core/base/status.h"
#include "core/codec/kernel_shape.h"

namespace sterna {

// Contract as in trit_coder.h.
Status encode_trits_fast(const std::int8_t* trits, const KernelShape& shape, Buffer<std::uint8_t>& bytes);
Status decode_trits_fast(const std::uint8_t* bytes, std::size_t size, const KernelShape& shape, std::int8_t* trits);

}  // namespace sterna
