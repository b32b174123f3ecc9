// Small things that all parts of the reader need.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/status.h"
#include "core/container/format.h"
#include "core/container/reader.h"

namespace sterna {

inline Fault refuse(Cause cause, const char* message, std::uint64_t offset) {
    return {cause, message, offset, false, 0, 0};
}

inline Fault refuse(Cause cause, const char* message, std::uint64_t offset, std::uint64_t got, std::uint64_t allowed) {
    return {cause, message, offset, true, got, allowed};
}

// A failure of a coder while `cause` was read.
inline Fault from_status(Status status, Cause cause, std::uint64_t offset) {
    if (status == Status::kOk) return {};
    return refuse(status == Status::kOutOfMemory ? Cause::kMemory : cause, message(status), offset);
}

inline std::uint32_t read_u32(const std::uint8_t* bytes) {
    return bytes[0] | std::uint32_t{bytes[1]} << 8 | std::uint32_t{bytes[2]} << 16 | std::uint32_t{bytes[3]} << 24;
}

inline std::uint32_t read_u16(const std::uint8_t* bytes) {
    return bytes[0] | std::uint32_t{bytes[1]} << 8;
}

inline bool is_known(std::uint8_t kind) {
    return kind <= static_cast<std::uint8_t>(SectionKind::kGraph);
}

inline bool is(const SectionInfo& section, SectionKind kind) {
    return section.kind == static_cast<std::uint8_t>(kind);
}

inline std::size_t to_size(std::uint64_t value) {
    return static_cast<std::size_t>(value);
}

// Whether `size` coded bytes can stand for `count` things, of which a byte holds at most `per_byte`.
inline bool can_hold(std::uint64_t size, std::uint64_t count, std::uint64_t per_byte) {
    return count / per_byte <= size + kSlackBytes;
}

}  // namespace sterna
