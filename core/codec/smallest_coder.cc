#include "core/codec/smallest_coder.h"

#include <algorithm>
#include <array>
#include <cstdlib>

#include "core/codec/mixing.h"
#include "core/codec/range_coder.h"
#include "core/codec/trit_stream.h"

namespace sterna {
namespace {

constexpr int kPositions = 32;
constexpr int kCells = 9;        // positions that each channel has a counter for
constexpr int kCounts = 10;      // nonzeros of a kernel, 9 for all above
constexpr int kSpan = 10;        // trits that a predictor looks at
constexpr int kPatterns = 41;    // patterns of four trits, a pattern and its negative being one
constexpr int kHistories = 122;  // the same of five trits
constexpr int kDoubtLevels = 8;
constexpr int kEnergyLevels = 10;
constexpr std::int32_t kUnit = 256;  // an input of 1

// Weights are in 1 / 2^22: coarser ones would round the small steps of a frequent outcome to nothing, but not the large
// steps of a rare one, and drift.
constexpr int kWeightBits = 22;
constexpr std::int32_t kMaxWeight = 16 << kWeightBits;

// Weights at the start are given in 1/256.
template <std::size_t N>
constexpr std::array<std::int32_t, N> weights_of(std::array<std::int32_t, N> given) {
    for (std::int32_t& weight : given) weight *= 1 << (kWeightBits - 8);
    return given;
}

constexpr std::size_t index(std::int64_t value) {
    return static_cast<std::size_t>(value);
}

constexpr std::int32_t probability_of(std::int64_t logit) {
    return kSquash[index(std::clamp<std::int64_t>(logit, -kMaxLogit, kMaxLogit) + kMaxLogit)];
}

// A counter of mixing.h, slower and finer in the end: with thousands of weights alike, 1 / 256.5 would be noise.
constexpr std::int32_t kDeepLimit = 1023;
constexpr std::array<std::int32_t, kDeepLimit + 1> make_deep_rates() {
    std::array<std::int32_t, kDeepLimit + 1> table{};
    for (std::int32_t n = 0; n <= kDeepLimit; ++n) table[index(n)] = 131072 / (2 * n + 3);
    return table;
}
constexpr std::array<std::int32_t, kDeepLimit + 1> make_deep_confidences() {
    std::array<std::int32_t, kDeepLimit + 1> table{};
    for (std::int32_t n = 0; n <= kDeepLimit; ++n) table[index(n)] = 256 * n / (n + 8);
    return table;
}
constexpr std::array<std::int32_t, kDeepLimit + 1> kDeepRates = make_deep_rates();
constexpr std::array<std::int32_t, kDeepLimit + 1> kDeepConfidences = make_deep_confidences();

struct DeepCounter {
    std::uint32_t probability : 22 = 1u << 21;
    std::uint32_t seen : 10 = 0;

    std::int32_t logit() const { return kStretch[probability >> 10]; }

    void update(bool bit) {
        const auto before = static_cast<std::int32_t>(probability);
        const std::int64_t step = std::int64_t{(bit ? 1 << 22 : 0) - before} * kDeepRates[seen];
        probability = static_cast<std::uint32_t>(before + (step >> 16)) & 0x3fffff;
        if (seen < kDeepLimit) seen = (seen + 1) & 0x3ff;
    }
};

// How far weights follow an error: fast at first, since most tensors are small, then ever more slowly.
constexpr std::int64_t kMaxSteps = 1 << 20;
template <std::int32_t kFast, std::int32_t kSlow, std::int32_t kSteps>
class Rate {
  public:
    std::int32_t next() {
        const std::int32_t rate = kSlow + kFast * kSteps / (kSteps + step_);
        if (step_ < kMaxSteps) ++step_;
        return rate;
    }

