#include "core/codec/small_coder.h"

#include "core/codec/mixing.h"
#include "core/codec/range_coder.h"
#include "core/codec/trit_stream.h"

namespace sterna {
namespace {

constexpr std::int32_t kZeroWeight = 15729;  // 0.24
constexpr std::int32_t kSignWeight = 18350;  // 0.28
constexpr int kPositions = 32;
constexpr int kCounts = 10;

constexpr std::size_t index(std::int64_t value) {
    return static_cast<std::size_t>(value);
}

// Trits of one plane with a border of zeros (two above, two to the left, one to the right), so that every neighbour
// that a context looks at exists.
class Plane {
  public:
    Status reset(std::uint64_t rows, std::uint64_t columns) {
        pitch_ = columns + 3;
        return cells_.assign((rows + 2) * pitch_, 0);
    }
    std::int8_t* at(std::uint64_t row, std::uint64_t column) { return cells_.data() + (row + 2) * pitch_ + column + 2; }
    std::ptrdiff_t pitch() const { return static_cast<std::ptrdiff_t>(pitch_); }

  private:
    Buffer<std::int8_t> cells_;
    std::uint64_t pitch_ = 0;
};

// The trits around the one that is coded: l(eft), u(p), r(ight), doubled for a distance of two.
struct Neighbours {
    int l, ll, u, uu, ul, ur;

    Neighbours(const std::int8_t* here, std::ptrdiff_t pitch)
        : l(here[-1]),
          ll(here[-2]),
          u(here[-pitch]),
          uu(here[-2 * pitch]),
          ul(here[-pitch - 1]),
          ur(here[-pitch + 1]) {}
};

// The counters and mixers of one tensor. Coder is RangeEncoder or RangeDecoder; both walk the same way.
template <class Coder>
class TritModel {
  public:
    explicit TritModel(Coder& coder) : coder_(coder) {}

    Status prepare(std::uint64_t channels) {
        const auto counters = static_cast<std::size_t>(channel_counters(channels));
        if (const Status status = zero_channel_.assign(counters, Counter{}); status != Status::kOk) return status;
        return sign_channel_.assign(counters, Counter{});
    }

    void start_filter() { zero_filter_ = Counter{}; }

    void start_kernel() {
        nonzeros_ = 0;
        last_sign_ = 0;
    }

    int code(int trit, const Neighbours& n, std::uint64_t channel, int position) {
        const bool nonzero = code_nonzero(trit != 0, n, channel, position);
        if (!nonzero) return 0;
        const int value = code_negative(trit < 0, n, channel, position) ? -1 : 1;
        if (nonzeros_ < kCounts - 1) ++nonzeros_;
        last_sign_ = value;
        return value;
    }

  private:
    bool code_nonzero(bool bit, const Neighbours& n, std::uint64_t channel, int position) {
        const int flags = (n.l != 0) * 4 + (n.u != 0) * 2 + (n.ur != 0);
        const int signs = (((n.l + 1) * 3 + n.u + 1) * 3 + n.ur + 1) * 3 + n.ul + 1;
        zero_mixer_.set(0, &zero_flags_[index(position * 8 + flags)]);
        zero_mixer_.set(1, &zero_count_[index(position * kCounts + nonzeros_)]);
        zero_mixer_.set(2, &zero_channel_[static_cast<std::size_t>(channel % kChannelCounters)]);
        zero_mixer_.set(3, &zero_filter_);
        zero_mixer_.set(4, &zero_signs_[index(signs)]);
        return zero_mixer_.code(coder_, bit);
    }

    bool code_negative(bool bit, const Neighbours& n, std::uint64_t channel, int position) {
        const int near = n.l * 9 + n.u * 3 + n.ur;
        set_mirrored(0, sign_near_.data(), near * 3 + n.ul);
        set_mirrored(1, sign_far_.data(), n.l * 27 + n.u * 9 + n.ll * 3 + n.uu);
        set_mirrored(2, sign_last_.data(), last_sign_ * 27 + near);
        set_mirrored(3, sign_wide_.data(), near * 9 + n.ul * 3 + n.uu);
        sign_mixer_.set(4, &sign_channel_[static_cast<std::size_t>(channel % kChannelCounters)]);
        sign_mixer_.set(5, &sign_position_[index(position)]);
        return sign_mixer_.code(coder_, bit);
    }

