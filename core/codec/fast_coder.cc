#include "core/codec/fast_coder.h"

#include <array>

#include "core/codec/mixing.h"
#include "core/codec/range_coder.h"

namespace sterna {
namespace {

constexpr std::size_t kLanes = 4;
constexpr std::uint32_t kMinState = 1u << 16;  // a state is in [2^16, 2^32), and a word has 16 bits
constexpr int kMaxSymbols = 243;
// Left to the other symbols in every table, so that no symbol is free and few bytes cannot stand for a huge tensor.
constexpr std::uint32_t kReserve = 4;

std::size_t to_size(std::uint64_t value) {
    return static_cast<std::size_t>(value);
}

// Digit k of a symbol in base 3 is its trit k plus one.
struct SymbolTables {
    std::array<std::array<std::int8_t, 5>, kMaxSymbols> trits{};
    std::array<std::uint8_t, kMaxSymbols> fullness{};  // nonzero trits, up to 3

    constexpr SymbolTables() {
        for (std::size_t symbol = 0; symbol < kMaxSymbols; ++symbol) {
            std::size_t rest = symbol;
            int nonzeros = 0;
            for (std::size_t k = 0; k < 5; ++k, rest /= 3) {
                trits[symbol][k] = static_cast<std::int8_t>(static_cast<int>(rest % 3) - 1);
                nonzeros += rest % 3 != 1;
            }
            fullness[symbol] = static_cast<std::uint8_t>(nonzeros < 3 ? nonzeros : 3);
        }
    }
};
constexpr SymbolTables kSymbols;

// How a tensor is cut into symbols, in memory order. Kernels of three columns give a symbol a row, in the context of
// the row above; everything else five trits a symbol, in the context of how full the symbol before is. Each of the
// lanes codes a run of symbols with a state of its own, so that the processor works on four at a time.
struct Grouping {
    explicit Grouping(const KernelShape& shape)
        : weights(shape.weights()),
          by_row(shape.columns == 3 && shape.rows > 1),
          group(by_row ? 3 : 5),
          alphabet(by_row ? 27 : 243),
          precision(by_row ? 12 : 14),
          contexts(by_row ? 28 : 4),
          rows(by_row ? shape.rows : 1),
          symbols((weights + group - 1) / group),
          // A lane never begins within a kernel.
          lane_symbols((symbols / rows + kLanes - 1) / kLanes * rows) {}

    std::uint64_t lane_begin(std::uint64_t lane) const { return lane * lane_symbols; }
    std::uint64_t lane_size(std::uint64_t lane) const {
        const std::uint64_t begin = lane_begin(lane);
        return begin >= symbols ? 0 : symbols - begin < lane_symbols ? symbols - begin : lane_symbols;
    }
    // The context of the symbol of a lane at `step`, after the symbol `before` of that lane.
    unsigned context(std::uint64_t step, unsigned before) const {
        if (by_row) return step % rows == 0 ? kFirstRow : before;
        return step == 0 ? 0 : kSymbols.fullness[before];
    }

    static constexpr unsigned kFirstRow = 27;

    std::uint64_t weights;
    bool by_row;
    unsigned group;
    unsigned alphabet;
    unsigned precision;  // bits; frequencies of a table sum to 2^precision
    unsigned contexts;
    std::uint64_t rows;
    std::uint64_t symbols;
    std::uint64_t lane_symbols;
};

using Frequencies = std::array<std::uint32_t, kMaxSymbols>;

// Frequencies in a few bits each: is it zero, how many bits has it, and which.
template <class Coder>
class FrequencyCoder {
  public:
    explicit FrequencyCoder(Coder& coder) : coder_(coder) {}

    bool code_flag(bool flag) { return code(used_, flag); }

    std::uint32_t code_frequency(std::uint32_t frequency, unsigned precision) {
        if (code(zero_[was_zero_], frequency == 0)) {
            was_zero_ = 1;
            return 0;
        }
        was_zero_ = 0;
        unsigned bits = 0;
        while (bits < precision && code(length_[bits], (frequency >> 1 >> bits) != 0)) ++bits;
        std::uint32_t value = 1;
        for (unsigned bit = bits; bit-- > 0;) {
            value = value * 2 + coder_.code((frequency >> bit & 1) != 0, kProbabilityOne / 2);
        }
        return value;
    }

  private:
    bool code(Counter& counter, bool bit) {
        bit = coder_.code(bit, clamp_probability(counter.probability));
        counter.update(bit);
        return bit;
    }