  private:
    std::int32_t step_ = 0;
};

constexpr std::int32_t nudge(std::int32_t input, std::int32_t error) {
    return (input * error + 128) >> 8;
}

constexpr std::int32_t moved(std::int32_t weight, std::int32_t by) {
    return std::clamp(weight + by, -kMaxWeight, kMaxWeight);
}

// Predicts a decision as a sum of the trits around, each with a weight of its own that depends on the position too.
// What it finds is not coded with, but is an input and a context of the mixers.
class Predictor {
  public:
    void prepare(const std::array<std::int32_t, kSpan>& weights) { common_ = weights_of(weights); }

    std::int32_t logit(const std::array<std::int32_t, kSpan>& inputs, int position) {
        inputs_ = inputs;
        position_ = index(position);
        std::int64_t sum = 0;
        for (std::size_t i = 0; i < kSpan; ++i) {
            sum += std::int64_t{inputs[i]} * (common_[i] + own_[position_][i]);
        }
        return static_cast<std::int32_t>(std::clamp<std::int64_t>(sum >> kWeightBits, -kMaxLogit, kMaxLogit));
    }

    // `logit` is what the decision was thought to be.
    void update(bool bit, std::int32_t logit) {
        const std::int32_t miss = (bit ? 65536 : 0) - probability_of(logit);
        const std::int32_t common_error = (miss * common_rate_.next()) >> 10;
        const std::int32_t own_error = (miss * own_rate_[position_].next()) >> 10;
        for (std::size_t i = 0; i < kSpan; ++i) {
            common_[i] = moved(common_[i], nudge(inputs_[i], common_error));
            own_[position_][i] = moved(own_[position_][i], nudge(inputs_[i], own_error));
        }
    }

  private:
    using PredictorRate = Rate<3200, 96, 300>;
    std::array<std::int32_t, kSpan> common_{};
    std::array<std::array<std::int32_t, kSpan>, kPositions> own_{};
    PredictorRate common_rate_{};
    std::array<PredictorRate, kPositions> own_rate_{};
    std::array<std::int32_t, kSpan> inputs_{};
    std::size_t position_ = 0;
};

// Contexts that choose weights. The weight of an input is the sum of one weight of each set: one of the set `all`,
// and one of each of the sets that these numbers choose from.
constexpr int kSets = 5;
constexpr std::array<int, kSets> kSetSizes = {1, kCounts, 9, 16, kPatterns};
constexpr int kRows = 1 + kCounts + 9 + 16 + kPatterns;
using Choice = std::array<int, kSets>;

// Mixes the logits of N counters, relative to `base`, and of M other inputs.
template <int N, int M>
class DeepMixer {
  public:
    explicit DeepMixer(const std::array<std::int32_t, N + M>& initial) { weights_[0] = weights_of(initial); }

    void set(int slot, DeepCounter& counter, bool mirrored = false) {
        counters_[index(slot)] = &counter;
        mirrored_[index(slot)] = mirrored;
    }
    // A counter that knows nothing here.
    void silence(int slot) { counters_[index(slot)] = nullptr; }
    void set_input(int slot, std::int32_t input) { inputs_[index(N + slot)] = input; }

    template <class Coder>
    bool code(Coder& coder, bool bit, const DeepCounter& base, const Choice& choice) {
        const std::int32_t base_logit = base.logit();
        for (std::size_t i = 0; i < N; ++i) {
            inputs_[i] = 0;
            if (counters_[i] == nullptr) continue;
            // What is new starts where everything is, not at one half.
            if (counters_[i]->seen == 0) counters_[i]->probability = base.probability;
            const std::int32_t offset = counters_[i]->logit() - base_logit;
            const std::int32_t trusted = (offset * kDeepConfidences[counters_[i]->seen]) >> 8;
            inputs_[i] = mirrored_[i] ? -trusted : trusted;
        }
        std::array<std::array<std::int32_t, N + M>*, kSets> sets{};
        int first = 0;
        for (std::size_t s = 0; s < kSets; ++s) {
            sets[s] = &weights_[index(first + choice[s])];
            first += kSetSizes[s];
        }
        std::int64_t sum = 0;
        for (std::size_t i = 0; i < N + M; ++i) {
            std::int32_t weight = 0;
            for (const auto* set : sets) weight += (*set)[i];
            sum += std::int64_t{inputs_[i]} * weight;
        }
        const std::int32_t probability = probability_of(base_logit + (sum >> kWeightBits));
        bit = coder.code(bit, static_cast<std::uint32_t>(probability));

        const std::int32_t error = (((bit ? 65536 : 0) - probability) * rate_.next()) >> 10;
        for (std::size_t i = 0; i < N + M; ++i) {
            const std::int32_t by = nudge(inputs_[i], error);
            for (auto* set : sets) (*set)[i] = moved((*set)[i], by);
        }
        for (std::size_t i = 0; i < N; ++i) {
            if (counters_[i] != nullptr) counters_[i]->update(bit != mirrored_[i]);
        }
        return bit;
    }

