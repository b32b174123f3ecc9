#include "core/kernels/kernel_set.h"

#if defined(STERNA_X86)
#include "core/kernels/matrix_conv/amx.h"
#endif

namespace sterna {

namespace scalar {
extern const KernelSet kKernels;
}
#if defined(STERNA_X86)
namespace avx2 {
extern const KernelSet kKernels;
}
namespace avx512 {
extern const KernelSet kKernels;
}
#elif defined(STERNA_NEON)
namespace neon {
extern const KernelSet kKernels;
}
#elif defined(STERNA_WASM)
namespace wasm {
extern const KernelSet kKernels;
}
#endif

#if defined(STERNA_X86)
// The kernels of AVX-512, and one more.
static const KernelSet& amx_kernels() {
    static const KernelSet kKernels = [] {
        KernelSet set = avx512::kKernels;
        set.matrix_conv = &amx::matrix_conv;
        return set;
    }();
    return kKernels;
}
#endif

const KernelSet& kernels(Isa isa) {
    switch (isa) {
#if defined(STERNA_X86)
        case Isa::kAvx2:
            return avx2::kKernels;
        case Isa::kAvx512:
            return avx512::kKernels;
        case Isa::kAmx:
            return amx_kernels();
#elif defined(STERNA_NEON)
        case Isa::kNeon:
            return neon::kKernels;
#elif defined(STERNA_WASM)
        case Isa::kWasm:
            return wasm::kKernels;
#endif
        default:
            return scalar::kKernels;
    }
}

}  // namespace sterna
