// Outcomes of the core: it throws nothing, prints nothing and ends no process.
#pragma once

namespace sterna {

enum class [[nodiscard]] Status {
    kOk,
    kOutOfMemory,
    kTooManyWeights,  // the shape has more weights than kMaxWeights
    kNotATrit,        // a value to encode is not -1, 0 or 1
    kTruncated,       // the coded bytes end before the last weight
    kTrailingBytes,   // coded bytes are left after the last weight
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
            return "the coded trits end too early";
        case Status::kTrailingBytes:
            return "bytes are left after the coded trits";
    }
    return "unknown status";
}

}  // namespace sterna