  private:
    std::array<std::array<std::int32_t, N + M>, kRows> weights_{};
    std::array<std::int32_t, N + M> inputs_{};
    std::array<DeepCounter*, N> counters_{};
    std::array<bool, N> mirrored_{};
    Rate<640, 32, 600> rate_{};
};

// The row that is coded and the two above it, with a border of zeros, so that every neighbour exists. No more of a
// plane is kept, so that the memory for a matrix does not grow with its rows.
class Rows {
  public:
    Status prepare(std::uint64_t columns) {
        const std::uint64_t pitch = columns + 4;
        pitch_ = static_cast<std::size_t>(pitch);
        return cells_.assign(3 * pitch, 0);
    }
    void clear() { std::fill(cells_.data(), cells_.data() + cells_.size(), std::int8_t{0}); }
    void next() { newest_ = (newest_ + 1) % 3; }
    // The row at `up` (0 to 2) rows above.
    std::int8_t* row(unsigned up) { return cells_.data() + ((newest_ + 3 - up) % 3) * pitch_ + 2; }

  private:
    Buffer<std::int8_t> cells_;
    std::size_t pitch_ = 0;
    unsigned newest_ = 0;
};

// The trits around the one that is coded, in the order of a predictor's weights: l(eft), u(p), r(ight), doubled for a
// distance of two.
enum Neighbour : std::size_t { kL, kLL, kU, kUL, kUR, kULL, kURR, kUU, kUUL, kUUR };
using Neighbours = std::array<int, kSpan>;

// What a predictor starts with where kernels have a shape: neighbours tend to be alike.
constexpr std::array<std::int32_t, kSpan> kEnergyWeights = {307, 102, 154, 51, 102, 0, 51, 51, 0, 0};
constexpr std::array<std::int32_t, kSpan> kSignWeights = {-512, -51, -410, 26, -128, 26, -26, 0, 0, 26};

struct ChannelCounters {
    DeepCounter zero;
    DeepCounter negative;
    std::array<DeepCounter, kCells> zero_cell;
};

// The counters and mixers of one tensor. Coder is RangeEncoder or RangeDecoder; both walk the same way.
template <class Coder>
class DeepModel {
  public:
    explicit DeepModel(Coder& coder) : coder_(coder) {}

    Status prepare(std::uint64_t channels, bool kernels_have_shape) {
        if (kernels_have_shape) {
            energy_.prepare(kEnergyWeights);
            sign_.prepare(kSignWeights);
        }
        return channels_.assign(static_cast<std::size_t>(channel_counters(channels)), ChannelCounters{});
    }

    void start_filter() {
        zero_filter_ = DeepCounter{};
        filter_ = std::min(filter_ + 1, 15);
    }

    void start_kernel() { nonzeros_ = sum_ = last_ = flags_ = trail_ = 0; }

