// A broken rule in words.
#pragma once

#include <string>

#include "core/container/reader.h"

namespace sterna {

// "cause: what is wrong (at offset N): got X, allowed Y".
inline std::string to_text(const Fault& fault) {
    std::string text =
        std::string(name(fault.cause)) + ": " + fault.message + " (at offset " + std::to_string(fault.offset) + ")";
    if (fault.has_numbers) {
        text += ": got " + std::to_string(fault.got) + ", allowed " + std::to_string(fault.allowed);
    }
    return text;
}

}  // namespace sterna
