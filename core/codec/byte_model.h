// Learns bytes from contexts (docs/format.md, "Bytes").
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "core/base/buffer.h"
#include "core/base/status.h"
#include "core/codec/mixing.h"

namespace sterna {

// A byte is eight decisions, and none costs less than log2(65536 / 65520) bits.
inline constexpr std::uint64_t kMaxBytesPerByte = 4096;

// What is thought likely to come next, and how sure that is; nothing where `confidence` is 0.
struct Guess {
    std::uint8_t byte = 0;
    std::size_t confidence = 0;  // below kGuessConfidences
};
inline constexpr std::size_t kGuessConfidences = 16;

// Codes a byte from its highest bit to its lowest, each bit from N contexts and a guess. A context is any number that
// was made of what decoder and encoder both know.
template <std::size_t N>
class ByteModel {
  public:
    Status prepare() {
        for (Buffer<Counter>& table : tables_) {
            const Status status = table.assign(std::size_t{1} << kTableBits, Counter{});
            if (status != Status::kOk) return status;
        }
        return Status::kOk;
    }

    template <class Coder>
    std::uint8_t code(Coder& coder, std::uint8_t byte, const std::array<std::uint32_t, N>& contexts, Guess guess) {
        // The bits so far, after a leading one.
        std::uint32_t node = 1;
        Mixer<kSlots>& mixer = guess.confidence == 0 ? mixer_ : guessing_mixer_;
        for (unsigned bit = 8; bit-- > 0;) {
            for (std::size_t i = 0; i < N; ++i) {
                // Contexts that fall on one place share a counter: that costs a little and happens seldom.
                const std::uint32_t hash = (contexts[i] * 0x9e3779b1u ^ node * 0x85ebca6bu) * 0xc2b2ae35u;
                mixer.set(static_cast<int>(i), &tables_[i][hash >> (32 - kTableBits)]);
            }
            const bool holds = guess.confidence != 0 && (256u | guess.byte) >> (bit + 1) == node;
            if (holds) {
                mixer.set(N, &guesses_[guess.confidence], (guess.byte >> bit & 1) == 0);
            } else {
                mixer.silence(N);
            }
            node = node * 2 + (mixer.code(coder, (byte >> bit & 1) != 0) ? 1 : 0);
        }
        return static_cast<std::uint8_t>(node & 255);
    }

  private:
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION  // so that a fuzzer does not spend its time on clearing tables
    static constexpr unsigned kTableBits = 8;
#else
    static constexpr unsigned kTableBits = 16;
#endif
    static constexpr std::int32_t kWeight = 20000;
    static constexpr int kSlots = static_cast<int>(N) + 1;

    std::array<Buffer<Counter>, N> tables_;
    std::array<Counter, kGuessConfidences> guesses_{};
    Mixer<kSlots> mixer_{kWeight};
    Mixer<kSlots> guessing_mixer_{kWeight};
};

}  // namespace sterna
