// Binary range coder: 32-bit range, 16-bit probabilities, carries propagated (docs/format.md, "Range coder").
//
// A decision with probability p of being true takes the upper part of the interval [low, low + range); the interval is
// scaled by 256 whenever the range falls below 2^24, so that range * p never loses a whole symbol.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/buffer.h"

namespace sterna {

inline constexpr std::uint32_t kProbabilityOne = 1u << 16;
inline constexpr std::uint32_t kMinRange = 1u << 24;

// No decision is thought more certain than this, so that a byte cannot stand for arbitrarily many of them.
inline constexpr std::uint32_t kMinProbability = 16;

constexpr std::uint32_t clamp_probability(std::uint32_t probability) {
    if (probability < kMinProbability) return kMinProbability;
    if (probability > kProbabilityOne - kMinProbability) return kProbabilityOne - kMinProbability;
    return probability;
}

class RangeEncoder {
  public:
    explicit RangeEncoder(Buffer<std::uint8_t>& bytes) : bytes_(bytes) {}

    bool code(bool bit, std::uint32_t probability_true) {
        const std::uint32_t lower = split(range_, probability_true);
        if (bit) {
            low_ += lower;
            range_ -= lower;
        } else {
            range_ = lower;
        }
        while (range_ < kMinRange) {
            emit_top_byte();
            range_ <<= 8;
        }
        return bit;
    }

    // Ends the stream with the value in [low, low + range) that has the most trailing zero bytes, which are left out.
    static constexpr bool is_exhausted() { return false; }

    Status finish() {
        unsigned kept = 0;
        while (kept < 4) {
            const std::uint64_t step = std::uint64_t{1} << (32 - 8 * kept);
            const std::uint64_t value = (low_ + step - 1) / step * step;
            if (value < low_ + range_) {
                low_ = value;
                break;
            }
            ++kept;
        }
        // One byte more than is kept pushes out the byte that waits for a carry.
        for (unsigned i = 0; i <= kept; ++i) emit_top_byte();
        return status_;
    }

    static std::uint32_t split(std::uint32_t range, std::uint32_t probability_true) {
        return static_cast<std::uint32_t>((std::uint64_t{range} * (kProbabilityOne - probability_true)) >> 16);
    }

  private:
    // Bits 24..31 of `low` leave; bytes 0xff wait until it is known whether a carry turns them into 0x00.
    void emit_top_byte() {
        const auto top = static_cast<std::uint32_t>(low_ >> 24);
        if (top != 0xff) {
            const bool carry = top > 0xff;
            if (has_waiting_) put(static_cast<std::uint8_t>(waiting_ + carry));
            for (; num_waiting_ff_ != 0; --num_waiting_ff_) put(carry ? 0x00 : 0xff);
            waiting_ = static_cast<std::uint8_t>(top);
            has_waiting_ = true;
        } else {
            ++num_waiting_ff_;
        }
        low_ = (low_ & 0x00ffffff) << 8;
    }

    void put(std::uint8_t byte) {
        if (status_ == Status::kOk) status_ = bytes_.push_back(byte);
    }

    Buffer<std::uint8_t>& bytes_;
    std::uint64_t low_ = 0;  // below 2^33; bit 32 is a carry
    std::uint64_t num_waiting_ff_ = 0;
    std::uint32_t range_ = 0xffffffff;
    std::uint8_t waiting_ = 0;
    bool has_waiting_ = false;
    Status status_ = Status::kOk;
};

class RangeDecoder {
  public:
    RangeDecoder(const std::uint8_t* bytes, std::size_t size) : bytes_(bytes), size_(size) {
        for (int i = 0; i < 4; ++i) code_ = (code_ << 8) | next_byte();
    }

    bool code(bool, std::uint32_t probability_true) {
        const std::uint32_t lower = RangeEncoder::split(range_, probability_true);
        const bool bit = code_ >= lower;
        if (bit) {
            code_ -= lower;
            range_ -= lower;
        } else {
            range_ = lower;
        }
        while (range_ < kMinRange) {
            code_ = (code_ << 8) | next_byte();
            range_ <<= 8;
        }
        return bit;
    }

    // An encoder leaves out up to four zero bytes at the end, never more, and writes none that is not read.
    bool is_exhausted() const { return position_ > size_ + 4; }
    Status finish() const {
        if (is_exhausted()) return Status::kTruncated;
        return position_ < size_ ? Status::kTrailingBytes : Status::kOk;
    }

  private:
    std::uint32_t next_byte() {
        const std::size_t at = position_++;
        return at < size_ ? bytes_[at] : 0;
    }

    const std::uint8_t* bytes_;
    std::size_t size_;
    std::size_t position_ = 0;
    std::uint32_t range_ = 0xffffffff;
    std::uint32_t code_ = 0;
};

}  // namespace sterna
