// Probability models of the trit coder. Each codes a weight as a zero flag and, for a nonzero, a sign.
//
// A model is written once for encoder and decoder: `coder.code(bit, p)` returns the coded bit, whichever side it is on,
// and an encoder is the only one that looks at the bit it is given.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "core/base/buffer.h"
#include "core/base/status.h"
#include "core/codec/logistic.h"
#include "core/codec/range_coder.h"
#include "core/codec/trit_coder.h"

namespace sterna {

// Takes the trit's value from an encoder's tensor, or leaves the decoded one in a decoder's.
inline std::int8_t settle(const std::int8_t& trit, std::int8_t) { return trit; }
inline std::int8_t settle(std::int8_t& trit, std::int8_t coded) { return trit = coded; }

// Exact counts over the tensor so far: zero-order entropy but for the flush, for weights without structure.
class CountsModel {
  public:
    Status start(const TritShape&) { return Status::kOk; }
    void start_filter() {}
    void start_plane() {}
    void start_row() {}

    template <class RangeCoder, class Trit>
    void code_trit(RangeCoder& coder, Trit& trit, std::uint64_t, std::uint64_t, std::uint64_t) {
        std::int8_t coded = 0;
        if (zero_flag_.code(coder, trit != 0)) coded = sign_.code(coder, trit < 0) ? -1 : 1;
        settle(trit, coded);
    }

  private:
    // p = (ones + 1/2) / (zeros + ones + 1)
    struct Counts {
        std::uint64_t ones = 0;
        std::uint64_t total = 0;

        template <class RangeCoder>
        bool code(RangeCoder& coder, bool bit) {
            const std::uint64_t probability = ((2 * ones + 1) << 16) / (2 * total + 2);
            bit = coder.code(bit, clamp_probability(static_cast<std::uint32_t>(probability)));
            ones += bit;
            total += 1;
            return bit;
        }
    };

    Counts zero_flag_;
    Counts sign_;
};

// Probability that a bit is true, as the mean of the bits seen: bits 10..31 the probability, bits 0..9 their number.
class AdaptiveBit {
  public:
    std::int32_t logit() const { return kStretch[state_ >> 20]; }

    // Moves by 1 / (n + 1.5) for the n-th bit, and by no less than 1 / (kMaxSeen + 1.5).
    void update(bool bit) {
        const std::uint32_t seen = state_ & 1023;
        const std::int64_t probability = state_ >> 10;
        const std::int64_t target = bit ? (1 << 22) - 1 : 0;
        const std::int64_t moved = probability + (((target - probability) * kReciprocal[seen]) >> 16);
        state_ = (static_cast<std::uint32_t>(moved) << 10) | std::min(seen + 1, kMaxSeen);
    }

  private:
    static constexpr std::uint32_t kMaxSeen = 127;
    static constexpr std::array<std::uint32_t, kMaxSeen + 1> kReciprocal = [] {
        std::array<std::uint32_t, kMaxSeen + 1> table{};
        for (std::uint32_t n = 0; n <= kMaxSeen; ++n) table[n] = 131072 / (2 * n + 3);
        return table;
    }();

    std::uint32_t state_ = 1u << 31;
};

// An adaptive bit as one context sees it; `mirrored` when the context is the negative of the stored one.
struct ContextBit {
    AdaptiveBit* bit;
    bool mirrored = false;
};

// Mixes the logits of several contexts by weights that learn online to lessen the coded size:
// p = squash(sum w_i x_i), w_i += rate * (bit - p) * x_i.
template <std::size_t kInputs, std::int32_t kInitialWeight, int kRateShift>
class Mixer {
  public:
    Mixer() { weights_.fill(kInitialWeight); }

    template <class RangeCoder>
    bool code(RangeCoder& coder, bool bit, const std::array<ContextBit, kInputs>& inputs) {
        // Sums cannot overflow: a weight moves by less than 2^10 a bit, so that it stays below 2^42 over 2^32 bits.
        std::array<std::int64_t, kInputs> logits;
        std::int64_t sum = 0;
        for (std::size_t i = 0; i < kInputs; ++i) {
            const std::int32_t logit = inputs[i].bit->logit();
            logits[i] = inputs[i].mirrored ? -logit : logit;
            sum += weights_[i] * logits[i];
        }
        const std::uint32_t probability = squash(sum >> 16);
        bit = coder.code(bit, clamp_probability(probability));
        const std::int64_t error = (bit ? 65536 : 0) - static_cast<std::int64_t>(probability);
        for (std::size_t i = 0; i < kInputs; ++i) {
            weights_[i] += (logits[i] * error + (std::int64_t{1} << (kRateShift - 1))) >> kRateShift;
            inputs[i].bit->update(bit != inputs[i].mirrored);
        }
        return bit;
    }

