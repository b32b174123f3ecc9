// The logistic domain in fixed point: d = ln(p / (1 - p)) in steps of 1/256 (docs/format.md, "Logistic domain").
#pragma once

#include <array>
#include <cstdint>

namespace sterna {

inline constexpr int kMaxLogit = 2047;

// round(65536 / (1 + exp(-x))) for x = -8, -7.5, ..., 8.
inline constexpr std::array<std::int32_t, 33> kSquashKnots = {
    22,    36,    60,    98,    162,   267,   439,   720,   1179,  1921,  3108,
    4971,  7812,  11955, 17625, 24743, 32768, 40793, 47911, 53581, 57724, 60565,
    62428, 63615, 64357, 64816, 65097, 65269, 65374, 65438, 65476, 65500, 65514};

// Probability in 1/65536 of a logit, linear between the knots; logits beyond +-kMaxLogit are held there.
constexpr std::uint32_t squash(std::int64_t logit) {
    if (logit > kMaxLogit) logit = kMaxLogit;
    if (logit < -kMaxLogit) logit = -kMaxLogit;
    const auto shifted = static_cast<std::uint32_t>(logit + 2048);
    const std::uint32_t knot = shifted >> 7;
    const std::uint32_t fraction = shifted & 127;
    const auto left = static_cast<std::uint32_t>(kSquashKnots[knot]);
    const auto right = static_cast<std::uint32_t>(kSquashKnots[knot + 1]);
    return (left * (128 - fraction) + right * fraction + 64) >> 7;
}

// Inverse of `squash` on probabilities of 12 bits: the smallest logit whose probability reaches 16 * p + 8.
constexpr std::array<std::int16_t, 4096> make_stretch_table() {
    std::array<std::int16_t, 4096> table{};
    int logit = -kMaxLogit;
    for (std::uint32_t p = 0; p < 4096; ++p) {
        while (logit < kMaxLogit && squash(logit) < 16 * p + 8) ++logit;
        table[p] = static_cast<std::int16_t>(logit);
    }
    return table;
}

inline constexpr std::array<std::int16_t, 4096> kStretch = make_stretch_table();

}  // namespace sterna
