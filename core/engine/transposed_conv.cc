#include "core/engine/transposed_conv.h"

#include <algorithm>
#include <cmath>

namespace sterna {
namespace {

constexpr float kInt8Largest = 127.0f;
// Of all phases: far beyond any network.
constexpr std::uint64_t kMaxPhaseWeights = std::uint64_t{1} << 27;

// One axis of the phases. Row i of phase p is row r = i stride + p of the output. Kernel row k = (r + pad) mod stride +
// m stride takes row (r + pad - k) / stride = i + shift(p) - m of the input.
struct Axis {
    std::uint32_t stride, kernel, pad;
    std::uint32_t phases, size;
    // Of the ordinary convolution: its row t takes row i + t - before.
    std::uint32_t taps = 1;
    std::int32_t before = 0;

    Axis(std::uint32_t stride_of_axis, std::uint32_t kernel_of_axis, std::uint32_t pad_of_axis, std::uint32_t output)
        : stride(stride_of_axis),
          kernel(kernel_of_axis),
          pad(pad_of_axis),
          phases(std::min(stride, output)),
          size((output + stride - 1) / stride) {
        std::int64_t least = 0, greatest = 0;
        bool has_any = false;
        for (std::uint32_t phase = 0; phase < phases; ++phase) {
            if (first_row(phase) >= kernel) continue;
            const std::int64_t last = (kernel - 1 - first_row(phase)) / stride;
            least = has_any ? std::min(least, shift(phase) - last) : shift(phase) - last;
            greatest = has_any ? std::max(greatest, shift(phase)) : shift(phase);
            has_any = true;
        }
        taps = static_cast<std::uint32_t>(greatest - least + 1);
        before = static_cast<std::int32_t>(-least);
    }

    std::uint32_t first_row(std::uint32_t phase) const { return (phase + pad) % stride; }
    std::int64_t shift(std::uint32_t phase) const { return (std::int64_t{phase} + pad) / stride; }
    // Of row `tap` of a phase's kernel; at or beyond the kernel's end if there is none.
    std::uint32_t kernel_row(std::uint32_t phase, std::uint32_t tap) const {
        const std::int64_t m = shift(phase) - (std::int64_t{tap} - before);
        const std::int64_t row = first_row(phase) + m * stride;
        return m < 0 || row >= kernel ? kernel : static_cast<std::uint32_t>(row);
    }
};

// Which of the stored weights, [input channel][channel][row][column], stand where in the filters of the phases.
class Transposition {
  public:
    Transposition(const Weights& stored, const Axis& rows, const Axis& columns)
        : inputs_(stored.shape[0]), channels_(stored.shape[1]), rows_(rows), columns_(columns) {}

    // Calls `visit` with each place of a filter that has a weight, in order, and the index of this weight.
    template <class Visit>
    void for_filter(std::uint32_t filter, const Visit& visit) const {
        const std::uint32_t phases = rows_.phases * columns_.phases;
        const std::uint32_t channel = filter / phases;
        const std::uint32_t phase_row = filter % phases / columns_.phases, phase_column = filter % columns_.phases;
        std::size_t place = 0;
        for (std::uint32_t input = 0; input < inputs_; ++input) {
            const std::size_t kernel = (std::size_t{input} * channels_ + channel) * rows_.kernel;
            for (std::uint32_t y = 0; y < rows_.taps; ++y) {
                const std::uint32_t row = rows_.kernel_row(phase_row, y);
                for (std::uint32_t x = 0; x < columns_.taps; ++x, ++place) {
                    const std::uint32_t column = columns_.kernel_row(phase_column, x);
                    if (row == rows_.kernel || column == columns_.kernel) continue;
                    visit(place, (kernel + row) * columns_.kernel + column);
                }
            }
        }
    }

    std::uint32_t channel_of(std::size_t weight) const {
        return static_cast<std::uint32_t>(weight / (std::size_t{rows_.kernel} * columns_.kernel) % channels_);
    }

