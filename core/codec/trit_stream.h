// What encoders and decoders of trits share: both walk over a tensor the same way, one taking trits, the other giving
// them.
#pragma once

#include <cstdint>

namespace sterna {

// Where an encoder takes trits from.
struct EncoderSource {
    const std::int8_t* trits;
    int get(std::uint64_t at) const { return trits[at]; }
    void put(std::uint64_t, std::int8_t) const {}
};

// Where a decoder puts them.
struct DecoderSink {
    std::int8_t* trits;
    int get(std::uint64_t) const { return 0; }
    void put(std::uint64_t at, std::int8_t trit) const { trits[at] = trit; }
};

// Channels that have counters of their own; those beyond share them, so that a claim of many channels takes no memory.
inline constexpr std::uint64_t kChannelCounters = 65536;

constexpr std::uint64_t channel_counters(std::uint64_t channels) {
    return channels < kChannelCounters ? channels : kChannelCounters;
}

}  // namespace sterna
