#include "core/kernels/amx_state.h"

#if defined(STERNA_X86) && defined(__linux__)
#define STERNA_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/kernels/matrix_conv/amx.h"
#endif

namespace sterna {
namespace {

#if defined(STERNA_AMX)

struct Registers {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// All 0 if the processor has no such leaf.
Registers cpuid(unsigned leaf, unsigned subleaf) {
    Registers r;
    if (__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx) == 0) return {};
    return r;
}

// CPUID: tiles and their products of int8, and palette 1 with eight registers of sixteen rows of 64 bytes.
bool has_instructions() {
    constexpr unsigned kTile = 1u << 24, kInt8 = 1u << 25;
    if ((cpuid(7, 0).edx & (kTile | kInt8)) != (kTile | kInt8)) return false;
    const Registers palette = cpuid(0x1d, 1);
    return (palette.ebx & 0xffff) == kMatrixRowBytes && palette.ebx >> 16 >= kTileRegisters &&
           (palette.ecx & 0xffff) >= kMatrixRows;
}

// XCR0: the operating system keeps the registers and their shapes when it changes threads.
bool has_states() {
    constexpr unsigned kOsXsave = 1u << 27, kTileStates = 1u << 17 | 1u << 18;
    if ((cpuid(1, 0).ecx & kOsXsave) == 0) return false;
    unsigned low = 0, high = 0;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & kTileStates) == kTileStates;
}

// For the whole process. Refused by versions of Linux before 5.16, by what filters system calls, and where a signal
// stack is too small for the registers.
bool ask_permission() {
    constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

AmxState find_state() {
    if (!has_instructions() || !has_states()) return AmxState::kAbsent;
    if (!ask_permission()) return AmxState::kRefused;
    return amx::multiplies_correctly() ? AmxState::kUsable : AmxState::kFaulty;
}

#else

AmxState find_state() {
    return AmxState::kAbsent;
}

#endif

}  // namespace

AmxState amx_state() {
    static const AmxState kState = find_state();
    return kState;
}

const char* describe(AmxState state) {
    switch (state) {
        case AmxState::kAbsent:
            return "absent";
        case AmxState::kRefused:
            return "refused by the operating system";
        case AmxState::kFaulty:
            return "wrong products when tried";
        case AmxState::kUsable:
            return "usable";
    }
    return "unknown";
}

}  // namespace sterna
