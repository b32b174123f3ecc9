#include "core/testing/emulated_tiles.h"

// The namespace of kernels that are compiled here.
#define STERNA_ISA emulated

#include "core/kernels/matrix_conv/matrix_conv.h"
#include "core/testing/tile_registers.h"

namespace sterna::STERNA_ISA {
namespace {

class EmulatedTiles {
  public:
    explicit EmulatedTiles(const TileConfig& config) { registers_.configure(&config); }
    ~EmulatedTiles() { registers_.release(); }
    EmulatedTiles(const EmulatedTiles&) = delete;
    EmulatedTiles& operator=(const EmulatedTiles&) = delete;

    template <int kTile>
    void clear() {
        registers_.clear(kTile);
    }
    template <int kTile>
    void load(const void* from, std::size_t stride) {
        registers_.load(kTile, from, static_cast<std::ptrdiff_t>(stride));
    }
    template <int kTile>
    void store(void* to, std::size_t stride) {
        registers_.store(kTile, to, static_cast<std::ptrdiff_t>(stride));
    }
    template <int kSum, int kA, int kB>
    void multiply_add() {
        registers_.multiply_add(kSum, kA, kB, true, false);
    }

  private:
    testing::TileRegisters registers_;
};

void matrix_conv(const MatrixConv& conv, void* scratch, std::uint32_t first, std::uint32_t last) {
    multiply_matrices<EmulatedTiles>(conv, static_cast<unsigned char*>(scratch), first, last);
}

}  // namespace
}  // namespace sterna::STERNA_ISA

namespace sterna::testing {

const KernelSet& emulated_tile_kernels() {
    static const KernelSet kKernels = [] {
        KernelSet set = kernels(Isa::kScalar);
        set.matrix_conv = &STERNA_ISA::matrix_conv;
        return set;
    }();
    return kKernels;
}

}  // namespace sterna::testing
