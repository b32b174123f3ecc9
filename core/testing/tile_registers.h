// What the tile registers of AMX do, as Intel's manual says (Intel 64 and IA-32 Architectures Software Developer's
// Manual, volume 2: LDTILECFG, TILELOADD, TILESTORED, TILEZERO, TDPBSSD and its like), in plain C++. What the processor
// would refuse ends the program.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/kernels/matrix_conv/tile_config.h"

namespace sterna::testing {

class TileRegisters {
  public:
    // All registers become 0.
    void configure(const void* config);
    void release();
    void clear(unsigned tile);
    // Rows are `stride` bytes apart; what a register has beyond its shape becomes 0.
    void load(unsigned tile, const void* from, std::ptrdiff_t stride);
    void store(unsigned tile, void* to, std::ptrdiff_t stride) const;
    // sum[m][n] += a[m][4 k + i] * b[k][4 n + i] for all k and i < 4, modulo 2^32.
    void multiply_add(unsigned sum, unsigned a, unsigned b, bool is_a_signed, bool is_b_signed);

  private:
    struct Tile {
        std::uint8_t bytes[kMatrixRows][kMatrixRowBytes] = {};
    };
    void require_shape(unsigned tile) const;

    bool is_configured_ = false;
    TileConfig config_;
    Tile tiles_[kTileRegisters];
};

}  // namespace sterna::testing
