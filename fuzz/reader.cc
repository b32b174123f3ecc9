// libFuzzer target of the reader of files. A first byte that is odd means a file in parts: two bytes with the length of
// the table of tensors, the table as plain bytes, and the sections after it; an even one means a file as it is. All
// checksums are made right, so that what lies behind them is reached; then everything in the file is decoded, in memory
// of the size that the reader has accepted.
#include "core/container/reader.h"

#include <cstddef>
#include <cstdint>

#include "core/base/buffer.h"
#include "core/base/varint.h"
#include "core/codec/text_coder.h"
#include "core/container/crc32.h"
#include "core/container/format.h"
#include "fuzz/require.h"

namespace {

// Lawful, but not worth the fuzzer's time.
constexpr std::uint64_t kMaxDecoded = std::uint64_t{1} << 22;

void put_u32(std::uint8_t* at, std::uint32_t value) {
    for (unsigned byte = 0; byte < 4; ++byte) at[byte] = static_cast<std::uint8_t>(value >> 8 * byte & 255);
}

// Walks over the sections as they declare themselves and puts the right checksum behind each.
void make_checksums_right(std::uint8_t* bytes, std::size_t size) {
    if (size < sterna::kPrefixBytes + sterna::kEndBytes) return;
    const std::size_t end = size - sterna::kEndBytes;
    constexpr std::size_t kFrame = sterna::kSectionHeaderBytes + sterna::kChecksumBytes;
    for (std::size_t at = sterna::kPrefixBytes; end - at >= kFrame;) {
        const std::uint8_t* const length = bytes + at + 4;
        const std::uint64_t payload =
            length[0] | std::uint64_t{length[1]} << 8 | std::uint64_t{length[2]} << 16 | std::uint64_t{length[3]} << 24;
        if (payload > end - at - kFrame) break;
        const std::size_t framed = sterna::kSectionHeaderBytes + static_cast<std::size_t>(payload);
        put_u32(bytes + at + framed, sterna::crc32(bytes + at, framed));
        at += framed + sterna::kChecksumBytes;
    }
    constexpr std::uint8_t kEnd[sterna::kSectionHeaderBytes] = {0, 0, 1, 0, 4, 0, 0, 0};
    for (std::size_t i = 0; i < sizeof kEnd; ++i) bytes[end + i] = kEnd[i];
    put_u32(bytes + end + sterna::kSectionHeaderBytes, sterna::crc32(bytes, end));
    put_u32(bytes + size - 4, sterna::crc32(bytes + end, sterna::kSectionHeaderBytes + 4));
}

void read_trits(const sterna::Reader& reader) {
    for (std::size_t i = 0; i < reader.trit_chunks().size(); ++i) {
        const sterna::TritChunk& chunk = reader.trit_chunks()[i];
        const std::uint64_t elements = reader.tensors()[chunk.tensor].elements;
        require(chunk.begin + chunk.elements() <= elements);
        if (elements > kMaxDecoded) continue;
        sterna::Buffer<std::int8_t> trits;
        require(trits.assign(static_cast<std::size_t>(elements), 0) == sterna::Status::kOk);
        if (reader.read_trits(chunk, trits.data())) continue;
        for (std::size_t k = 0; k < trits.size(); ++k) require(trits[k] >= -1 && trits[k] <= 1);
    }
}

void read_arrays(const sterna::Reader& reader) {
    for (std::size_t i = 0; i < reader.sections().size(); ++i) {
        const sterna::SectionInfo& section = reader.sections()[i];
        if (section.kind != static_cast<std::uint8_t>(sterna::SectionKind::kArrays)) continue;
        std::uint64_t total = 0;
        for (std::size_t k = 0; k < section.count; ++k) {
            const sterna::KeptArray& array = reader.arrays()[section.first + k];
            total += array.elements * array.width;
        }
        if (total > kMaxDecoded) continue;
        sterna::Buffer<std::uint8_t> memory;
        sterna::Buffer<std::uint8_t*> destinations;
        require(memory.assign(static_cast<std::size_t>(total), 0) == sterna::Status::kOk);
        std::uint8_t* next = memory.data();
        for (std::size_t k = 0; k < section.count; ++k) {
            const sterna::KeptArray& array = reader.arrays()[section.first + k];
            require(destinations.push_back(next) == sterna::Status::kOk);
            next += array.elements * array.width;
        }
        static_cast<void>(static_cast<bool>(reader.read_arrays(i, destinations.data())));
    }
}

void append(sterna::Buffer<std::uint8_t>& bytes, const std::uint8_t* data, std::size_t size) {
    for (std::size_t i = 0; i < size; ++i) require(bytes.push_back(data[i]) == sterna::Status::kOk);
}

// A file with this table of tensors and these sections after it; checksums are still to be made.
void build(const std::uint8_t* table, std::size_t table_size, const std::uint8_t* rest, std::size_t rest_size,
           sterna::Buffer<std::uint8_t>& file) {
    constexpr std::uint8_t kRoom[sterna::kEndBytes] = {};
    constexpr std::uint8_t kHead[] = {1, 0, 0, 0, 1, 0, 1, 0};  // version, reserved, then kind, flags, version
    sterna::Buffer<std::uint8_t> payload;
    require(sterna::put_varint(table_size, payload) == sterna::Status::kOk);
    require(sterna::encode_text(table, table_size, payload) == sterna::Status::kOk);
    append(file, sterna::kMagic.data(), sterna::kMagic.size());
    append(file, kHead, sizeof kHead);
    append(file, kRoom, 4);
    put_u32(file.data() + file.size() - 4, static_cast<std::uint32_t>(payload.size()));
    append(file, payload.data(), payload.size());
    append(file, kRoom, sterna::kChecksumBytes);
    append(file, rest, rest_size);
    append(file, kRoom, sterna::kEndBytes);
}

// The same bytes in pieces, of which each lies elsewhere: what has arrived of a whole file is what it holds.
void look(const sterna::Buffer<std::uint8_t>& bytes, std::size_t piece, const sterna::Reader& whole, bool is_refused) {
    sterna::Reader reader;
    bool is_faulty = false;
    for (std::size_t size = 0; !is_faulty && size < bytes.size();) {
        size = bytes.size() - size < piece ? bytes.size() : size + piece;
        sterna::Buffer<std::uint8_t> arrived;
        append(arrived, bytes.data(), size);
        is_faulty = static_cast<bool>(reader.look(arrived.data(), arrived.size()));
        for (std::size_t i = 0; !is_faulty && i < reader.trit_chunks().size(); ++i) {
            const sterna::TritChunk& chunk = reader.trit_chunks()[i];
            if (!reader.has_arrived(chunk) || chunk.elements() > kMaxDecoded / 64) continue;
            sterna::Buffer<std::int8_t> trits;
            require(trits.assign(chunk.elements(), 0) == sterna::Status::kOk);
            static_cast<void>(static_cast<bool>(reader.read_chunk(chunk, trits.data())));
        }
    }
    if (is_refused) return;
    require(!is_faulty);
    require(reader.trit_chunks().size() == whole.trit_chunks().size());
    for (std::size_t i = 0; i < whole.trit_chunks().size(); ++i) {
        const sterna::TritChunk &one = reader.trit_chunks()[i], &other = whole.trit_chunks()[i];
        require(one.tensor == other.tensor && one.offset == other.offset && one.size == other.size);
        require(one.begin == other.begin && one.elements() == other.elements() && reader.has_arrived(one));
    }
    // The reader that has looked opens the file like another one.
    require(!reader.open(bytes.data(), bytes.size(), true));
    require(reader.trit_chunks().size() == whole.trit_chunks().size());
    require(reader.arrays().size() == whole.arrays().size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 3) return 0;
    sterna::Buffer<std::uint8_t> bytes;
    if ((data[0] & 1) != 0) {
        const std::size_t table_size = data[1] + data[2] * 256u;
        if (table_size > size - 3) return 0;
        build(data + 3, table_size, data + 3 + table_size, size - 3 - table_size, bytes);
        make_checksums_right(bytes.data(), bytes.size());
    } else {
        append(bytes, data + 1, size - 1);
        if ((data[0] & 2) != 0) make_checksums_right(bytes.data(), bytes.size());
    }
    sterna::Reader reader;
    const bool is_refused = static_cast<bool>(reader.open(bytes.data(), bytes.size(), true));
    look(bytes, data[1] + 1u, reader, is_refused);
    if (is_refused) return 0;
    read_trits(reader);
    read_arrays(reader);
    return 0;
}
