// libFuzzer target of the trit coder. The first five bytes choose a shape, the rest is read twice: as coded bytes,
// which must be refused or decoded to trits, and as trits, which must survive a round trip.
#include "core/codec/trit_coder.h"

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "core/base/buffer.h"
#include "core/codec/range_coder.h"

namespace {

constexpr std::size_t kMaxRank = 5;

void require(bool holds) {
    if (!holds) std::abort();
}

sterna::KernelShape shape_of(const std::uint8_t* data, std::uint64_t& weights) {
    const std::size_t rank = data[0] % kMaxRank;
    std::uint64_t axes[kMaxRank] = {};
    weights = 1;
    for (std::size_t axis = 0; axis < rank; ++axis) {
        // Sizes 0 to 36 on the two outer axes, 0 to 8 on the inner ones: kernels beyond the 32 positions included.
        axes[axis] = data[1 + axis] % (axis < 2 ? 37 : 9);
        weights *= axes[axis];
    }
    sterna::KernelShape shape;
    require(sterna::kernel_shape(axes, rank, shape) == sterna::Status::kOk);
    return shape;
}

void decode_hostile(const std::uint8_t* data, std::size_t size, const sterna::KernelShape& shape,
                    std::uint64_t weights) {
    sterna::Buffer<std::int8_t> trits;
    require(trits.assign(weights, 0) == sterna::Status::kOk);
    if (sterna::decode_trits(data, size, shape, trits.data()) != sterna::Status::kOk) return;
    for (std::uint64_t i = 0; i < weights; ++i) require(trits[i] >= -1 && trits[i] <= 1);
}

void round_trip(const std::uint8_t* data, std::size_t size, const sterna::KernelShape& shape, std::uint64_t weights) {
    sterna::Buffer<std::int8_t> trits;
    sterna::Buffer<std::int8_t> decoded;
    require(trits.assign(weights, 0) == sterna::Status::kOk);
    require(decoded.assign(weights, 0) == sterna::Status::kOk);
    for (std::uint64_t i = 0; i < weights && size != 0; ++i) {
        trits[i] = static_cast<std::int8_t>(data[i % size] % 3 - 1);
    }
    sterna::Buffer<std::uint8_t> bytes;
    require(sterna::encode_trits(trits.data(), shape, bytes) == sterna::Status::kOk);
    require(sterna::decode_trits(bytes.data(), bytes.size(), shape, decoded.data()) == sterna::Status::kOk);
    require(weights == 0 || std::memcmp(trits.data(), decoded.data(), weights) == 0);
    require(weights <= (bytes.size() + 4) * sterna::kMaxWeightsPerByte);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < kMaxRank) return 0;
    std::uint64_t weights = 0;
    const sterna::KernelShape shape = shape_of(data, weights);
    if (weights > 100000) return 0;
    decode_hostile(data + kMaxRank, size - kMaxRank, shape, weights);
    round_trip(data + kMaxRank, size - kMaxRank, shape, weights);
    return 0;
}
