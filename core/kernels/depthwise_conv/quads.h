// Depthwise convolutions of bytes by products of four bytes at a time.
#pragma once

#include "core/kernels/epilogue.h"

namespace sterna::STERNA_ISA {
namespace {

// A tap stands for up to three inputs in a row, in the lowest bytes of lanes of 32 bits.
inline constexpr std::uint32_t kDepthwiseTaps = 3;
inline constexpr std::uint32_t kUsualTaps = 3;  // of three rows and columns
inline constexpr Layout kDepthwiseLayout = Layout::kTransposed, kStridedLayout = Layout::kAlternating;

// The weights of a filter; those of the usual three rows stay in registers.
template <std::uint32_t kTaps>
class DepthwiseWeights {
  public:
    STERNA_INLINE DepthwiseWeights(const DepthwiseConv& conv, std::uint32_t filter)
        : offsets_(conv.offsets),
          quads_(static_cast<const std::int8_t*>(conv.weights) + std::size_t{filter} * kDepthwiseQuad * conv.taps),
          taps_(conv.taps),
          none_(Ints{} - conv.excess[filter]) {
        for (std::uint32_t tap = 0; tap < kTaps; ++tap) kept_[tap] = broadcast_quad(quads_ + kDepthwiseQuad * tap);
    }

    // Calls `add` with the offset and the weights of each tap.
    template <class Add>
    STERNA_INLINE Quarters sum(const Add& add) const {
        Quarters total = {{none_, none_, none_, none_}};
        if constexpr (kTaps != 0) {
            for (std::uint32_t tap = 0; tap < kTaps; ++tap) add(offsets_[tap], kept_[tap], total);
        } else {
            for (std::uint32_t tap = 0; tap < taps_; ++tap) {
                add(offsets_[tap], broadcast_quad(quads_ + kDepthwiseQuad * tap), total);
            }
        }
        return total;
    }

  private:
    const std::int32_t* offsets_;
    const std::int8_t* quads_;
    std::uint32_t taps_;
    Ints none_;
    Ints kept_[kTaps + 1];
};

inline Ints load_lanes(const std::uint8_t* from) {
    return (Ints)load<std::uint8_t, kVectorBytes>(from);
}

// A lane of 32 bits has the inputs of element 4 i and, by weights one byte further, those of 4 i + 1; two bytes further
// a load has those of 4 i + 2 and 4 i + 3.
template <std::uint32_t kTaps>
struct DepthwiseSums {
    const DepthwiseWeights<kTaps>& weights;
    const std::uint8_t* input;

    STERNA_INLINE Quarters operator()(std::size_t v) const {
        const std::uint8_t* const from = input + v * kVectorBytes;
        return weights.sum([from](std::int32_t offset, Ints quad, Quarters& total) __attribute__((always_inline)) {
            const Ints next = quad << 8;
            const Ints first = load_lanes(from + offset), second = load_lanes(from + offset + 2);
            total.part[0] = multiply_add_quads(first, quad, total.part[0]);
            total.part[1] = multiply_add_quads(first, next, total.part[1]);
            total.part[2] = multiply_add_quads(second, quad, total.part[2]);
            total.part[3] = multiply_add_quads(second, next, total.part[3]);
        });
    }
    STERNA_INLINE Quarters raised(std::size_t v) const { return (*this)(v); }
    static constexpr float kRaised = 1.0f;
};

// Every second element of a row: a lane has the inputs of one element, and two bytes further those of the next one. A
// vector of levels is of one, two, four or eight rows; of four and eight, rows share a vector of inputs.
inline constexpr std::size_t kMostRows = 8;
template <std::uint32_t kTaps, std::size_t kRows>
struct StridedSums {
    const DepthwiseWeights<kTaps>& weights;
    const std::uint8_t* rows[kRows];

    STERNA_INLINE Quarters operator()(std::size_t x) const {
        return weights.sum([this, x](std::int32_t offset, Ints quad, Quarters& total) __attribute__((always_inline)) {
            const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(2 * x) + offset;
            for (int p = 0; p < 4; ++p) {
                total.part[p] = multiply_add_quads(load_part(at + p % 2 * 2, p / 2), quad, total.part[p]);
            }
        });
    }
    STERNA_INLINE Quarters raised(std::size_t x) const { return (*this)(x); }
    static constexpr float kRaised = 1.0f;

  private:
    STERNA_INLINE Ints load_part(std::ptrdiff_t at, int half) const {
        if constexpr (kRows == 1) return load_lanes(rows[0] + at + (half == 0 ? 0 : kVectorBytes));
        if constexpr (kRows == 2) return load_lanes(rows[half] + at);
        if constexpr (kRows == 4) return load_halves(rows[2 * half] + at, rows[2 * half + 1] + at);
        if constexpr (kRows == 8) {
            return load_fourths(rows[4 * half] + at, rows[4 * half + 1] + at, rows[4 * half + 2] + at,
                                rows[4 * half + 3] + at);
        }
    }
};

}  // namespace
}  // namespace sterna::STERNA_ISA
