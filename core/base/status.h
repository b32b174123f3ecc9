// Outcomes of the core: it throws nothing, prints nothing and ends no process.
#pragma once

namespace sterna {

enum class [[nodiscard]] Status {
    kOk,
    kOutOfMemory,
    kTooManyWeights,  // the shape has more weights than kMaxWeights
    kNotATrit,        // a value to encode is not -1, 0 or 1
    kTruncated,       // the coded bytes end before the last value
    kTrailingBytes,   // coded bytes are left after the last value
    kBadTable,        // a table of frequencies does not sum to one
    kBadState,        // the coder's state is one that no encoder leaves
    kUnknownCoder,    // a number that names no coder
    kBadVarint,       // an integer of more than 63 bits, or written with needless bytes
};

constexpr const char* message(Status status) {
    switch (status) {
        case Status::kOk:
            return "no error";
        case Status::kOutOfMemory:
            return "not enough memory";
        case Status::kTooManyWeights:
            return "more weights than the coder allows";
        case Status::kNotATrit:
            return "trits must be -1, 0 or 1";
        case Status::kTruncated:
            return "the coded bytes end too early";
        case Status::kTrailingBytes:
            return "bytes are left after the last value";
        case Status::kBadTable:
            return "a table of the coded trits is damaged";
        case Status::kBadState:
            return "the coded trits do not end where they must";
        case Status::kUnknownCoder:
            return "a coder that this version does not know";
        case Status::kBadVarint:
            return "an integer is too large or has needless bytes";
    }
    return "unknown status";
}

}  // namespace sterna
