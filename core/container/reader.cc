#include "core/container/reader.h"

#include <cstring>

#include "core/base/varint.h"
#include "core/codec/byte_model.h"
#include "core/codec/number_coder.h"
#include "core/codec/text_coder.h"
#include "core/container/crc32.h"

namespace sterna {
namespace {

Fault refuse(Cause cause, const char* message, std::uint64_t offset) {
    return {cause, message, offset, false, 0, 0};
}

Fault refuse(Cause cause, const char* message, std::uint64_t offset, std::uint64_t got, std::uint64_t allowed) {
    return {cause, message, offset, true, got, allowed};
}

// A failure of a coder while `cause` was read.
Fault from_status(Status status, Cause cause, std::uint64_t offset) {
    if (status == Status::kOk) return {};
    return refuse(status == Status::kOutOfMemory ? Cause::kMemory : cause, message(status), offset);
}

std::uint32_t read_u32(const std::uint8_t* bytes) {
    return bytes[0] | std::uint32_t{bytes[1]} << 8 | std::uint32_t{bytes[2]} << 16 | std::uint32_t{bytes[3]} << 24;
}

std::uint32_t read_u16(const std::uint8_t* bytes) {
    return bytes[0] | std::uint32_t{bytes[1]} << 8;
}

bool is_known(std::uint8_t kind) {
    return kind <= static_cast<std::uint8_t>(SectionKind::kGraph);
}

bool is(const SectionInfo& section, SectionKind kind) {
    return section.kind == static_cast<std::uint8_t>(kind);
}

std::size_t to_size(std::uint64_t value) {
    return static_cast<std::size_t>(value);
}

// Whether `size` coded bytes can stand for `count` things, of which a byte holds at most `per_byte`.
bool can_hold(std::uint64_t size, std::uint64_t count, std::uint64_t per_byte) {
    return count / per_byte <= size + kSlackBytes;
}

}  // namespace

const char* name(Cause cause) {
    switch (cause) {
        case Cause::kNone:
            return "none";
        case Cause::kMemory:
            return "memory";
        case Cause::kTruncated:
            return "truncated";
        case Cause::kMagic:
            return "magic";
        case Cause::kVersion:
            return "version";
        case Cause::kChecksum:
            return "checksum";
        case Cause::kReserved:
            return "reserved";
        case Cause::kSections:
            return "sections";
        case Cause::kText:
            return "text";
        case Cause::kTable:
            return "table";
        case Cause::kLimit:
            return "limit";
        case Cause::kRatio:
            return "ratio";
        case Cause::kCoverage:
            return "coverage";
        case Cause::kTrits:
            return "trits";
        case Cause::kArrays:
            return "arrays";
    }
    return "unknown";
}

Fault Reader::open(const std::uint8_t* bytes, std::size_t size, bool whole_checksum) {
    *this = Reader();
    bytes_ = bytes;
    size_ = size;
    if (const Fault fault = check_frame(whole_checksum)) return fault;
    if (const Fault fault = find_sections()) return fault;
    if (const Fault fault = read_table()) return fault;
    if (const Fault fault = list_arrays()) return fault;
    for (std::uint32_t i = 0; i < sections_.size(); ++i) {
        if (const Fault fault = read_section(i)) return fault;
    }
    // The slack of every chunk added up must not let a small file claim much memory.
    std::uint64_t trits = 0;
    for (std::size_t i = 0; i < chunks_.size(); ++i) trits += chunks_[i].elements();
    if (!can_hold(size_, trits, kMaxTritsPerByte)) {
        return refuse(Cause::kRatio, "so small a file cannot hold its trits", 0, trits,
                      (size_ + kSlackBytes) * kMaxTritsPerByte);
    }
    while (next_tensor_ < tensors_.size() && tensors_[next_tensor_].kind != TensorKind::kTrits) ++next_tensor_;
    if (next_tensor_ < tensors_.size() || next_array_ < arrays_.size()) {
        return refuse(Cause::kCoverage, "the sections do not hold all tensors", size_);
    }
    return {};
}

// A section that is there; the table of tensors is read by itself.
Fault Reader::read_section(std::uint32_t index) {
    const SectionInfo& section = sections_[index];
    if (is(section, SectionKind::kTrits) || is(section, SectionKind::kArrays) || is(section, SectionKind::kMetadata) ||
        is(section, SectionKind::kGraph)) {
        if (const Fault fault = check_section(index)) return fault;
    }
    if (is(section, SectionKind::kMetadata)) return read_text(section, kMaxTextBytes, metadata_);
    if (is(section, SectionKind::kGraph)) return read_text(section, kMaxGraphBytes, graph_);
    if (is(section, SectionKind::kTrits)) return list_trits(index);
    if (is(section, SectionKind::kArrays)) return assign_arrays(index);
    return {};
}

Fault Reader::look(const std::uint8_t* bytes, std::size_t size) {
    bytes_ = bytes;
    size_ = size;
    while (size_ >= worth_looking_) {
        if (next_section_ == kPrefixBytes && sections_.size() == 0) {
            if (const Fault fault = check_prefix()) return fault;
        }
        if (const Fault fault = is_inside_ ? look_into_section() : look_at_head()) return fault;
    }
    return {};
}

Fault Reader::look_at_head() {
    worth_looking_ = next_section_ + kSectionHeaderBytes;
    if (size_ < worth_looking_) return {};
    if (bytes_[next_section_] == static_cast<std::uint8_t>(SectionKind::kEnd)) {
        worth_looking_ = ~std::uint64_t{0};
        return {};
    }
    SectionInfo section;
    if (const Fault fault = read_head(next_section_, section)) return fault;
    if (const Status status = sections_.push_back(section); status != Status::kOk) {
        return from_status(status, Cause::kMemory, next_section_);
    }
    next_section_ = section.offset + section.size + kChecksumBytes;
    worth_looking_ = is(section, SectionKind::kTrits) ? section.offset : next_section_;
    is_inside_ = true;
    is_listed_ = false;
    return {};
}

// The last section, of which more is there than before.
Fault Reader::look_into_section() {
    const auto index = static_cast<std::uint32_t>(sections_.size() - 1);
    const SectionInfo section = sections_[index];
    const bool is_whole = size_ >= next_section_;
    if (is(section, SectionKind::kTrits) && !is_listed_ && !is_whole) {
        // How long their list is it does not say: each attempt has twice the bytes of the one before.
        const auto first_chunk = static_cast<std::uint32_t>(chunks_.size());
        const std::uint32_t first_tensor = next_tensor_;
        is_listed_ = !list_trits(index);
        worth_looking_ = next_section_;
        if (is_listed_) return {};
        chunks_.shrink(first_chunk);
        next_tensor_ = first_tensor;
        const std::uint64_t more = size_ + bytes_there(section) + kSlackBytes;
        worth_looking_ = more < next_section_ ? more : next_section_;
        return {};
    }
    if (is_listed_) {
        if (const Fault fault = check_section(index)) return fault;
    } else if (index == 0) {
        if (const Fault fault = read_table()) return fault;
        if (const Fault fault = list_arrays()) return fault;
    } else if (const Fault fault = read_section(index)) {
        return fault;
    }
    is_inside_ = false;
    worth_looking_ = next_section_;
    return {};
}

Fault Reader::check_prefix() const {
    if (std::memcmp(bytes_, kMagic.data(), kMagic.size()) != 0) {
        return refuse(Cause::kMagic, "not a .sterna file: it does not begin with the magic bytes", 0);
    }
    const std::uint32_t version = read_u16(bytes_ + 8);
    if (version != kVersion) {
        return refuse(Cause::kVersion, "the file needs a Sterna that reads its version", 8, version, kVersion);
    }
    return {};
}

// What can be said of a file before its sections: prefix, end, and the checksum of all between.
Fault Reader::check_frame(bool whole_checksum) const {
    constexpr std::size_t kLeast = kPrefixBytes + kEndBytes;
    if (size_ < kPrefixBytes) return refuse(Cause::kTruncated, "a file has at least 28 bytes", 0, size_, kLeast);
    if (const Fault fault = check_prefix()) return fault;
    if (size_ < kLeast) return refuse(Cause::kTruncated, "a file has at least 28 bytes", 0, size_, kLeast);
    const std::uint64_t end = size_ - kEndBytes;
    const std::uint8_t* const last = bytes_ + end;
    if (last[0] != 0 || last[1] != 0 || read_u16(last + 2) != 1 || read_u32(last + 4) != 4) {
        return refuse(Cause::kTruncated, "the file does not end with an end section: it is cut off or goes on", end);
    }
    if (whole_checksum && crc32(bytes_, to_size(end)) != read_u32(last + kSectionHeaderBytes)) {
        return refuse(Cause::kChecksum, "the checksum of the file does not match: it is damaged", end);
    }
    if (crc32(last, kSectionHeaderBytes + 4) != read_u32(last + kSectionHeaderBytes + 4)) {
        return refuse(Cause::kChecksum, "the checksum of the end section does not match", end);
    }
    if (read_u16(bytes_ + 10) != 0) {
        return refuse(Cause::kReserved, "reserved bits must be 0", 10, read_u16(bytes_ + 10), 0);
    }
    return {};
}

Fault Reader::find_sections() {
    const std::uint64_t end = size_ - kEndBytes;
    for (std::uint64_t at = kPrefixBytes; at != end;) {
        if (end - at < kSectionHeaderBytes + kChecksumBytes) {
            return refuse(Cause::kSections, "a section does not fit before the end section", at);
        }
        const std::uint64_t payload = read_u32(bytes_ + at + 4);
        const std::uint64_t room = end - at - kSectionHeaderBytes - kChecksumBytes;
        if (payload > room) {
            return refuse(Cause::kSections, "a section is longer than the file", at, payload, room);
        }
        SectionInfo section;
        if (const Fault fault = read_head(at, section)) return fault;
        if (const Status status = sections_.push_back(section); status != Status::kOk) {
            return from_status(status, Cause::kMemory, at);
        }
        at = section.offset + section.size + kChecksumBytes;
    }
    if (sections_.size() == 0) return refuse(Cause::kSections, "the table of tensors is missing", kPrefixBytes);
    return {};
}

// What the head of a section says, and whether it may follow those that are listed.
Fault Reader::read_head(std::uint64_t at, SectionInfo& section) const {
    const std::uint8_t* const head = bytes_ + at;
    section.kind = head[0];
    section.is_optional = (head[1] & kOptional) != 0;
    section.offset = at + kSectionHeaderBytes;
    section.size = read_u32(head + 4);
    if ((head[1] & ~kOptional) != 0) return refuse(Cause::kReserved, "reserved flags must be 0", at + 1, head[1], 1);
    if (!is_known(section.kind)) {
        if (!section.is_optional) {
            const std::uint32_t needed = read_u16(head + 2);
            return refuse(Cause::kVersion, "a section needs a Sterna that reads its version", at, needed, kVersion);
        }
    } else if (section.is_optional != (is(section, SectionKind::kMetadata) || is(section, SectionKind::kGraph))) {
        return refuse(Cause::kSections, "a section of this kind has another flag", at + 1, head[1], head[1] ^ 1u);
    }
    return check_order(section, at);
}

// Whether a section may follow those that are listed.
Fault Reader::check_order(const SectionInfo& section, std::uint64_t at) const {
    const std::size_t place = sections_.size();
    if ((place == 0) != is(section, SectionKind::kTensors)) {
        return refuse(Cause::kSections, "the first section, and no other, is the table of tensors", at);
    }
    if (is(section, SectionKind::kMetadata) && place != 1) {
        return refuse(Cause::kSections, "metadata follow the table of tensors", at);
    }
    const bool follows_metadata = place == 2 && is(sections_[1], SectionKind::kMetadata);
    if (is(section, SectionKind::kGraph) && place != 1 && !follows_metadata) {
        return refuse(Cause::kSections, "the graph follows the metadata or the table of tensors", at);
    }
    if (is(section, SectionKind::kEnd)) return refuse(Cause::kSections, "bytes follow the end section", at);
    return {};
}

Fault Reader::check_section(std::size_t index) const {
    const SectionInfo& section = sections_[index];
    const std::uint64_t begin = section.offset - kSectionHeaderBytes;
    const std::uint64_t size = section.size + kSectionHeaderBytes;
    if (crc32(bytes_ + begin, to_size(size)) != read_u32(bytes_ + begin + size)) {
        return refuse(Cause::kChecksum, "the checksum of a section does not match: it is damaged", begin);
    }
    return {};
}

Fault Reader::read_text(const SectionInfo& section, std::uint64_t most, Buffer<std::uint8_t>& text) const {
    const std::uint8_t* const payload = bytes_ + section.offset;
    std::size_t position = 0;
    std::uint64_t size = 0;
    Status status = get_varint(payload, to_size(section.size), position, size);
    if (status != Status::kOk) return from_status(status, Cause::kText, section.offset);
    if (size > most) return refuse(Cause::kLimit, "a text is too long", section.offset, size, most);
    const std::uint64_t coded = section.size - position;
    if (!can_hold(coded, size, kMaxBytesPerByte)) {
        return refuse(Cause::kRatio, "so few bytes cannot hold a text of this size", section.offset, size,
                      (coded + kSlackBytes) * kMaxBytesPerByte);
    }
    status = text.assign(size, 0);
    if (status == Status::kOk) status = decode_text(payload + position, to_size(coded), text.data(), to_size(size));
    return from_status(status, Cause::kText, section.offset);
}

Fault Reader::read_table() {
    if (const Fault fault = check_section(0)) return fault;
    if (const Fault fault = read_text(sections_[0], kMaxTextBytes, table_text_)) return fault;
    const std::uint64_t offset = sections_[0].offset;
    std::size_t position = 0;
    std::uint64_t count = 0;
    const Status status = get_varint(table_text_.data(), table_text_.size(), position, count);
    if (status != Status::kOk) return from_status(status, Cause::kTable, offset);
    if (count > kMaxTensors) return refuse(Cause::kLimit, "too many tensors", offset, count, kMaxTensors);
    std::uint64_t total = 0;
    for (std::uint64_t i = 0; i < count; ++i) {
        TensorInfo tensor;
        if (const Fault fault = read_tensor(position, tensor)) return fault;
        total += tensor.elements;
        if (total > kMaxTotalElements) {
            return refuse(Cause::kLimit, "too many elements of all tensors", offset, total, kMaxTotalElements);
        }
        if (const Status added = tensors_.push_back(tensor); added != Status::kOk) {
            return from_status(added, Cause::kMemory, offset);
        }
    }
    if (position != table_text_.size()) return refuse(Cause::kTable, "bytes follow the last tensor", offset);
    return {};
}

Fault Reader::read_tensor(std::size_t& position, TensorInfo& tensor) const {
    const std::uint64_t offset = sections_[0].offset;
    const std::uint8_t* const text = table_text_.data();
    const std::size_t size = table_text_.size();
    std::uint64_t name_size = 0;
    const Status status = get_varint(text, size, position, name_size);
    if (status != Status::kOk) return from_status(status, Cause::kTable, offset);
    if (name_size > kMaxNameBytes) {
        return refuse(Cause::kLimit, "the name of a tensor is too long", offset, name_size, kMaxNameBytes);
    }
    if (size - position < name_size + 3) return refuse(Cause::kTable, "the table of tensors ends within one", offset);
    tensor.name_begin = static_cast<std::uint32_t>(position);
    tensor.name_size = static_cast<std::uint32_t>(name_size);
    position += to_size(name_size);
    const std::uint8_t kind = text[position++];
    const std::uint8_t scale = text[position++];
    tensor.rank = text[position++];
    if (kind >= kNumTensorKinds)
        return refuse(Cause::kTable, "unknown kind of tensor", offset, kind, kNumTensorKinds - 1);
    if (scale >= kNumScaleKinds)
        return refuse(Cause::kTable, "unknown kind of scale", offset, scale, kNumScaleKinds - 1);
    if (tensor.rank > kMaxAxes)
        return refuse(Cause::kLimit, "too many axes of a tensor", offset, tensor.rank, kMaxAxes);
    tensor.kind = static_cast<TensorKind>(kind);
    tensor.scale = static_cast<ScaleKind>(scale);
    const bool scale_per_filter =
        tensor.scale == ScaleKind::kFloat16OfFilter || tensor.scale == ScaleKind::kFloat32OfFilter;
    const bool may_have_scale = tensor.kind == TensorKind::kTrits || tensor.kind == TensorKind::kScaledInt8;
    if ((tensor.scale != ScaleKind::kNone && !may_have_scale) || (scale_per_filter && tensor.rank == 0) ||
        (tensor.scale == ScaleKind::kNone && tensor.kind == TensorKind::kScaledInt8)) {
        return refuse(Cause::kTable, "a tensor of this kind and rank has another scale", offset, scale, 0);
    }
    tensor.elements = 1;
    for (std::size_t axis = 0; axis < tensor.rank; ++axis) {
        std::uint64_t length = 0;
        const Status read = get_varint(text, size, position, length);
        if (read != Status::kOk) return from_status(read, Cause::kTable, offset);
        if (length > kMaxElements || (length != 0 && tensor.elements > kMaxElements / length)) {
            return refuse(Cause::kLimit, "too many elements of a tensor", offset, length, kMaxElements);
        }
        tensor.shape[axis] = length;
        tensor.elements *= length;
    }
    return {};
}

Fault Reader::list_arrays() {
    for (std::uint32_t i = 0; i < tensors_.size(); ++i) {
        const TensorInfo& tensor = tensors_[i];
        KeptArray array;
        array.tensor = i;
        if (tensor.kind != TensorKind::kTrits) {
            array.width = width_of(tensor.kind);
            array.elements = tensor.elements;
            const Status status = arrays_.push_back(array);
            if (status != Status::kOk) return from_status(status, Cause::kMemory, 0);
        }
        if (tensor.scale == ScaleKind::kNone) continue;
        const bool is_half = tensor.scale == ScaleKind::kFloat16OfAll || tensor.scale == ScaleKind::kFloat16OfFilter;
        const bool is_one = tensor.scale == ScaleKind::kFloat16OfAll || tensor.scale == ScaleKind::kFloat32OfAll;
        array.is_scale = true;
        array.width = is_half ? 2 : 4;
        array.elements = is_one ? 1 : tensor.shape[0];
        const Status status = arrays_.push_back(array);
        if (status != Status::kOk) return from_status(status, Cause::kMemory, 0);
    }
    return {};
}

// Bytes of the payload that are there: all of them, except while a file is on its way.
std::size_t Reader::bytes_there(const SectionInfo& section) const {
    const std::uint64_t there = size_ - section.offset;
    return to_size(section.size < there ? section.size : there);
}

// Takes no byte beyond the list of the chunks.
Fault Reader::list_trits(std::uint32_t index) {
    SectionInfo& section = sections_[index];
    std::size_t position = 0;
    std::uint64_t count = 0;
    const Status status = get_varint(bytes_ + section.offset, bytes_there(section), position, count);
    if (status != Status::kOk) return from_status(status, Cause::kTrits, section.offset);
    section.first = static_cast<std::uint32_t>(chunks_.size());
    for (std::uint64_t i = 0; i < count; ++i, ++next_tensor_) {
        while (next_tensor_ < tensors_.size() && tensors_[next_tensor_].kind != TensorKind::kTrits) ++next_tensor_;
        if (next_tensor_ >= tensors_.size()) {
            return refuse(Cause::kCoverage, "a section holds more ternary tensors than there are", section.offset);
        }
        if (const Fault fault = list_trit_tensor(index, next_tensor_, position)) return fault;
    }
    section.count = static_cast<std::uint32_t>(chunks_.size()) - section.first;
    for (std::size_t i = 0; i < section.count; ++i) {
        TritChunk& chunk = chunks_[section.first + i];
        chunk.offset = section.offset + position;
        if (chunk.size > section.size - position) {
            return refuse(Cause::kCoverage, "coded trits reach beyond their section", chunk.offset, chunk.size,
                          section.size - position);
        }
        position += to_size(chunk.size);
    }
    if (position != section.size) {
        return refuse(Cause::kCoverage, "bytes follow the last trits of a section", section.offset + position);
    }
    return {};
}

// The description of one tensor: its coder, its filters a chunk, and the sizes of its chunks.
Fault Reader::list_trit_tensor(std::uint32_t section_index, std::uint32_t tensor_index, std::size_t& position) {
    const SectionInfo& section = sections_[section_index];
    const TensorInfo& tensor = tensors_[tensor_index];
    const std::uint8_t* const payload = bytes_ + section.offset;
    const std::size_t there = bytes_there(section);
    KernelShape whole;
    Status status = kernel_shape(tensor.shape.data(), tensor.rank, whole);
    if (status != Status::kOk) return from_status(status, Cause::kLimit, section.offset);
    std::uint64_t coder = 0;
    std::uint64_t filters = 0;
    status = get_varint(payload, there, position, coder);
    if (status == Status::kOk) status = get_varint(payload, there, position, filters);
    if (status != Status::kOk) return from_status(status, Cause::kTrits, section.offset);
    if (coder >= kNumTritCoders) {
        return refuse(Cause::kVersion, "trits need a Sterna that knows their coder", section.offset, coder,
                      kNumTritCoders - 1);
    }
    const bool is_empty = tensor.elements == 0;
    if (is_empty ? filters != 0 : filters == 0 || filters > whole.filters) {
        return refuse(Cause::kTrits, "filters of a chunk of trits", section.offset, filters,
                      is_empty ? 0 : whole.filters);
    }
    const std::uint64_t weights_per_filter = is_empty ? 0 : tensor.elements / whole.filters;
    for (std::uint64_t first = 0; !is_empty && first < whole.filters; first += filters) {
        TritChunk chunk;
        chunk.tensor = tensor_index;
        chunk.section = section_index;
        chunk.coder = static_cast<TritCoder>(coder);
        chunk.begin = first * weights_per_filter;
        chunk.shape = whole;
        chunk.shape.filters = whole.filters - first < filters ? whole.filters - first : filters;
        status = get_varint(payload, there, position, chunk.size);
        if (status != Status::kOk) return from_status(status, Cause::kTrits, section.offset);
        if (!can_hold(chunk.size, chunk.elements(), kMaxTritsPerByte)) {
            return refuse(Cause::kRatio, "so few bytes cannot hold these trits", section.offset, chunk.elements(),
                          (chunk.size + kSlackBytes) * kMaxTritsPerByte);
        }
        status = chunks_.push_back(chunk);
        if (status != Status::kOk) return from_status(status, Cause::kMemory, section.offset);
    }
    return {};
}

Fault Reader::assign_arrays(std::uint32_t index) {
    SectionInfo& section = sections_[index];
    std::size_t position = 0;
    std::uint64_t count = 0;
    const Status status = get_varint(bytes_ + section.offset, to_size(section.size), position, count);
    if (status != Status::kOk) return from_status(status, Cause::kArrays, section.offset);
    if (count > arrays_.size() - next_array_) {
        return refuse(Cause::kCoverage, "a section holds more arrays than there are", section.offset, count,
                      arrays_.size() - next_array_);
    }
    section.first = next_array_;
    section.count = static_cast<std::uint32_t>(count);
    std::uint64_t total = 0;
    for (std::uint32_t i = 0; i < section.count; ++i) {
        KeptArray& array = arrays_[next_array_++];
        array.section = index;
        total += array.elements * array.width;
    }
    if (!can_hold(section.size, total, kMaxBytesPerByte)) {
        return refuse(Cause::kRatio, "so few bytes cannot hold these arrays", section.offset, total,
                      (section.size + kSlackBytes) * kMaxBytesPerByte);
    }
    return {};
}

Fault Reader::read_chunk(const TritChunk& chunk, std::int8_t* trits) const {
    const Status status = decode_trits(chunk.coder, bytes_ + chunk.offset, to_size(chunk.size), chunk.shape, trits);
    return from_status(status, Cause::kTrits, chunk.offset);
}

Fault Reader::read_arrays(std::size_t index, std::uint8_t* const* destinations) const {
    const SectionInfo& section = sections_[index];
    std::size_t position = 0;
    std::uint64_t count = 0;
    const Status status = get_varint(bytes_ + section.offset, to_size(section.size), position, count);
    if (status != Status::kOk) return from_status(status, Cause::kArrays, section.offset);
    for (const unsigned width : {1u, 2u, 4u, 8u}) {
        if (const Fault fault = read_width(index, width, position, destinations)) return fault;
    }
    if (position != section.size) {
        return refuse(Cause::kArrays, "bytes follow the last array of a section", section.offset + position);
    }
    return {};
}

// The arrays of one element size, one after the other as if they were one, in chunks.
Fault Reader::read_width(std::size_t index, unsigned width, std::size_t& position,
                         std::uint8_t* const* destinations) const {
    const SectionInfo& section = sections_[index];
    const std::uint8_t* const payload = bytes_ + section.offset;
    std::uint64_t left = 0;
    for (std::size_t i = 0; i < section.count; ++i) {
        const KeptArray& array = arrays_[section.first + i];
        if (array.width == width) left += array.elements;
    }
    Buffer<std::uint8_t> chunk;
    std::size_t array = 0;
    std::uint64_t done = 0;  // elements of that array
    while (left != 0) {
        const std::uint64_t numbers = left < kNumbersPerChunk ? left : kNumbersPerChunk;
        left -= numbers;
        std::uint64_t size = 0;
        Status status = get_varint(payload, to_size(section.size), position, size);
        if (status == Status::kOk && size > section.size - position) status = Status::kTruncated;
        if (status == Status::kOk) status = chunk.assign(numbers * width, 0);
        if (status == Status::kOk) {
            status = decode_numbers(payload + position, to_size(size), chunk.data(), to_size(numbers), width);
        }
        if (status != Status::kOk) return from_status(status, Cause::kArrays, section.offset + position);
        position += to_size(size);
        for (std::uint64_t taken = 0; taken < numbers;) {
            const KeptArray& kept = arrays_[section.first + array];
            if (kept.width != width || done == kept.elements) {
                ++array;
                done = 0;
                continue;
            }
            const std::uint64_t open = kept.elements - done;
            const std::uint64_t part = open < numbers - taken ? open : numbers - taken;
            std::memcpy(destinations[array] + done * width, chunk.data() + taken * width, to_size(part * width));
            taken += part;
            done += part;
        }
    }
    return {};
}

}  // namespace sterna
