// Coder `smallest` of ternary weights (docs/format.md, "Coder smallest"): like `small`, with more that learns. For
// files that are written once and kept for long: it decodes three to five times slower than `small`.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/buffer.h"
#include "core/base/status.h"
#include "core/codec/kernel_shape.h"

namespace sterna {

// Contract as in trit_coder.h.
Status encode_trits_smallest(const std::int8_t* trits, const KernelShape& shape, Buffer<std::uint8_t>& bytes);
Status decode_trits_smallest(const std::uint8_t* bytes, std::size_t size, const KernelShape& shape, std::int8_t* trits);

}  // namespace sterna