  private:
    std::array<std::int64_t, kInputs> weights_;  // in 1/65536
};

// Neighbours in the same kernel, position in it, channel and filter. A sign is coded relative to its neighbours: a
// neighbourhood and its negative share one adaptive bit, with true and false exchanged.
class ContextsModel {
  public:
    Status start(const TritShape& shape) {
        const bool is_matrix = shape.height * shape.width == 1;
        pitch_ = (is_matrix ? shape.channels : shape.width) + kPadding + 1;
        if (const Status status = rows_.assign(3 * pitch_, 0); status != Status::kOk) return status;
        if (const Status status = zero_of_channel_.assign(shape.channels, AdaptiveBit()); status != Status::kOk) {
            return status;
        }
        return sign_of_channel_.assign(shape.channels, AdaptiveBit());
    }

    void start_filter() { zero_of_filter_ = AdaptiveBit(); }

    void start_plane() {
        std::fill(rows_.data(), rows_.data() + rows_.size(), std::int8_t{0});
        num_nonzero_ = 0;
        last_sign_ = 0;
    }

    void start_row() {
        std::int8_t* const oldest = row_above2_;
        row_above2_ = row_above_ ? row_above_ : rows_.data() + 2 * pitch_ + kPadding;
        row_above_ = row_ ? row_ : rows_.data() + pitch_ + kPadding;
        row_ = oldest ? oldest : rows_.data() + kPadding;
    }

    template <class RangeCoder, class Trit>
    void code_trit(RangeCoder& coder, Trit& trit, std::uint64_t channel, std::uint64_t tap, std::uint64_t column) {
        const std::int8_t* const here = row_ + column;
        const std::int8_t* const above = row_above_ + column;
        const int left = here[-1], left2 = here[-2];
        const int up_left = above[-1], up = above[0], up_right = above[1], up2 = row_above2_[column];
        const auto position = static_cast<std::size_t>(std::min<std::uint64_t>(tap, kPositions - 1));

        const int near = 27 * left + 9 * up + 3 * up_right + up_left;
        const std::size_t nonzero_near = (left != 0) + 2 * (up != 0) + 4 * (up_right != 0);
        const bool is_nonzero = zero_mixer_.code(coder, trit != 0,
                                                 {{{&zero_by_neighbours_[position][nonzero_near]},
                                                   {&zero_by_count_[position][std::min(num_nonzero_, kCounts - 1)]},
                                                   {&zero_by_signs_[static_cast<std::size_t>(near + 40)]},
                                                   {&zero_of_channel_[channel]},
                                                   {&zero_of_filter_}}});
        std::int8_t coded = 0;
        if (is_nonzero) {
            const bool is_negative =
                sign_mixer_.code(coder, trit < 0,
                                 {{mirror(sign_by_near_.data(), 9 * near + 3 * up2 + left2),
                                   mirror(sign_by_cross_.data(), 27 * left + 9 * up + 3 * left2 + up2),
                                   mirror(sign_by_last_.data(), 27 * last_sign_ + 9 * left + 3 * up + up_right),
                                   {&sign_of_channel_[channel]},
                                   {&sign_by_position_[position]}}});
            coded = is_negative ? -1 : 1;
        }
        const std::int8_t value = settle(trit, coded);
        row_[column] = value;
        if (value != 0) {
            ++num_nonzero_;
            last_sign_ = value;
        }
    }

  private:
    static constexpr std::size_t kPadding = 2;
    static constexpr std::size_t kPositions = 64;
    static constexpr std::size_t kCounts = 10;

    static ContextBit mirror(AdaptiveBit* bits, int context) {
        return context < 0 ? ContextBit{bits - context, true} : ContextBit{bits + context, false};
    }

    Buffer<std::int8_t> rows_;  // three rows of the plane, each with zeros around it
    std::size_t pitch_ = 0;
    std::int8_t* row_ = nullptr;
    std::int8_t* row_above_ = nullptr;
    std::int8_t* row_above2_ = nullptr;
    std::size_t num_nonzero_ = 0;  // in this plane so far
    int last_sign_ = 0;            // of the last nonzero in this plane

    std::array<std::array<AdaptiveBit, 8>, kPositions> zero_by_neighbours_;
    std::array<std::array<AdaptiveBit, kCounts>, kPositions> zero_by_count_;
    std::array<AdaptiveBit, 81> zero_by_signs_;
    Buffer<AdaptiveBit> zero_of_channel_;
    AdaptiveBit zero_of_filter_;
    Mixer<5, 13107, 18> zero_mixer_;

    std::array<AdaptiveBit, 365> sign_by_near_;
    std::array<AdaptiveBit, 41> sign_by_cross_;
    std::array<AdaptiveBit, 41> sign_by_last_;
    Buffer<AdaptiveBit> sign_of_channel_;
    std::array<AdaptiveBit, kPositions> sign_by_position_;
    Mixer<5, 15729, 19> sign_mixer_;
};

}  // namespace sterna
