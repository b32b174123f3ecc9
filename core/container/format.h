// The names and numbers of the file format (docs/format.md).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace sterna {

inline constexpr std::array<std::uint8_t, 8> kMagic = {0x89, 'S', 'T', 'E', 'R', 'N', 'A', '\n'};
inline constexpr std::uint32_t kVersion = 1;
inline constexpr std::size_t kPrefixBytes = 12;        // magic, version, reserved
inline constexpr std::size_t kSectionHeaderBytes = 8;  // kind, flags, version needed, payload bytes
inline constexpr std::size_t kChecksumBytes = 4;
inline constexpr std::size_t kEndBytes = kSectionHeaderBytes + 4 + kChecksumBytes;

enum class SectionKind : std::uint8_t { kEnd = 0, kTensors = 1, kMetadata = 2, kTrits = 3, kArrays = 4, kGraph = 5 };
inline constexpr std::uint8_t kOptional = 1;  // flag: who does not know the kind may go on without it

// Limits, checked before memory is taken.
inline constexpr std::uint64_t kMaxTextBytes = std::uint64_t{1} << 24;   // of the table, and of the metadata
inline constexpr std::uint64_t kMaxGraphBytes = std::uint64_t{1} << 20;  // of all graphs
inline constexpr std::uint64_t kMaxTensors = std::uint64_t{1} << 16;
inline constexpr std::uint64_t kMaxNameBytes = 1024;
inline constexpr std::size_t kMaxAxes = 8;
inline constexpr std::uint64_t kMaxElements = std::uint64_t{1} << 32;       // of a tensor, and each of its sizes
inline constexpr std::uint64_t kMaxTotalElements = std::uint64_t{1} << 34;  // of all tensors
// Added to a number of coded bytes before the ratio to what they stand for is checked, so that it holds for tiny ones.
inline constexpr std::uint64_t kSlackBytes = 64;

// Numbers of an arrays section that are coded together.
inline constexpr std::uint64_t kNumbersPerChunk = std::uint64_t{1} << 18;

enum class TensorKind : std::uint8_t {
    kBool,
    kUint8,
    kInt8,
    kInt16,
    kInt32,
    kInt64,
    kFloat16,
    kFloat32,
    kFloat64,
    kTrits,
    kScaledInt8,
};
inline constexpr std::uint8_t kNumTensorKinds = 11;

// Bytes of an element as it is kept among the arrays; trits are not.
constexpr unsigned width_of(TensorKind kind) {
    constexpr std::array<unsigned, kNumTensorKinds> widths = {1, 1, 1, 2, 4, 8, 2, 4, 8, 0, 1};
    return widths[static_cast<std::size_t>(kind)];
}

enum class ScaleKind : std::uint8_t { kNone, kFloat16OfAll, kFloat16OfFilter, kFloat32OfAll, kFloat32OfFilter };
inline constexpr std::uint8_t kNumScaleKinds = 5;

}  // namespace sterna
