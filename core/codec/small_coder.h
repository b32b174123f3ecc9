// Coder `small` of ternary weights, for size (docs/format.md, "Coder small"). Each trit is one or two binary decisions,
// "is it nonzero?" and "is it negative?", whose probabilities are learned from the trits before it: neighbours in the
// kernel, the input channel, the filter.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/buffer.h"
#include "core/base/status.h"
#include "core/codec/kernel_shape.h"

namespace sterna {

// Contract as in trit_coder.h.
Status encode_trits_small(const std::int8_t* trits, const KernelShape& shape, Buffer<std::uint8_t>& bytes);
Status decode_trits_small(const std::uint8_t* bytes, std::size_t size, const KernelShape& shape, std::int8_t* trits);

}  // namespace sterna
