#include "core/kernels/isa.h"

#include <initializer_list>

#include "core/kernels/amx_state.h"

namespace sterna {

const char* name(Isa isa) {
    switch (isa) {
        case Isa::kScalar:
            return "scalar";
        case Isa::kAvx2:
            return "avx2";
        case Isa::kAvx512:
            return "avx512";
        case Isa::kAmx:
            return "amx";
        case Isa::kNeon:
            return "neon";
        case Isa::kWasm:
            return "wasm";
    }
    return "unknown";
}

bool is_available(Isa isa) {
    switch (isa) {
        case Isa::kScalar:
            return true;
#if defined(STERNA_X86)
        case Isa::kAvx2:
            return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
        case Isa::kAvx512:
            return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                   __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma");
        case Isa::kAmx:
            return is_available(Isa::kAvx512) && amx_state() == AmxState::kUsable;
#elif defined(STERNA_NEON)
        case Isa::kNeon:
            return true;
#elif defined(STERNA_WASM)
        case Isa::kWasm:
            return true;
#endif
        default:
            return false;
    }
}

Isa best_isa() {
    for (const Isa isa : {Isa::kAmx, Isa::kAvx512, Isa::kAvx2, Isa::kNeon, Isa::kWasm}) {
        if (is_available(isa)) return isa;
    }
    return Isa::kScalar;
}

}  // namespace sterna
