#include "core/codec/number_coder.h"

#include <array>

#include "core/base/varint.h"
#include "core/codec/byte_model.h"
#include "core/codec/range_coder.h"

namespace sterna {
namespace {

constexpr std::size_t kContexts = 5;

// Numbers of `width` bytes, of which planes are coded from the highest to the lowest.
struct Numbers {
    std::uint8_t* bytes;
    std::size_t count;
    unsigned width;

    std::uint8_t& at(std::size_t number, unsigned plane) const { return bytes[number * width + plane]; }
};

// Codes or decodes one plane: from the bytes before it in the plane, and from the byte above it in the same number.
template <class Coder>
Status walk_plane(Coder& coder, const Numbers& numbers, unsigned plane) {
    ByteModel<kContexts> model;
    if (const Status status = model.prepare(); status != Status::kOk) return status;
    std::array<std::uint32_t, 4> last{};
    for (std::size_t i = 0; i < numbers.count; ++i) {
        if (coder.is_exhausted()) return Status::kTruncated;
        const std::uint32_t above = plane + 1 < numbers.width ? numbers.at(i, plane + 1) : 0;
        const std::uint32_t mean = (last[0] + last[1] + last[2] + last[3]) / 4;
        std::uint8_t& byte = numbers.at(i, plane);
        byte = model.code(coder, byte, {0, last[0], above, last[0] | last[1] << 8, mean}, Guess{});
        last = {byte, last[0], last[1], last[2]};
    }
    return Status::kOk;
}

}  // namespace

Status encode_numbers(const std::uint8_t* numbers, std::size_t count, unsigned width, Buffer<std::uint8_t>& bytes) {
    // An encoder writes into its numbers what it has read there; the copy keeps the caller's out of it.
    Buffer<std::uint8_t> copy;
    if (const Status status = copy.assign(count * width, 0); status != Status::kOk) return status;
    for (std::size_t i = 0; i < copy.size(); ++i) copy[i] = numbers[i];
    const Numbers view{copy.data(), count, width};
    for (unsigned plane = width; plane-- > 0;) {
        Buffer<std::uint8_t> coded;
        RangeEncoder coder(coded);
        if (const Status status = walk_plane(coder, view, plane); status != Status::kOk) return status;
        if (const Status status = coder.finish(); status != Status::kOk) return status;
        // Noise is not worth the time of its decoder.
        const bool raw = coded.size() + coded.size() / 64 >= count;
        if (const Status status = put_varint(raw ? 0 : coded.size() + 1, bytes); status != Status::kOk) return status;
        for (std::size_t i = 0; i < (raw ? count : coded.size()); ++i) {
            const Status status = bytes.push_back(raw ? view.at(i, plane) : coded[i]);
            if (status != Status::kOk) return status;
        }
    }
    return Status::kOk;
}

Status decode_numbers(const std::uint8_t* bytes, std::size_t coded_size, std::uint8_t* numbers, std::size_t count,
                      unsigned width) {
    const Numbers view{numbers, count, width};
    std::size_t position = 0;
    for (unsigned plane = width; plane-- > 0;) {
        std::uint64_t head = 0;
        if (const Status status = get_varint(bytes, coded_size, position, head); status != Status::kOk) return status;
        const std::uint64_t size = head == 0 ? count : head - 1;
        if (size > coded_size - position) return Status::kTruncated;
        if (head == 0) {
            for (std::size_t i = 0; i < count; ++i) view.at(i, plane) = bytes[position + i];
        } else {
            RangeDecoder coder(bytes + position, static_cast<std::size_t>(size));
            if (const Status status = walk_plane(coder, view, plane); status != Status::kOk) return status;
            if (const Status status = coder.finish(); status != Status::kOk) return status;
        }
        position += static_cast<std::size_t>(size);
    }
    return position < coded_size ? Status::kTrailingBytes : Status::kOk;
}

}  // namespace sterna
