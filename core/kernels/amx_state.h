// Whether this process may use AMX, and does.
#pragma once

#include <cstdint>

namespace sterna {

enum class AmxState : std::uint8_t {
    kAbsent,   // the processor, the operating system or this build has none
    kRefused,  // the operating system does not permit it to this process
    kFaulty,   // products were wrong when they were tried
    kUsable,
};

// Asks Linux for the permission that tile registers need, and tries them, when it is called first: a process that has
// the permission saves 8 KiB more with each thread that uses them.
AmxState amx_state();

const char* describe(AmxState state);

}  // namespace sterna
