// What the tile registers of AMX are told about their shapes: the operand of LDTILECFG, palette 1 (Intel 64 and IA-32
// Architectures Software Developer's Manual, volume 1, chapter 18).
#pragma once

#include <cstdint>

#include "core/kernels/kernel_types.h"

namespace sterna {

inline constexpr unsigned kTileRegisters = 8;

struct alignas(kAlignment) TileConfig {
    std::uint8_t palette = 1;
    std::uint8_t start_row = 0;
    std::uint8_t reserved[14] = {};
    std::uint16_t row_bytes[16] = {};  // by register; those that do not exist have 0
    std::uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

}  // namespace sterna
