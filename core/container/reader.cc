// Frame, sections and texts; tensors are in reader_tensors.cc.
#include "core/container/reader.h"

#include <cstring>

#include "core/base/varint.h"
#include "core/codec/byte_model.h"
#include "core/codec/text_coder.h"
#include "core/container/crc32.h"
#include "core/container/reading.h"

namespace sterna {

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

}  // namespace sterna