    Coder& coder_;
    Counter used_{};
    std::array<Counter, 2> zero_{};
    std::array<Counter, 16> length_{};
    std::size_t was_zero_ = 0;
};

// Scales counts to frequencies that sum to 2^precision; none that occurs gets 0, none gets all.
void normalize(const std::uint64_t* counts, const Grouping& grouping, std::uint32_t* frequencies) {
    const std::uint32_t total = 1u << grouping.precision;
    std::uint64_t occurrences = 0;
    for (unsigned s = 0; s < grouping.alphabet; ++s) occurrences += counts[s];
    std::int64_t missing = total;
    unsigned largest = 0;
    for (unsigned s = 0; s < grouping.alphabet; ++s) {
        const std::uint64_t scaled = counts[s] * total / occurrences;
        frequencies[s] = counts[s] == 0 ? 0 : scaled == 0 ? 1 : static_cast<std::uint32_t>(scaled);
        missing -= frequencies[s];
        if (frequencies[s] > frequencies[largest]) largest = s;
    }
    if (missing > 0) frequencies[largest] += static_cast<std::uint32_t>(missing);
    for (; missing < 0; ++missing) {
        for (unsigned s = 0; s < grouping.alphabet; ++s) {
            if (frequencies[s] > frequencies[largest]) largest = s;
        }
        --frequencies[largest];
    }
    if (frequencies[largest] > total - kReserve) {
        const std::uint32_t excess = frequencies[largest] - (total - kReserve);
        frequencies[largest] -= excess;
        frequencies[largest == 0 ? 1 : 0] += excess;
    }
}

std::uint8_t low_byte(std::uint64_t value) {
    return static_cast<std::uint8_t>(value & 0xff);
}

// Writes a tensor with one table for all symbols, or one for each context.
class FastEncoder {
  public:
    FastEncoder(const std::int8_t* trits, const Grouping& grouping, bool one_table)
        : trits_(trits), grouping_(grouping), one_table_(one_table), tables_(one_table ? 1 : grouping.contexts) {}

    Status encode(Buffer<std::uint8_t>& bytes) {
        if (const Status status = make_symbols(); status != Status::kOk) return status;
        if (const Status status = make_frequencies(); status != Status::kOk) return status;
        if (const Status status = put_frequencies(bytes); status != Status::kOk) return status;
        return put_symbols(bytes);
    }

  private:
    Status make_symbols() {
        if (const Status status = symbols_.assign(grouping_.symbols, 0); status != Status::kOk) return status;
        for (std::uint64_t i = 0; i < grouping_.symbols; ++i) {
            unsigned symbol = 0;
            unsigned place = 1;
            for (unsigned k = 0; k < grouping_.group; ++k, place *= 3) {
                const std::uint64_t at = i * grouping_.group + k;
                const int trit = at < grouping_.weights ? trits_[at] : 0;
                symbol += static_cast<unsigned>(trit + 1) * place;
            }
            symbols_[to_size(i)] = static_cast<std::uint8_t>(symbol);
        }
        return Status::kOk;
    }

    std::size_t table(std::uint64_t begin, std::uint64_t step) const {
        if (one_table_) return 0;
        return grouping_.context(step, step == 0 ? 0 : symbols_[to_size(begin + step - 1)]);
    }

    Status make_frequencies() {
        Buffer<std::uint64_t> counts;
        if (const Status status = counts.assign(tables_ * kMaxSymbols, 0); status != Status::kOk) return status;
        if (const Status status = frequencies_.assign(tables_ * kMaxSymbols, 0); status != Status::kOk) return status;
        if (const Status status = used_.assign(tables_, false); status != Status::kOk) return status;
        for (std::size_t lane = 0; lane < kLanes; ++lane) {
            const std::uint64_t begin = grouping_.lane_begin(lane);
            for (std::uint64_t step = 0; step < grouping_.lane_size(lane); ++step) {
                const std::size_t t = table(begin, step);
                ++counts[t * kMaxSymbols + symbols_[to_size(begin + step)]];
                used_[t] = true;
            }
        }
        for (std::size_t t = 0; t < tables_; ++t) {
            if (!used_[t]) continue;
            normalize(counts.data() + t * kMaxSymbols, grouping_, frequencies_.data() + t * kMaxSymbols);
        }
        return Status::kOk;
    }