    // A pattern of signs and its negative predict opposite signs with equal certainty; one without signs, nothing.
    void set_mirrored(int slot, Counter* counters, int pattern) {
        if (pattern == 0) {
            sign_mixer_.silence(slot);
        } else {
            sign_mixer_.set(slot, counters + (pattern < 0 ? -pattern : pattern), pattern < 0);
        }
    }

    Coder& coder_;
    Mixer<5, false> zero_mixer_{kZeroWeight};
    Mixer<6> sign_mixer_{kSignWeight};
    std::array<Counter, kPositions * 8> zero_flags_{};
    std::array<Counter, kPositions * kCounts> zero_count_{};
    std::array<Counter, 81> zero_signs_{};
    Buffer<Counter> zero_channel_;
    Counter zero_filter_{};
    std::array<Counter, 41> sign_near_{};
    std::array<Counter, 41> sign_far_{};
    std::array<Counter, 41> sign_last_{};
    std::array<Counter, 122> sign_wide_{};
    Buffer<Counter> sign_channel_;
    std::array<Counter, kPositions> sign_position_{};
    int nonzeros_ = 0;
    int last_sign_ = 0;
};

// Walks over a tensor of kernels with more than one position: neighbours are those in the kernel.
// `visit(at, trit_before)` is given the place of each trit in memory order and returns nothing; it codes cell by cell.
template <class Coder, class Source>
Status walk_kernels(Coder& coder, const KernelShape& shape, Source& trits) {
    TritModel<Coder> model(coder);
    if (const Status status = model.prepare(shape.channels); status != Status::kOk) return status;
    Plane plane;
    std::uint64_t at = 0;
    for (std::uint64_t filter = 0; filter < shape.filters; ++filter) {
        model.start_filter();
        for (std::uint64_t channel = 0; channel < shape.channels; ++channel) {
            if (coder.is_exhausted()) return Status::kTruncated;
            if (const Status status = plane.reset(shape.rows, shape.columns); status != Status::kOk) return status;
            model.start_kernel();
            int position = 0;
            for (std::uint64_t row = 0; row < shape.rows; ++row) {
                std::int8_t* cell = plane.at(row, 0);
                for (std::uint64_t column = 0; column < shape.columns; ++column, ++cell, ++at) {
                    const int trit = model.code(trits.get(at), Neighbours(cell, plane.pitch()), channel, position);
                    *cell = static_cast<std::int8_t>(trit);
                    trits.put(at, *cell);
                    position = (position + 1) % kPositions;
                }
            }
        }
    }
    return Status::kOk;
}

// Walks over a matrix (1x1 kernels): neighbours are those in the matrix of filters and channels.
template <class Coder, class Source>
Status walk_matrix(Coder& coder, const KernelShape& shape, Source& trits) {
    TritModel<Coder> model(coder);
    if (const Status status = model.prepare(shape.channels); status != Status::kOk) return status;
    Plane plane;
    if (const Status status = plane.reset(shape.filters, shape.channels); status != Status::kOk) return status;
    std::uint64_t at = 0;
    for (std::uint64_t filter = 0; filter < shape.filters; ++filter) {
        if (coder.is_exhausted()) return Status::kTruncated;
        model.start_filter();
        model.start_kernel();
        std::int8_t* cell = plane.at(filter, 0);
        for (std::uint64_t channel = 0; channel < shape.channels; ++channel, ++cell, ++at) {
            *cell = static_cast<std::int8_t>(model.code(trits.get(at), Neighbours(cell, plane.pitch()), channel, 0));
            trits.put(at, *cell);
        }
    }
    return Status::kOk;
}

template <class Coder, class Source>
Status walk(Coder& coder, const KernelShape& shape, Source& trits) {
    return shape.rows * shape.columns == 1 ? walk_matrix(coder, shape, trits) : walk_kernels(coder, shape, trits);
}

}  // namespace

Status encode_trits_small(const std::int8_t* trits, const KernelShape& shape, Buffer<std::uint8_t>& bytes) {
    if (shape.weights() == 0) return Status::kOk;
    RangeEncoder coder(bytes);
    EncoderSource source{trits};
    if (const Status status = walk(coder, shape, source); status != Status::kOk) return status;
    return coder.finish();
}

Status decode_trits_small(const std::uint8_t* bytes, std::size_t size, const KernelShape& shape, std::int8_t* trits) {
    if (shape.weights() == 0) return size == 0 ? Status::kOk : Status::kTrailingBytes;
    RangeDecoder coder(bytes, size);
    DecoderSink sink{trits};
    if (const Status status = walk(coder, shape, sink); status != Status::kOk) return status;
    return coder.finish();
}

}  // namespace sterna
