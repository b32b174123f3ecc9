#include "core/codec/text_coder.h"

#include <array>

#include "core/codec/byte_model.h"
#include "core/codec/range_coder.h"
#include "core/codec/text_primer.h"

namespace sterna {
namespace {

constexpr std::size_t kContexts = 6;
constexpr std::size_t kMinMatch = 4;
constexpr std::size_t kMaxMatch = 32;
constexpr unsigned kHeadBits = 14;

// Takes decisions as they come, while the model learns the primer.
struct Listener {
    static bool code(bool bit, std::uint32_t) { return bit; }
};

constexpr bool is_letter(std::uint8_t byte) {
    return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || byte >= 128;
}

// Finds the latest place where the last bytes have been seen before; what followed there is the guess.
class Matcher {
  public:
    Status prepare() { return heads_.assign(std::size_t{1} << kHeadBits, 0); }

    Guess guess(const Buffer<std::uint8_t>& history) const {
        if (length_ == 0) return {};
        const std::size_t confidence = length_ < 12 ? length_ : length_ < 16 ? 12 : length_ < kMaxMatch ? 13 : 14;
        return {history[match_], confidence};
    }

    // After the last byte of `history` was added.
    void update(const Buffer<std::uint8_t>& history) {
        const std::size_t size = history.size();
        if (length_ != 0 && history[match_] == history[size - 1]) {
            ++match_;
            if (length_ < kMaxMatch) ++length_;
        } else {
            length_ = 0;
        }
        if (size < kMinMatch) return;
        std::uint32_t last = 0;
        for (std::size_t i = 1; i <= kMinMatch; ++i) last = last << 8 | history[size - i];
        std::uint32_t& head = heads_[last * 0x9e3779b1u >> (32 - kHeadBits)];
        if (length_ == 0 && head != 0) {
            match_ = head;
            while (length_ < kMaxMatch && length_ < match_ &&
                   history[match_ - 1 - length_] == history[size - 1 - length_]) {
                ++length_;
            }
        }
        head = static_cast<std::uint32_t>(size);
    }

  private:
    Buffer<std::uint32_t> heads_;  // by a hash of four bytes, the place after them; 0 where they are new
    std::size_t match_ = 0;        // place of the guess
    std::size_t length_ = 0;       // bytes that agree before it
};

class TextModel {
  public:
    Status prepare() {
        if (const Status status = bytes_.prepare(); status != Status::kOk) return status;
        if (const Status status = matcher_.prepare(); status != Status::kOk) return status;
#ifndef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION  // a fuzzer would spend nearly all its time on the primer
        Listener listener;
        std::uint8_t read = 0;
        for (const char* at = kTextPrimer; *at != '\0'; ++at) {
            const Status status = code(listener, static_cast<std::uint8_t>(*at), read);
            if (status != Status::kOk) return status;
        }
#endif
        return Status::kOk;
    }

    template <class Coder>
    Status code(Coder& coder, std::uint8_t byte, std::uint8_t& coded) {
        const std::uint32_t one = back(1);
        const std::uint32_t two = one | back(2) << 8;
        const std::uint32_t three = two | back(3) << 16;
        const std::uint32_t four = three | back(4) << 24;
        coded = bytes_.code(coder, byte, {0, one, two, three, four, word_}, matcher_.guess(history_));
        if (const Status status = history_.push_back(coded); status != Status::kOk) return status;
        word_ = is_letter(coded) ? (word_ + coded) * 0x2f0b4c47u : 0;
        matcher_.update(history_);
        return Status::kOk;
    }

  private:
    std::uint32_t back(std::size_t distance) const {
        return history_.size() < distance ? 0 : history_[history_.size() - distance];
    }

    ByteModel<kContexts> bytes_;
    Matcher matcher_;
    Buffer<std::uint8_t> history_;
    std::uint32_t word_ = 0;  // a hash of the letters since the last byte that is none
};

}  // namespace

Status encode_text(const std::uint8_t* text, std::size_t size, Buffer<std::uint8_t>& bytes) {
    TextModel model;
    if (const Status status = model.prepare(); status != Status::kOk) return status;
    RangeEncoder coder(bytes);
    std::uint8_t coded = 0;
    for (std::size_t i = 0; i < size; ++i) {
        if (const Status status = model.code(coder, text[i], coded); status != Status::kOk) return status;
    }
    return coder.finish();
}

Status decode_text(const std::uint8_t* bytes, std::size_t coded_size, std::uint8_t* text, std::size_t size) {
    TextModel model;
    if (const Status status = model.prepare(); status != Status::kOk) return status;
    RangeDecoder coder(bytes, coded_size);
    for (std::size_t i = 0; i < size; ++i) {
        if (coder.is_exhausted()) return Status::kTruncated;
        if (const Status status = model.code(coder, 0, text[i]); status != Status::kOk) return status;
    }
    return coder.finish();
}

}  // namespace sterna