  private:
    std::uint32_t inputs_, channels_;
    const Axis& rows_;
    const Axis& columns_;
};

Status read_all(const Weights& stored, bool is_scaled, Buffer<float>& to) {
    if (const Status status = to.assign(stored.filters * stored.width, 0.0f); status != Status::kOk) return status;
    for (std::uint32_t input = 0; input < stored.filters; ++input) {
        float* const row = to.data() + input * stored.width;
        stored.read_filter(input, row);
        for (std::size_t i = 0; is_scaled && i < stored.width; ++i) row[i] *= stored.scale[input];
    }
    return Status::kOk;
}

Status make_signs(const Weights& stored, const Transposition& transposition, TransposedConv& conv) {
    Weights& weights = conv.weights;
    weights.kind = Weights::Kind::kSigns;
    // Sums can be scaled; scales of the inputs that differ have to come before them.
    const float first = stored.scale[0];
    const bool is_common =
        std::all_of(stored.scale.begin(), stored.scale.end(), [first](float scale) { return scale == first; });
    weights.scale.assign(weights.filters, is_common ? first : 1.0f);
    if (!is_common) conv.input_scale = stored.scale;
    Buffer<float> signs;
    Status status = read_all(stored, false, signs);
    for (std::uint32_t filter = 0; filter < weights.filters && status == Status::kOk; ++filter) {
        weights.begin.push_back(static_cast<std::uint32_t>(weights.places.size()));
        for (const float sign : {1.0f, -1.0f}) {
            transposition.for_filter(filter, [&](std::size_t place, std::size_t from) {
                if (signs[from] != sign || status != Status::kOk) return;
                status = weights.places.push_back(static_cast<std::uint32_t>(place));
            });
            if (sign != 1.0f) continue;
            weights.positive.push_back(static_cast<std::uint32_t>(weights.places.size()) - weights.begin.back());
        }
    }
    weights.begin.push_back(static_cast<std::uint32_t>(weights.places.size()));
    return status;
}

Status make_real(const Weights& stored, const Transposition& transposition, Weights& weights) {
    weights.kind = Weights::Kind::kFloat;
    weights.scale.assign(weights.filters, 1.0f);
    Buffer<float> real;
    if (const Status status = read_all(stored, true, real); status != Status::kOk) return status;
    const Status status = weights.real.assign(weights.filters * weights.width, 0.0f);
    for (std::uint32_t filter = 0; filter < weights.filters && status == Status::kOk; ++filter) {
        float* const row = weights.real.data() + filter * weights.width;
        transposition.for_filter(filter, [&](std::size_t place, std::size_t from) { row[place] = real[from]; });
    }
    return status;
}

// A channel has one scale in all of its phases.
Status make_int8(const Weights& stored, const Transposition& transposition, TransposedConv& conv) {
    Weights& weights = conv.weights;
    weights.kind = Weights::Kind::kInt8;
    Buffer<float> real;
    if (const Status status = read_all(stored, true, real); status != Status::kOk) return status;
    std::vector<float> scale(stored.shape[1], 0.0f);
    for (std::size_t i = 0; i < real.size(); ++i) {
        float& largest = scale[transposition.channel_of(i)];
        largest = std::max(largest, std::fabs(real[i]));
    }
    const Status status = weights.int8.assign(weights.filters * weights.width, 0);
    for (std::uint32_t filter = 0; filter < weights.filters && status == Status::kOk; ++filter) {
        const float one = scale[filter / conv.phases()] / kInt8Largest;
        weights.scale.push_back(one);
        std::int8_t* const row = weights.int8.data() + filter * weights.width;
        transposition.for_filter(filter, [&](std::size_t place, std::size_t from) {
            row[place] = static_cast<std::int8_t>(one > 0.0f ? std::nearbyint(real[from] / one) : 0.0f);
        });
    }
    return status;
}

}  // namespace

std::unique_ptr<TransposedConv> make_transposed_conv(const GraphNode& node, const Weights& weights, const Shape& output,
                                                     bool is_integer, std::uint64_t max_bytes, std::string& problem) {
    const auto& a = node.attributes;
    const Axis rows(a[ConvTransposeAttribute::kStrideHeight], weights.shape[2], a[ConvTransposeAttribute::kPadTop],
                    output.height);
    const Axis columns(a[ConvTransposeAttribute::kStrideWidth], weights.shape[3], a[ConvTransposeAttribute::kPadLeft],
                       output.width);
    auto conv = std::make_unique<TransposedConv>();
    conv->phase_rows = rows.phases;
    conv->phase_columns = columns.phases;
    conv->shape.kernel_height = rows.taps;
    conv->shape.kernel_width = columns.taps;
    conv->shape.pad_top = rows.before;
    conv->shape.pad_left = columns.before;
    // All of these are at most 2^31: as many as elements of a tensor or of a value.
    const std::uint64_t filters = std::uint64_t{weights.shape[1]} * rows.phases * columns.phases;
    const std::uint64_t taps = std::uint64_t{rows.taps} * columns.taps;
    const std::uint64_t most = std::min<std::uint64_t>(kMaxPhaseWeights, max_bytes / sizeof(float));
    if (filters > most || taps > most || filters * taps > most / weights.shape[0]) {
        problem = "a transposed convolution has too many weights for the engine";
        return nullptr;
    }
    conv->output = {static_cast<std::uint32_t>(filters), rows.size, columns.size, false};
    conv->weights.shape = {conv->output.channels, weights.shape[0], rows.taps, columns.taps};
    conv->weights.filters = conv->output.channels;
    conv->weights.width = static_cast<std::size_t>(taps) * weights.shape[0];
    const Transposition transposition(weights, rows, columns);
    Status status = Status::kOk;
    if (is_integer) {
        status = make_int8(weights, transposition, *conv);
    } else if (weights.kind == Weights::Kind::kSigns) {
        status = make_signs(weights, transposition, *conv);
    } else {
        status = make_real(weights, transposition, conv->weights);
    }
    if (status == Status::kOk) return conv;
    problem = "not enough memory for the weights";
    return nullptr;
}

}  // namespace sterna
