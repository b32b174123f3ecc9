#include "core/testing/tile_registers.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace sterna::testing {
namespace {

void require(bool condition, const char* what) {
    if (condition) return;
    std::fprintf(stderr, "tile registers: %s\n", what);
    std::abort();
}

std::uint32_t word(const std::uint8_t* bytes) {
    std::uint32_t value = 0;
    std::memcpy(&value, bytes, sizeof(value));
    return value;
}

std::int32_t number(std::uint8_t byte, bool is_signed) {
    return is_signed ? static_cast<std::int8_t>(byte) : byte;
}

}  // namespace

void TileRegisters::configure(const void* config) {
    std::memcpy(&config_, config, sizeof(config_));
    require(config_.palette <= 1, "a palette that does not exist");
    require(config_.start_row == 0, "loads that begin in the middle");
    for (const std::uint8_t byte : config_.reserved) require(byte == 0, "a reserved byte of the shapes is not 0");
    for (unsigned tile = 0; tile < sizeof(config_.rows); ++tile) {
        const unsigned rows = config_.rows[tile], row_bytes = config_.row_bytes[tile];
        const bool exists = config_.palette == 1 && tile < kTileRegisters;
        require(exists || (rows == 0 && row_bytes == 0), "a shape for a register that does not exist");
        require(rows <= kMatrixRows && row_bytes <= kMatrixRowBytes, "a register is too small for its shape");
        require((rows == 0) == (row_bytes == 0), "a shape without rows or columns");
    }
    for (Tile& tile : tiles_) tile = Tile();
    is_configured_ = config_.palette == 1;
}

void TileRegisters::release() {
    is_configured_ = false;
    for (Tile& tile : tiles_) tile = Tile();
}

void TileRegisters::require_shape(unsigned tile) const {
    require(is_configured_, "they are used before they have shapes");
    require(tile < kTileRegisters && config_.rows[tile] != 0, "a register without a shape is used");
}

void TileRegisters::clear(unsigned tile) {
    require_shape(tile);
    tiles_[tile] = Tile();
}

void TileRegisters::load(unsigned tile, const void* from, std::ptrdiff_t stride) {
    require_shape(tile);
    tiles_[tile] = Tile();
    for (std::ptrdiff_t row = 0; row < config_.rows[tile]; ++row) {
        std::memcpy(tiles_[tile].bytes[row], static_cast<const char*>(from) + row * stride, config_.row_bytes[tile]);
    }
}

void TileRegisters::store(unsigned tile, void* to, std::ptrdiff_t stride) const {
    require_shape(tile);
    for (std::ptrdiff_t row = 0; row < config_.rows[tile]; ++row) {
        std::memcpy(static_cast<char*>(to) + row * stride, tiles_[tile].bytes[row], config_.row_bytes[tile]);
    }
}

void TileRegisters::multiply_add(unsigned sum, unsigned a, unsigned b, bool is_a_signed, bool is_b_signed) {
    for (const unsigned tile : {sum, a, b}) {
        require_shape(tile);
        require(config_.row_bytes[tile] % 4 == 0, "rows that are no multiple of four bytes are multiplied");
    }
    require(sum != a && sum != b && a != b, "a register is multiplied with itself");
    require(config_.rows[sum] == config_.rows[a] && config_.row_bytes[sum] == config_.row_bytes[b] &&
                config_.row_bytes[a] == 4u * config_.rows[b],
            "shapes do not fit each other");
    for (unsigned m = 0; m < config_.rows[sum]; ++m) {
        for (unsigned n = 0; n < config_.row_bytes[sum]; n += 4) {
            std::uint8_t* const to = tiles_[sum].bytes[m] + n;
            std::uint32_t total = word(to);
            for (unsigned k = 0; k < config_.rows[b]; ++k) {
                for (unsigned i = 0; i < 4; ++i) {
                    const std::int32_t product = number(tiles_[a].bytes[m][4 * k + i], is_a_signed) *
                                                 number(tiles_[b].bytes[k][n + i], is_b_signed);
                    total += static_cast<std::uint32_t>(product);
                }
            }
            std::memcpy(to, &total, sizeof(total));
        }
    }
}

}  // namespace sterna::testing