    int code(int trit, const Neighbours& n, std::uint64_t channel, int position, int cell) {
        std::array<std::int32_t, kSpan> signs{};
        std::array<std::int32_t, kSpan> flags{};
        const auto density = static_cast<std::int32_t>(all_.probability >> 14);
        for (std::size_t i = 0; i < kSpan; ++i) {
            signs[i] = n[i] * kUnit;
            flags[i] = (n[i] != 0 ? kUnit : 0) - density;
        }
        const std::int32_t sign = sign_.logit(signs, position);
        const std::int32_t energy = energy_.logit(flags, position);

        ChannelCounters& own = channels_[static_cast<std::size_t>(channel % kChannelCounters)];
        const int pattern = n[kL] * 27 + n[kU] * 9 + n[kUR] * 3 + n[kUL];
        const Choice choice = {0, nonzeros_, std::abs(n[kL] * 3 + n[kU]), filter_, std::abs(pattern)};

        const bool nonzero = code_nonzero(trit != 0, own, choice, sign, energy, position, cell);
        flags_ = (flags_ * 2 + nonzero) & 255;
        int value = 0;
        if (nonzero) {
            value = code_negative(trit < 0, own, choice, n, sign, position) ? -1 : 1;
            nonzeros_ = std::min(nonzeros_ + 1, kCounts - 1);
            sum_ = std::clamp(sum_ + value, -8, 8);
            last_ = value;
        }
        // The latest five trits: what is older falls off the top, which for balanced digits needs the remainder that is
        // nearest to zero.
        trail_ = trail_ * 3 + value;
        if (trail_ > 121) trail_ -= 243;
        if (trail_ < -121) trail_ += 243;
        return value;
    }

  private:
    bool code_nonzero(bool bit, ChannelCounters& own, const Choice& choice, std::int32_t sign, std::int32_t energy,
                      int position, int cell) {
        const int doubt = std::min((std::abs(sign) + 50) / 100, kDoubtLevels - 1);
        const int level = (std::clamp(energy, -400, 399) + 400) / 80;
        zero_mixer_.set(0, own.zero);
        zero_mixer_.set(1, own.zero_cell[index(cell)]);
        zero_mixer_.set(2, zero_filter_);
        zero_mixer_.set(3, zero_position_[index(position)]);
        zero_mixer_.set(4, zero_around_[index((doubt * kEnergyLevels + level) * kPositions + position)]);
        zero_mixer_.set(5, zero_flags_[index(flags_ * kPositions + position)]);
        zero_mixer_.set_input(0, energy);
        zero_mixer_.set_input(1, std::abs(sign) - 180);
        const std::int32_t expected = all_.logit() + energy;
        bit = zero_mixer_.code(coder_, bit, all_, choice);
        energy_.update(bit, expected);
        all_.update(bit);
        return bit;
    }

    bool code_negative(bool bit, ChannelCounters& own, const Choice& choice, const Neighbours& n, std::int32_t sign,
                       int position) {
        sign_mixer_.set(0, own.negative);
        sign_mixer_.set(1, sign_position_[index(position)]);
        set_mirrored(2, sign_far_.data(), n[kL] * 27 + n[kU] * 9 + n[kLL] * 3 + n[kUU]);
        set_mirrored(3, sign_last_.data(), last_ * 27 + n[kL] * 9 + n[kU] * 3 + n[kUR]);
        set_mirrored(4, sign_trail_.data() + position * kHistories, trail_);
        sign_mixer_.set_input(0, sign);
        sign_mixer_.set_input(1, sum_ * (kUnit / 2));
        sign_mixer_.set_input(2, last_ * kUnit);
        sign_mixer_.set_input(3, kUnit);
        bit = sign_mixer_.code(coder_, bit, even_, choice);
        sign_.update(bit, sign);
        return bit;
    }

    // A pattern of signs and its negative predict opposite signs with equal certainty; one without signs, nothing.
    void set_mirrored(int slot, DeepCounter* counters, int pattern) {
        if (pattern == 0) {
            sign_mixer_.silence(slot);
        } else {
            sign_mixer_.set(slot, counters[std::abs(pattern)], pattern < 0);
        }
    }