    Status put_frequencies(Buffer<std::uint8_t>& bytes) {
        Buffer<std::uint8_t> coded;
        RangeEncoder coder(coded);
        FrequencyCoder<RangeEncoder> frequencies(coder);
        for (std::size_t t = 0; t < tables_; ++t) {
            if (!frequencies.code_flag(used_[t])) continue;
            for (unsigned s = 0; s < grouping_.alphabet; ++s) {
                frequencies.code_frequency(frequencies_[t * kMaxSymbols + s], grouping_.precision);
            }
        }
        if (const Status status = coder.finish(); status != Status::kOk) return status;
        // At most 28 tables of 27 or 4 of 243 frequencies: two bytes hold the size.
        const std::size_t head = coded.size() * 2 + (one_table_ ? 1 : 0);
        if (const Status status = bytes.push_back(low_byte(head)); status != Status::kOk) return status;
        if (const Status status = bytes.push_back(low_byte(head >> 8)); status != Status::kOk) return status;
        for (std::size_t i = 0; i < coded.size(); ++i) {
            if (const Status status = bytes.push_back(coded[i]); status != Status::kOk) return status;
        }
        return Status::kOk;
    }

    Status put_symbols(Buffer<std::uint8_t>& bytes) {
        Buffer<std::uint32_t> starts;
        if (const Status status = starts.assign(tables_ * kMaxSymbols, 0); status != Status::kOk) return status;
        for (std::size_t t = 0; t < tables_; ++t) {
            for (std::size_t s = 1; s < grouping_.alphabet; ++s) {
                const std::size_t at = t * kMaxSymbols + s;
                starts[at] = starts[at - 1] + frequencies_[at - 1];
            }
        }
        // A decoder reads what was written last first, so everything is written from the end.
        Buffer<std::uint16_t> words;
        std::array<std::uint32_t, kLanes> states;
        states.fill(kMinState);
        for (std::uint64_t step = grouping_.lane_symbols; step-- > 0;) {
            for (std::size_t lane = kLanes; lane-- > 0;) {
                if (step >= grouping_.lane_size(lane)) continue;
                const std::uint64_t begin = grouping_.lane_begin(lane);
                const std::size_t at = table(begin, step) * kMaxSymbols + symbols_[to_size(begin + step)];
                const std::uint32_t frequency = frequencies_[at];
                std::uint32_t& state = states[lane];
                if (state >= std::uint64_t{frequency} << (32 - grouping_.precision)) {
                    const auto word = static_cast<std::uint16_t>(state & 0xffff);
                    if (const Status status = words.push_back(word); status != Status::kOk) return status;
                    state >>= 16;
                }
                state = ((state / frequency) << grouping_.precision) + state % frequency + starts[at];
            }
        }
        for (const std::uint32_t state : states) {
            for (unsigned byte = 0; byte < 4; ++byte) {
                if (const Status status = bytes.push_back(low_byte(state >> 8 * byte)); status != Status::kOk) {
                    return status;
                }
            }
        }
        for (std::size_t i = words.size(); i-- > 0;) {
            if (const Status status = bytes.push_back(low_byte(words[i])); status != Status::kOk) return status;
            if (const Status status = bytes.push_back(low_byte(words[i] >> 8u)); status != Status::kOk) return status;
        }
        return Status::kOk;
    }

    const std::int8_t* trits_;
    const Grouping& grouping_;
    bool one_table_;
    std::size_t tables_;
    Buffer<std::uint8_t> symbols_;
    Buffer<std::uint32_t> frequencies_;
    Buffer<bool> used_;
};

class FastDecoder {
  public:
    FastDecoder(const std::uint8_t* bytes, std::size_t size, const Grouping& grouping)
        : bytes_(bytes), size_(size), grouping_(grouping) {}

    Status decode(std::int8_t* trits) {
        if (const Status status = read_frequencies(); status != Status::kOk) return status;
        if (size_ - position_ < 4 * kLanes) return Status::kTruncated;
        for (std::uint32_t& state : states_) {
            for (unsigned byte = 0; byte < 4; ++byte) state |= std::uint32_t{bytes_[position_++]} << 8 * byte;
            if (state < kMinState) return Status::kBadState;
        }
        return read_symbols(trits);
    }

  private:
    // One symbol of a table: its share of the slots [start, start + frequency).
    struct Share {
        std::uint16_t start;
        std::uint16_t frequency;
    };

