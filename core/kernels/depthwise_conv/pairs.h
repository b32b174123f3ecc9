// Depthwise convolutions of bytes by products of pairs of 16 bits.
#pragma once

#include "core/kernels/epilogue.h"

namespace sterna::STERNA_ISA {
namespace {

// A tap is one input; they are taken in pairs.
inline constexpr std::uint32_t kDepthwiseTaps = 1;
// Of three rows and columns, up to an even number; or nothing, where a module is to be small.
#if defined(__AVX2__) || defined(__ARM_NEON)
inline constexpr std::uint32_t kUsualTaps = 10;
#else
inline constexpr std::uint32_t kUsualTaps = 0;
#endif
inline constexpr Layout kDepthwiseLayout = Layout::kPlain, kStridedLayout = Layout::kHalves;

// The weights of a filter.
template <std::uint32_t kTaps>
class DepthwiseWeights {
  public:
    STERNA_INLINE DepthwiseWeights(const DepthwiseConv& conv, std::uint32_t filter)
        : offsets_(conv.offsets),
          weights_(static_cast<const std::int16_t*>(conv.weights) + std::size_t{filter} * conv.taps),
          taps_(conv.taps),
          none_(Ints{} - conv.excess[filter]) {
        for (std::uint32_t pair = 0; pair < kTaps / 2; ++pair) kept_[pair] = broadcast_pair(weights_ + 2 * pair);
    }

    // Calls `add` with the offsets and the weights of each pair of taps.
    template <class Add>
    STERNA_INLINE Quarters sum(const Add& add) const {
        Quarters total = {{none_, none_, none_, none_}};
        if constexpr (kTaps != 0) {
            for (std::uint32_t i = 0; i < kTaps / 2; ++i) add(offsets_[2 * i], offsets_[2 * i + 1], kept_[i], total);
        } else {
            for (std::uint32_t tap = 0; tap < taps_; tap += 2) {
                add(offsets_[tap], offsets_[tap + 1], broadcast_pair(weights_ + tap), total);
            }
        }
        return total;
    }

  private:
    const std::int32_t* offsets_;
    const std::int16_t* weights_;
    std::uint32_t taps_;
    Ints none_;
    Shorts kept_[kTaps / 2 + 1];
};

template <std::uint32_t kTaps>
struct DepthwiseSums {
    const DepthwiseWeights<kTaps>& weights;
    const std::uint8_t* input;

    STERNA_INLINE Quarters operator()(std::size_t v) const {
        const std::uint8_t* const from = input + v * kVectorBytes;
        return weights.sum([from](std::int32_t a, std::int32_t b, Shorts pair,
                                  Quarters& total) __attribute__((always_inline)) {
            const WidePairs x =
                interleave_wide(load<std::uint8_t, kVectorBytes>(from + a), load<std::uint8_t, kVectorBytes>(from + b));
            for (std::size_t p = 0; p < 4; ++p) total.part[p] = multiply_add_pairs(x.part[p], pair, total.part[p]);
        });
    }
    STERNA_INLINE Quarters raised(std::size_t v) const { return (*this)(v); }
    static constexpr float kRaised = 1.0f;
};

// Every second element of a row: a lane of 16 bits has the inputs of two taps if these are neighbours, or else those
// of one, beside which those of the other are put. A vector of levels is of one or more rows, each half of it of at
// most as many as make a vector of inputs from sixteen bytes each.
inline constexpr std::size_t kMostRows = kVectorBytes / 8;

template <std::uint32_t kTaps, std::size_t kRows>
struct StridedSums {
    const DepthwiseWeights<kTaps>& weights;
    const std::uint8_t* rows[kRows];

    STERNA_INLINE Quarters operator()(std::size_t x) const {
        return weights.sum(
            [this, x](std::int32_t a, std::int32_t b, Shorts pair, Quarters& total) __attribute__((always_inline)) {
                const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(2 * x);
                for (int half = 0; half < 2; ++half) {
                    auto both = load_half(at + a, half);
                    if (b != a + 1) both = (both & 0xff) | (load_half(at + b, half) << 8);
                    const Interleaved wide = widen_bytes((Bytes)both);
                    total.part[2 * half] = multiply_add_pairs(wide.low, pair, total.part[2 * half]);
                    total.part[2 * half + 1] = multiply_add_pairs(wide.high, pair, total.part[2 * half + 1]);
                }
            });
    }
    STERNA_INLINE Quarters raised(std::size_t x) const { return (*this)(x); }
    static constexpr float kRaised = 1.0f;

  private:
    STERNA_INLINE Vector<std::uint16_t, kVectorBytes> load_half(std::ptrdiff_t at, int half) const {
        if constexpr (kRows == 1) return load_pairs(rows[0] + at + (half == 0 ? 0 : kVectorBytes));
        if constexpr (kRows == 2) return load_pairs(rows[half] + at);
#if defined(__AVX2__)
        if constexpr (kRows == 4) return load_halves(rows[2 * half] + at, rows[2 * half + 1] + at);
#endif
    }
};

}  // namespace
}  // namespace sterna::STERNA_ISA
