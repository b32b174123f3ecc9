// The tile registers of AMX, by their instructions.
//
// Not by intrinsics: compilers take those for something that touches no memory, and move stores across them.
#pragma once

#include <cstddef>

#include "core/kernels/matrix_conv/tile_config.h"

namespace sterna::STERNA_ISA {
namespace {

// The registers have shapes, and the processor their state, as long as it lives.
class AmxTiles {
  public:
    explicit AmxTiles(const TileConfig& config) { asm volatile("ldtilecfg %0" : : "m"(config)); }
    ~AmxTiles() { asm volatile("tilerelease"); }
    AmxTiles(const AmxTiles&) = delete;
    AmxTiles& operator=(const AmxTiles&) = delete;

    template <int kTile>
    void clear() {
        asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
    }
    // Rows are `stride` bytes apart.
    template <int kTile>
    void load(const void* from, std::size_t stride) {
        asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(kTile) : "memory");
    }
    template <int kTile>
    void store(void* to, std::size_t stride) {
        asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(kTile) : "memory");
    }
    // sum[m][n] += a[m][4 k + i] * b[k][4 n + i] for all k and i < 4: int8 times uint8, in 32 bits.
    template <int kSum, int kA, int kB>
    void multiply_add() {
        asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kA), "i"(kB));
    }
};

}  // namespace
}  // namespace sterna::STERNA_ISA
