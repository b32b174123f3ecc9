#include "core/codec/trit_coder.h"

#include "core/codec/fast_coder.h"
#include "core/codec/small_coder.h"
#include "core/codec/smallest_coder.h"

namespace sterna {

Status encode_trits(TritCoder coder, const std::int8_t* trits, const KernelShape& shape, Buffer<std::uint8_t>& bytes) {
    const std::uint64_t count = shape.weights();
    for (std::uint64_t at = 0; at < count; ++at) {
        if (trits[at] < -1 || trits[at] > 1) return Status::kNotATrit;
    }
    switch (coder) {
        case TritCoder::kSmall:
            return encode_trits_small(trits, shape, bytes);
        case TritCoder::kFast:
            return encode_trits_fast(trits, shape, bytes);
        case TritCoder::kSmallest:
            return encode_trits_smallest(trits, shape, bytes);
    }
    return Status::kUnknownCoder;
}

Status decode_trits(TritCoder coder, const std::uint8_t* bytes, std::size_t size, const KernelShape& shape,
                    std::int8_t* trits) {
    switch (coder) {
        case TritCoder::kSmall:
            return decode_trits_small(bytes, size, shape, trits);
        case TritCoder::kFast:
            return decode_trits_fast(bytes, size, shape, trits);
        case TritCoder::kSmallest:
            return decode_trits_smallest(bytes, size, shape, trits);
    }
    return Status::kUnknownCoder;
}

}  // namespace sterna
