// Adaptive probabilities and their mix in the logistic domain, all in integers: the same bits everywhere
// (docs/format.md, "Probabilities").
//
// Units: a probability is 16 bits (65536 = certain), a logit ln(p / (1 - p)) is in 1/256, a weight is in 1/65536.
#pragma once

#include <array>
#include <cstdint>

#include "core/codec/range_coder.h"

namespace sterna {

inline constexpr int kMaxLogit = 2047;

// squash(x) = 65536 / (1 + exp(-x / 256)), linear between these values at multiples of 128.
inline constexpr std::array<std::int32_t, 33> kSquashKnots = {
    22,    36,    60,    98,    162,   267,   439,   720,   1179,  1921,  3108,
    4971,  7812,  11955, 17625, 24743, 32768, 40793, 47911, 53581, 57724, 60565,
    62428, 63615, 64357, 64816, 65097, 65269, 65374, 65438, 65476, 65500, 65514};

constexpr std::int32_t squash(std::int32_t logit) {
    if (logit > kMaxLogit) logit = kMaxLogit;
    if (logit < -kMaxLogit) logit = -kMaxLogit;
    const std::int32_t shifted = logit + 2048;
    const std::int32_t knot = shifted >> 7;
    const std::int32_t part = shifted & 127;
    const auto at = static_cast<std::size_t>(knot);
    return (kSquashKnots[at] * (128 - part) + kSquashKnots[at + 1] * part) >> 7;
}

// squash of every logit from -2047, since interpolating takes longer than looking up.
constexpr std::array<std::uint16_t, 2 * kMaxLogit + 1> make_squash() {
    std::array<std::uint16_t, 2 * kMaxLogit + 1> table{};
    for (std::int32_t logit = -kMaxLogit; logit <= kMaxLogit; ++logit) {
        table[static_cast<std::size_t>(logit + kMaxLogit)] = static_cast<std::uint16_t>(squash(logit));
    }
    return table;
}
inline constexpr std::array<std::uint16_t, 2 * kMaxLogit + 1> kSquash = make_squash();
static_assert(kSquash.front() >= kMinProbability && kSquash.back() <= kProbabilityOne - kMinProbability);

// stretch[p >> 4] is the smallest logit whose squash is at least p: the inverse, in 4096 steps.
constexpr std::array<std::int16_t, 4096> make_stretch() {
    std::array<std::int16_t, 4096> table{};
    std::int32_t logit = -kMaxLogit;
    for (std::int32_t p = 0; p < 4096; ++p) {
        while (logit < kMaxLogit && squash(logit) < p * 16 + 8) ++logit;
        table[static_cast<std::size_t>(p)] = static_cast<std::int16_t>(logit);
    }
    return table;
}
inline constexpr std::array<std::int16_t, 4096> kStretch = make_stretch();

// How far a probability moves after n observations: 1 / (n + 1.5), until it settles at 1 / 256.5.
inline constexpr std::uint16_t kCounterLimit = 255;
constexpr std::array<std::int32_t, kCounterLimit + 1> make_rates() {
    std::array<std::int32_t, kCounterLimit + 1> table{};
    for (std::int32_t n = 0; n <= kCounterLimit; ++n) table[static_cast<std::size_t>(n)] = 131072 / (2 * n + 3);
    return table;
}
inline constexpr std::array<std::int32_t, kCounterLimit + 1> kRates = make_rates();

// What the logit of a counter counts for after n observations: n / (n + 2), in 1/256.
constexpr std::array<std::int32_t, kCounterLimit + 1> make_confidences() {
    std::array<std::int32_t, kCounterLimit + 1> table{};
    for (std::int32_t n = 0; n <= kCounterLimit; ++n) table[static_cast<std::size_t>(n)] = 256 * n / (n + 2);
    return table;
}
inline constexpr std::array<std::int32_t, kCounterLimit + 1> kConfidences = make_confidences();

// The probability that a decision is true, learned from the decisions seen in one context.
struct Counter {
    std::uint16_t probability = 32768;
    std::uint16_t seen = 0;

    std::int32_t logit() const { return (kStretch[probability >> 4] * kConfidences[seen]) >> 8; }

    void update(bool bit) {
        const std::int32_t target = bit ? 65536 : 0;
        const std::int64_t step = std::int64_t{target - probability} * kRates[seen];
        probability = static_cast<std::uint16_t>(probability + (step >> 16));
        if (seen < kCounterLimit) ++seen;
    }
};

// Modulo 2^32: no stream that an encoder writes takes a weight near 2^31, and a hostile one gets the same bits
// everywhere.
constexpr std::int32_t wrapping_sum(std::int32_t a, std::int32_t b) {
    return static_cast<std::int32_t>(static_cast<std::uint32_t>(a) + static_cast<std::uint32_t>(b));
}

// Mixes the logits of N contexts: p = squash(sum w_i x_i), and w_i follows the gradient of the coding cost.
//
// A context may be mirrored (it predicts the opposite decision, so that one counter serves a pattern and its negative)
// or silent (it knows nothing here and is left out).
//
// Where kMayBeSilent is false, no context is ever mirrored or silent, which spares the questions.
template <int N, bool kMayBeSilent = true>
class Mixer {
  public:
    explicit Mixer(std::int32_t initial_weight) { weights_.fill(initial_weight); }

    void set(int slot, Counter* counter, bool mirrored = false) {
        const auto at = static_cast<std::size_t>(slot);
        counters_[at] = counter;
        mirrored_[at] = mirrored;
    }
    void silence(int slot) { counters_[static_cast<std::size_t>(slot)] = nullptr; }

    template <class Coder>
    bool code(Coder& coder, bool bit) {
        std::array<std::int32_t, N> logits{};
        std::int64_t sum = 0;
        for (std::size_t i = 0; i < N; ++i) {
            if (kMayBeSilent && counters_[i] == nullptr) continue;
            const std::int32_t logit = counters_[i]->logit();
            logits[i] = kMayBeSilent && mirrored_[i] ? -logit : logit;
            sum += std::int64_t{logits[i]} * weights_[i];
        }
        const std::int64_t mixed = sum >> 16;
        const std::int64_t bounded = mixed > kMaxLogit ? kMaxLogit : mixed < -kMaxLogit ? -kMaxLogit : mixed;
        const std::uint32_t probability = kSquash[static_cast<std::size_t>(bounded + kMaxLogit)];
        bit = coder.code(bit, probability);

        const std::int32_t miss = (bit ? 65536 : 0) - static_cast<std::int32_t>(probability);
        const std::int32_t error = miss >> 4;
        for (std::size_t i = 0; i < N; ++i) {
            if (kMayBeSilent && counters_[i] == nullptr) continue;
            weights_[i] = wrapping_sum(weights_[i], (logits[i] * error + (1 << 13)) >> 14);
            counters_[i]->update(kMayBeSilent ? bit != mirrored_[i] : bit);
        }
        return bit;
    }

  private:
    std::array<std::int32_t, N> weights_{};
    std::array<Counter*, N> counters_{};
    std::array<bool, N> mirrored_{};
};

}  // namespace sterna