    Coder& coder_;
    Predictor energy_{};
    Predictor sign_{};
    DeepMixer<6, 2> zero_mixer_{{32, 32, 32, 32, 32, 32, 102, 38}};
    DeepMixer<5, 4> sign_mixer_{{51, 51, 51, 51, 51, 205, 0, 0, 0}};
    DeepCounter all_{};
    const DeepCounter even_{};
    Buffer<ChannelCounters> channels_;
    DeepCounter zero_filter_{};
    std::array<DeepCounter, kPositions> zero_position_{};
    std::array<DeepCounter, kDoubtLevels * kEnergyLevels * kPositions> zero_around_{};
    std::array<DeepCounter, 256 * kPositions> zero_flags_{};
    std::array<DeepCounter, kPositions> sign_position_{};
    std::array<DeepCounter, kPatterns> sign_far_{};
    std::array<DeepCounter, kPatterns> sign_last_{};
    std::array<DeepCounter, kHistories * kPositions> sign_trail_{};
    int filter_ = -1;
    int nonzeros_ = 0;
    int sum_ = 0;
    int last_ = 0;
    int flags_ = 0;
    int trail_ = 0;
};

// The part of `parts` that `position` of `size` falls in: its own if there are enough.
int part_of(std::uint64_t position, std::uint64_t size, int parts) {
    const auto count = static_cast<std::uint64_t>(parts);
    return static_cast<int>(size <= count ? position : position * count / size);
}

// Where kernels have a shape (more than one position), neighbours are those in the kernel; elsewhere they are those in
// the matrix of filters and channels.
// `trits` gives each trit in memory order to an encoder, and is given it by a decoder.
template <class Coder, class Trits>
Status walk(Coder& coder, const KernelShape& shape, Trits& trits) {
    const std::uint64_t size = shape.rows * shape.columns;
    const bool kernels_have_shape = size > 1;
    DeepModel<Coder> model(coder);
    if (const Status status = model.prepare(shape.channels, kernels_have_shape); status != Status::kOk) return status;
    Rows rows;
    if (const Status status = rows.prepare(kernels_have_shape ? shape.columns : shape.channels);
        status != Status::kOk) {
        return status;
    }
    std::uint64_t at = 0;
    for (std::uint64_t filter = 0; filter < shape.filters; ++filter) {
        model.start_filter();
        if (!kernels_have_shape) rows.next();
        for (std::uint64_t channel = 0; channel < shape.channels; ++channel) {
            model.start_kernel();
            if (kernels_have_shape) rows.clear();
            for (std::uint64_t row = 0; row < shape.rows; ++row) {
                if (coder.is_exhausted()) return Status::kTruncated;
                if (kernels_have_shape) rows.next();
                const std::uint64_t first = kernels_have_shape ? 0 : channel;
                std::int8_t* here = rows.row(0) + first;
                const std::int8_t* up = rows.row(1) + first;
                const std::int8_t* far = rows.row(2) + first;
                for (std::uint64_t column = 0; column < shape.columns; ++column, ++here, ++up, ++far, ++at) {
                    const std::uint64_t position = row * shape.columns + column;
                    const Neighbours near = {here[-1], here[-2], up[0],  up[-1],  up[1],
                                             up[-2],   up[2],    far[0], far[-1], far[1]};
                    const int trit = model.code(trits.get(at), near, channel, part_of(position, size, kPositions),
                                                part_of(position, size, kCells));
                    *here = static_cast<std::int8_t>(trit);
                    trits.put(at, *here);
                }
            }
        }
    }
    return Status::kOk;
}

}  // namespace

Status encode_trits_smallest(const std::int8_t* trits, const KernelShape& shape, Buffer<std::uint8_t>& bytes) {
    if (shape.weights() == 0) return Status::kOk;
    RangeEncoder coder(bytes);
    EncoderSource source{trits};
    if (const Status status = walk(coder, shape, source); status != Status::kOk) return status;
    return coder.finish();
}

Status decode_trits_smallest(const std::uint8_t* bytes, std::size_t size, const KernelShape& shape,
                             std::int8_t* trits) {
    if (shape.weights() == 0) return size == 0 ? Status::kOk : Status::kTrailingBytes;
    RangeDecoder coder(bytes, size);
    DecoderSink sink{trits};
    if (const Status status = walk(coder, shape, sink); status != Status::kOk) return status;
    return coder.finish();
}

}  // namespace sterna
