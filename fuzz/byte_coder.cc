// libFuzzer target of the coders of text and numbers. The first byte chooses the coder and the width of a number, the
// next two how many are decoded; the rest is read twice: as coded bytes, which must be refused or decoded, and as what
// is coded, which must survive a round trip.
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/base/buffer.h"
#include "core/codec/byte_model.h"
#include "core/codec/number_coder.h"
#include "core/codec/text_coder.h"
#include "fuzz/require.h"

namespace {

constexpr std::size_t kHead = 3;

sterna::Status encode(unsigned width, const std::uint8_t* data, std::size_t size, sterna::Buffer<std::uint8_t>& bytes) {
    return width == 0 ? sterna::encode_text(data, size, bytes)
                      : sterna::encode_numbers(data, size / width, width, bytes);
}

sterna::Status decode(unsigned width, const sterna::Buffer<std::uint8_t>& bytes, std::uint8_t* data, std::size_t size) {
    return width == 0 ? sterna::decode_text(bytes.data(), bytes.size(), data, size)
                      : sterna::decode_numbers(bytes.data(), bytes.size(), data, size / width, width);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < kHead || size > 4096) return 0;
    constexpr unsigned kWidths[] = {0, 1, 2, 4, 8};
    const unsigned width = kWidths[data[0] % 5];
    const std::size_t wanted = (data[1] + data[2] * 256u) % 5000;
    data += kHead;
    size -= kHead;
    if (width != 0) size -= size % width;

    sterna::Buffer<std::uint8_t> coded;
    sterna::Buffer<std::uint8_t> decoded;
    for (std::size_t i = 0; i < size; ++i) require(coded.push_back(data[i]) == sterna::Status::kOk);
    require(decoded.assign(wanted + 8, 0) == sterna::Status::kOk);
    static_cast<void>(decode(width, coded, decoded.data(), width == 0 ? wanted : wanted / width * width));

    coded.shrink(0);
    require(decoded.assign(size, 0) == sterna::Status::kOk);
    require(encode(width, data, size, coded) == sterna::Status::kOk);
    require(decode(width, coded, decoded.data(), size) == sterna::Status::kOk);
    require(size == 0 || std::memcmp(data, decoded.data(), size) == 0);
    require(size <= (coded.size() + sterna::kMaxBytesPerByte / 64) * sterna::kMaxBytesPerByte);
    return 0;
}
