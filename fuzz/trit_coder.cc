// libFuzzer target of the coders of trits. The first byte chooses the coder, the next five a shape; the rest is read
// twice: as coded bytes, which must be refused or decoded to trits, and as trits, which must survive a round trip.
#include "core/codec/trit_coder.h"

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/base/buffer.h"
#include "fuzz/require.h"

namespace {

constexpr std::size_t kMaxRank = 5;
constexpr std::size_t kHead = 1 + kMaxRank;

sterna::KernelShape shape_of(const std::uint8_t* data) {
    const std::size_t rank = data[0] % kMaxRank;
    std::uint64_t axes[kMaxRank] = {};
    for (std::size_t axis = 0; axis < rank; ++axis) {
        // Sizes 0 to 36 on the two outer axes, 0 to 8 on the inner ones: kernels beyond the 32 positions included.
        axes[axis] = data[1 + axis] % (axis < 2 ? 37 : 9);
    }
    sterna::KernelShape shape;
    require(sterna::kernel_shape(axes, rank, shape) == sterna::Status::kOk);
    return shape;
}

void decode_hostile(sterna::TritCoder coder, const std::uint8_t* data, std::size_t size,
                    const sterna::KernelShape& shape) {
    sterna::Buffer<std::int8_t> trits;
    require(trits.assign(shape.weights(), 0) == sterna::Status::kOk);
    if (sterna::decode_trits(coder, data, size, shape, trits.data()) != sterna::Status::kOk) return;
    for (std::size_t i = 0; i < trits.size(); ++i) require(trits[i] >= -1 && trits[i] <= 1);
}

void round_trip(sterna::TritCoder coder, const std::uint8_t* data, std::size_t size, const sterna::KernelShape& shape) {
    const std::uint64_t weights = shape.weights();
    sterna::Buffer<std::int8_t> trits;
    sterna::Buffer<std::int8_t> decoded;
    require(trits.assign(weights, 0) == sterna::Status::kOk);
    require(decoded.assign(weights, 0) == sterna::Status::kOk);
    for (std::uint64_t i = 0; i < weights && size != 0; ++i) {
        trits[i] = static_cast<std::int8_t>(data[i % size] % 3 - 1);
    }
    sterna::Buffer<std::uint8_t> bytes;
    require(sterna::encode_trits(coder, trits.data(), shape, bytes) == sterna::Status::kOk);
    require(sterna::decode_trits(coder, bytes.data(), bytes.size(), shape, decoded.data()) == sterna::Status::kOk);
    require(weights == 0 || std::memcmp(trits.data(), decoded.data(), weights) == 0);
    require(weights <= (bytes.size() + 4) * sterna::kMaxTritsPerByte);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < kHead) return 0;
    const auto coder = static_cast<sterna::TritCoder>(data[0] % sterna::kNumTritCoders);
    const sterna::KernelShape shape = shape_of(data + 1);
    if (shape.weights() > 100000) return 0;
    decode_hostile(coder, data + kHead, size - kHead, shape);
    round_trip(coder, data + kHead, size - kHead, shape);
    return 0;
}