    Status read_frequencies() {
        if (size_ < 2) return Status::kTruncated;
        const unsigned head = bytes_[0] + bytes_[1] * 256u;
        const std::size_t coded = head / 2;
        one_table_ = (head & 1) != 0;
        position_ = 2 + coded;
        if (position_ > size_) return Status::kTruncated;
        const std::size_t tables = one_table_ ? 1 : grouping_.contexts;
        if (const Status status = slots_.assign(tables << grouping_.precision, 0); status != Status::kOk) return status;
        if (const Status status = shares_.assign(tables * kMaxSymbols, Share{}); status != Status::kOk) return status;
        RangeDecoder coder(bytes_ + 2, coded);
        FrequencyCoder<RangeDecoder> frequencies(coder);
        const std::uint32_t total = 1u << grouping_.precision;
        for (std::size_t t = 0; t < tables; ++t) {
            // A table that is not used has no slots; its one share leaves a state that is refused.
            if (!frequencies.code_flag(false)) continue;
            std::uint32_t start = 0;
            for (unsigned s = 0; s < grouping_.alphabet; ++s) {
                const std::uint32_t frequency = frequencies.code_frequency(0, grouping_.precision);
                if (frequency > total - kReserve || frequency > total - start) return Status::kBadTable;
                shares_[t * kMaxSymbols + s] = {static_cast<std::uint16_t>(start),
                                                static_cast<std::uint16_t>(frequency)};
                std::uint8_t* const slots = slots_.data() + (t << grouping_.precision) + start;
                for (std::uint32_t i = 0; i < frequency; ++i) slots[i] = static_cast<std::uint8_t>(s);
                start += frequency;
            }
            if (start != total) return Status::kBadTable;
        }
        return coder.finish() == Status::kOk ? Status::kOk : Status::kBadTable;
    }

    Status read_symbols(std::int8_t* trits) {
        std::array<unsigned, kLanes> before{};
        for (std::uint64_t step = 0; step < grouping_.lane_symbols; ++step) {
            for (std::size_t lane = 0; lane < kLanes; ++lane) {
                if (step >= grouping_.lane_size(lane)) continue;
                const std::size_t table = one_table_ ? 0 : grouping_.context(step, before[lane]);
                std::uint32_t& state = states_[lane];
                const std::uint32_t slot = state & ((1u << grouping_.precision) - 1);
                const unsigned symbol = slots_[(table << grouping_.precision) + slot];
                const Share share = shares_[table * kMaxSymbols + symbol];
                state = share.frequency * (state >> grouping_.precision) + slot - share.start;
                if (state < kMinState) {
                    if (size_ - position_ < 2) return Status::kTruncated;
                    state = state << 16 | bytes_[position_] | std::uint32_t{bytes_[position_ + 1]} << 8;
                    position_ += 2;
                    if (state < kMinState) return Status::kBadState;
                }
                before[lane] = symbol;
                const std::uint64_t at = (grouping_.lane_begin(lane) + step) * grouping_.group;
                for (unsigned k = 0; k < grouping_.group; ++k) {
                    if (at + k < grouping_.weights) trits[at + k] = kSymbols.trits[symbol][k];
                }
            }
        }
        for (const std::uint32_t state : states_) {
            if (state != kMinState) return Status::kBadState;
        }
        return position_ < size_ ? Status::kTrailingBytes : Status::kOk;
    }

    const std::uint8_t* bytes_;
    std::size_t size_;
    const Grouping& grouping_;
    std::size_t position_ = 0;
    bool one_table_ = false;
    Buffer<std::uint8_t> slots_;
    Buffer<Share> shares_;
    std::array<std::uint32_t, kLanes> states_{};
};

}  // namespace

Status encode_trits_fast(const std::int8_t* trits, const KernelShape& shape, Buffer<std::uint8_t>& bytes) {
    const Grouping grouping(shape);
    if (grouping.weights == 0) return Status::kOk;
    Buffer<std::uint8_t> one;
    if (const Status status = FastEncoder(trits, grouping, true).encode(one); status != Status::kOk) return status;
    Buffer<std::uint8_t> many;
    if (const Status status = FastEncoder(trits, grouping, false).encode(many); status != Status::kOk) return status;
    const Buffer<std::uint8_t>& smaller = many.size() < one.size() ? many : one;
    for (std::size_t i = 0; i < smaller.size(); ++i) {
        if (const Status status = bytes.push_back(smaller[i]); status != Status::kOk) return status;
    }
    return Status::kOk;
}

Status decode_trits_fast(const std::uint8_t* bytes, std::size_t size, const KernelShape& shape, std::int8_t* trits) {
    const Grouping grouping(shape);
    if (grouping.weights == 0) return size == 0 ? Status::kOk : Status::kTrailingBytes;
    return FastDecoder(bytes, size, grouping).decode(trits);
}

}  // namespace sterna
