// CRC-32 as in gzip: polynomial 0xedb88320, reflected, initial value and final XOR 0xffffffff.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace sterna {

// tables[k][b] is what byte b contributes k bytes later, so that four bytes are taken at once.
constexpr std::array<std::array<std::uint32_t, 256>, 4> make_crc_tables() {
    std::array<std::array<std::uint32_t, 256>, 4> tables{};
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
        std::uint32_t crc = byte;
        for (int bit = 0; bit < 8; ++bit) crc = (crc & 1) != 0 ? crc >> 1 ^ 0xedb88320u : crc >> 1;
        tables[0][byte] = crc;
    }
    for (std::size_t k = 1; k < 4; ++k) {
        for (std::size_t byte = 0; byte < 256; ++byte) {
            const std::uint32_t crc = tables[k - 1][byte];
            tables[k][byte] = crc >> 8 ^ tables[0][crc & 255];
        }
    }
    return tables;
}
inline constexpr auto kCrcTables = make_crc_tables();

// The CRC of bytes that follow others whose CRC is `before`.
inline std::uint32_t crc32(const std::uint8_t* bytes, std::size_t size, std::uint32_t before = 0) {
    std::uint32_t crc = ~before;
    for (; size >= 4; size -= 4, bytes += 4) {
        crc ^= bytes[0] | std::uint32_t{bytes[1]} << 8 | std::uint32_t{bytes[2]} << 16 | std::uint32_t{bytes[3]} << 24;
        crc = kCrcTables[3][crc & 255] ^ kCrcTables[2][crc >> 8 & 255] ^ kCrcTables[1][crc >> 16 & 255] ^
              kCrcTables[0][crc >> 24];
    }
    for (; size != 0; --size, ++bytes) crc = crc >> 8 ^ kCrcTables[0][(crc ^ *bytes) & 255];
    return ~crc;
}

}  // namespace sterna
