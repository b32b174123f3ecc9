#include "core/engine/conv_plan.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/engine/fast_plan.h"
#include "core/engine/matrix_plan.h"
#include "core/engine/packed_signs.h"

namespace sterna {
namespace {

constexpr float kInt8Largest = 127.0f;
constexpr std::size_t kLineBytes = 64;
// The largest tile of a sparse convolution.
constexpr std::size_t kTileBytes = 512;
// Layers with a nonzero weight in so many, or more of them, are also tried with a kernel that multiplies.
constexpr std::uint64_t kWeightsPerNonzero = 4;
// Packed signs of bytes take about as long as a list of a nonzero weight in so many.
constexpr std::uint64_t kPackedWeightsPerNonzero = 16;

class ConvPlanner {
  public:
    explicit ConvPlanner(const ConvRequest& request) : request_(request) {}

    Step run(ConvMethod method) {
        const Weights& weights = *request_.weights;
        const bool is_signs = weights.kind == Weights::Kind::kSigns;
        make_taps();
        const std::uint32_t in_group = request_.input.channels / request_.shape.groups;
        const bool is_depthwise = in_group == 1 && request_.shape.groups > 1;
        const bool is_integer = request_.element == Element::kUint8;
        step_.conv.filters_per_group = weights.filters / request_.shape.groups;
        step_.conv.group_stride = group_stride_;
        step_.units = weights.filters;
        const std::uint64_t pixels = std::uint64_t{request_.output.height} * request_.output.width * request_.images;
        step_.operations = pixels * (is_signs ? weights.nonzeros() : std::uint64_t{weights.filters} * weights.width);
        if (is_depthwise && !request_.is_few) {
            step_.kind = StepKind::kDepthwise;
            step_.conv.filters_per_channel = step_.conv.filters_per_group;
            if (request_.strided != nullptr) {
                step_.conv.row_stride = request_.shape.stride_height * request_.strided->pitch;
                step_.conv.image_stride = request_.strided->image_stride;
            }
            if (is_integer && request_.depthwise_taps > 1) {
                make_runs();
            } else {
                step_.conv.taps = taps_;
                if (is_integer && taps_.size() % 2 != 0) step_.conv.taps.push_back(taps_.back());
                make_rows(step_.conv.taps.size());
            }
        } else if (method == ConvMethod::kMatrix && plan_matrices(request_, positions_, channel_stride_, step_)) {
            step_.kind = StepKind::kMatrix;
        } else if (method == ConvMethod::kFast && plan_fast(request_, step_)) {
            step_.kind = StepKind::kFast;
        } else if (is_signs && method == ConvMethod::kLists) {
            step_.kind = request_.is_few ? StepKind::kGather : StepKind::kSparse;
            make_lists();
        } else if (request_.is_few) {
            step_.kind = StepKind::kDot;
            find_tap_stride();
            if (is_signs && request_.shape.groups == 1 && step_.conv.tap_stride != 0) {
                step_.kind = StepKind::kPackedDot;
                pack_signs();
            } else {
                make_rows(taps_.size());
            }
        } else {
            step_.kind = StepKind::kDense;
            make_blocks();
        }
        make_epilogue();
        return std::move(step_);
    }

  private:
    // Offsets of all places of a filter, from the first channel of its group.
    void make_taps() {
        const ConvShape& shape = request_.shape;
        const Geometry& geometry = request_.strided != nullptr ? *request_.strided : *request_.geometry;
        const std::uint32_t down = request_.strided != nullptr ? 1 : shape.stride_height;
        const std::uint32_t across = request_.strided != nullptr ? 1 : shape.stride_width;
        const std::int64_t phases = request_.is_split ? std::int64_t{shape.stride_height} * shape.stride_width : 1;
        const std::int64_t plane = static_cast<std::int64_t>(geometry.plane_stride);
        const std::uint32_t channels = request_.input.channels / shape.groups;
        for (std::uint32_t channel = 0; channel < channels; ++channel) {
            for (std::uint32_t y = 0; y < shape.kernel_height; ++y) {
                const Tap row = tap(y, shape.dilation_height, shape.pad_top, down);
                for (std::uint32_t x = 0; x < shape.kernel_width; ++x) {
                    const Tap column = tap(x, shape.dilation_width, shape.pad_left, across);
                    const std::int64_t phase = row.phase * across + column.phase;
                    const std::int64_t shift = row.shift * static_cast<std::int64_t>(geometry.pitch) + column.shift;
                    taps_.push_back(static_cast<std::int32_t>((channel * phases + phase) * plane + shift));
                    if (channel != 0) continue;
                    positions_.push_back({static_cast<std::int32_t>(phase * plane), static_cast<std::int32_t>(shift)});
                }
            }
        }
        channel_stride_ = static_cast<std::int32_t>(phases * plane);
        group_stride_ = static_cast<std::size_t>(channels * phases * plane);
    }

    // Lists of offsets, cut so that sums of bytes fit int16: 128 additions of at most 255 are 32,640, so many
    // subtractions as much below 0, and what lies between fits too.
    static_assert(kMaxTerms * 255 <= 32767);

    void make_lists() {
        const Weights& weights = *request_.weights;
        ConvData& data = step_.conv;
        const std::uint32_t filters = weights.filters;
        choose_blocks();
        const std::uint32_t channels = request_.input.channels / request_.shape.groups;
        const std::size_t kernel = taps_.size() / channels;
        // Of each filter, the next place of either sign.
        std::vector<std::uint32_t> next_added(filters, 0), next_subtracted(weights.positive);
        for (std::uint32_t block = 0; block < data.blocks; ++block) {
            const std::size_t end = std::size_t{channels} * (block + 1) / data.blocks * kernel;
            for (std::uint32_t filter = 0; filter < filters; ++filter) {
                const std::uint32_t* const places = weights.places.data() + weights.begin[filter];
                const auto base = static_cast<std::int32_t>(filter / data.filters_per_group * group_stride_);
                const auto places_before = [&](std::uint32_t from, std::uint32_t to) {
                    return static_cast<std::uint32_t>(std::lower_bound(places + from, places + to, end) - places);
                };
                const std::uint32_t all = weights.begin[filter + 1] - weights.begin[filter];
                const std::uint32_t end_added = places_before(next_added[filter], weights.positive[filter]);
                const std::uint32_t end_subtracted = places_before(next_subtracted[filter], all);
                add_list(places, base, next_added[filter], end_added, next_subtracted[filter], end_subtracted);
                next_added[filter] = end_added;
                next_subtracted[filter] = end_subtracted;
            }
        }
        data.chunk_begin.push_back(static_cast<std::uint32_t>(data.chunks.size()));
        data.offsets.shrink_to_fit();
    }

    // The places from `added` to `end_added`, and those from `subtracted` to `end_subtracted`.
    void add_list(const std::uint32_t* places, std::int32_t base, std::uint32_t added, std::uint32_t end_added,
                  std::uint32_t subtracted, std::uint32_t end_subtracted) {
        ConvData& data = step_.conv;
        data.offset_begin.push_back(static_cast<std::uint32_t>(data.offsets.size()));
        data.chunk_begin.push_back(static_cast<std::uint32_t>(data.chunks.size()));
        const std::uint32_t most = std::max(end_added - added, end_subtracted - subtracted);
        std::uint32_t chunks = 1;
        if (request_.element == Element::kUint8) chunks = std::max(1u, (most + kMaxTerms - 1) / kMaxTerms);
        const std::uint32_t share_added = share(end_added - added, chunks);
        const std::uint32_t share_subtracted = share(end_subtracted - subtracted, chunks);
        for (std::uint32_t i = 0; i < chunks; ++i) {
            const std::uint32_t stop_added = std::min(end_added, added + share_added);
            const std::uint32_t stop_subtracted = std::min(end_subtracted, subtracted + share_subtracted);
            data.chunks.push_back({stop_added - added, stop_subtracted - subtracted});
            for (; added < stop_added; ++added) data.offsets.push_back(base + taps_[places[added]]);
            for (; subtracted < stop_subtracted; ++subtracted) data.offsets.push_back(base + taps_[places[subtracted]]);
        }
    }

    // Blocks of channels whose inputs, for one tile, stay in the first cache while all filters read them; few enough
    // that the sums which wait between them cost little. Where all inputs stay there, as long a run as still does.
    void choose_blocks() {
        if (request_.is_few) return;
        const Weights& weights = *request_.weights;
        const std::size_t channels = request_.input.channels / request_.shape.groups;
        const std::size_t element = size_of(request_.element);
        const std::size_t tile = std::min<std::size_t>(kTileBytes, request_.geometry->plane_stride * element);
        // What is read of a channel for a tile: a stretch for all taps that are near to each other.
        std::vector<std::int32_t> taps(taps_.begin(),
                                       taps_.begin() + static_cast<std::ptrdiff_t>(taps_.size() / channels));
        std::sort(taps.begin(), taps.end());
        std::size_t bytes = tile + kLineBytes;
        for (std::size_t i = 1; i < taps.size(); ++i) {
            const std::size_t apart = static_cast<std::size_t>(taps[i] - taps[i - 1]) * element;
            bytes += std::min(apart, tile + kLineBytes);
        }
        bytes *= channels;
        // Sums of bytes that wait are wider than their inputs.
        const std::size_t least_terms = request_.block_bytes * sizeof(std::int32_t) / (element * tile);
        const std::size_t most =
            weights.nonzeros() / (std::size_t{weights.filters} * std::max<std::size_t>(1, least_terms));
        const std::size_t wanted = (bytes + request_.cache_bytes - 1) / request_.cache_bytes;
        step_.conv.blocks = static_cast<std::uint32_t>(std::max<std::size_t>(1, std::min({wanted, most, channels})));
        step_.conv.run_bytes = request_.cache_bytes * tile / bytes;
    }

    static std::uint32_t share(std::uint32_t count, std::uint32_t chunks) { return (count + chunks - 1) / chunks; }

    // One filter after the other, with weights of zero up to `width`.
    void make_rows(std::size_t width) {
        const bool is_integer = request_.element == Element::kUint8;
        std::vector<float> row;
        for (std::uint32_t filter = 0; filter < request_.weights->filters; ++filter) {
            request_.read_filter(filter, row);
            row.resize(width, 0.0f);
            if (is_integer) {
                for (const float weight : row) step_.conv.shorts.push_back(static_cast<std::int16_t>(weight));
            } else {
                step_.conv.floats.insert(step_.conv.floats.end(), row.begin(), row.end());
            }
        }
    }

    // Taps that stand for several inputs in a row; inputs that no weight is for have zeros.
    void make_runs() {
        const auto length = static_cast<std::int32_t>(request_.depthwise_taps);
        std::vector<std::size_t> order(taps_.size()), place(taps_.size());
        std::iota(order.begin(), order.end(), std::size_t{0});
        std::sort(order.begin(), order.end(), [this](std::size_t a, std::size_t b) { return taps_[a] < taps_[b]; });
        ConvData& data = step_.conv;
        std::int32_t last = 0;
        for (const std::size_t i : order) {
            const std::int32_t offset = taps_[i];
            // In narrow images two taps may read the same zero.
            if (data.taps.empty() || offset == last || offset - data.taps.back() >= length) {
                data.taps.push_back(offset);
            }
            place[i] = (data.taps.size() - 1) * kDepthwiseQuad + static_cast<std::size_t>(offset - data.taps.back());
            last = offset;
        }
        const std::size_t width = data.taps.size() * kDepthwiseQuad;
        data.bytes.assign(width * request_.weights->filters, 0);
        std::vector<float> row;
        for (std::uint32_t filter = 0; filter < request_.weights->filters; ++filter) {
            request_.read_filter(filter, row);
            for (std::size_t i = 0; i < row.size(); ++i) {
                data.bytes[filter * width + place[i]] = static_cast<std::int8_t>(row[i]);
            }
        }
    }

    // Neighbours at equal distances need no list.
    void find_tap_stride() {
        ConvData& data = step_.conv;
        data.taps = taps_;
        data.tap_stride = taps_.size() > 1 ? static_cast<std::size_t>(std::max(0, taps_[1] - taps_[0])) : 1;
        for (std::size_t i = 0; i < taps_.size(); ++i) {
            if (taps_[i] != static_cast<std::int32_t>(i * data.tap_stride)) data.tap_stride = 0;
        }
    }

    void pack_signs() {
        const Weights& weights = *request_.weights;
        const std::size_t groups = (weights.width + kPackedGroup - 1) / kPackedGroup;
        step_.conv.packed.assign(groups * kPackedBytes * weights.filters, kPackedZeros);
        for (std::uint32_t filter = 0; filter < weights.filters; ++filter) {
            std::uint8_t* const row = step_.conv.packed.data() + filter * groups * kPackedBytes;
            for (std::uint32_t i = weights.begin[filter]; i < weights.begin[filter + 1]; ++i) {
                const bool is_positive = i - weights.begin[filter] < weights.positive[filter];
                pack_sign(weights.places[i], is_positive ? 1 : -1, row);
            }
        }
    }

    // Blocks of filters; those that are missing in a group's last block have weights of zero.
    void make_blocks() {
        const bool is_integer = request_.element == Element::kUint8;
        ConvData& data = step_.conv;
        data.taps = taps_;
        // Those that are missing in the last taps that are taken together have weights of zero.
        const std::uint32_t together = is_integer ? request_.dense_taps : 1;
        while (data.taps.size() % together != 0) data.taps.push_back(data.taps.back());
        const std::size_t taps = data.taps.size();
        const std::uint32_t groups = request_.shape.groups;
        data.blocks_per_group = (data.filters_per_group + kFiltersPerBlock - 1) / kFiltersPerBlock;
        step_.units = data.blocks_per_group * groups;
        const std::size_t count = std::size_t{step_.units} * taps * kFiltersPerBlock;
        if (!is_integer) {
            data.floats.assign(count, 0.0f);
        } else if (together == 2) {
            data.shorts.assign(count, 0);
        } else {
            data.bytes.assign(count, 0);
        }
        std::vector<float> row;
        for (std::uint32_t filter = 0; filter < request_.weights->filters; ++filter) {
            request_.read_filter(filter, row);
            const std::uint32_t in_group = filter % data.filters_per_group;
            const std::size_t block =
                filter / data.filters_per_group * data.blocks_per_group + in_group / kFiltersPerBlock;
            const std::size_t f = in_group % kFiltersPerBlock;
            for (std::size_t i = 0; i < row.size(); ++i) {
                const std::size_t at =
                    block * taps * kFiltersPerBlock + (i / together * kFiltersPerBlock + f) * together + i % together;
                if (!is_integer) {
                    data.floats[at] = row[i];
                } else if (together == 2) {
                    data.shorts[at] = static_cast<std::int16_t>(row[i]);
                } else {
                    data.bytes[at] = static_cast<std::int8_t>(row[i]);
                }
            }
        }
    }

    void make_epilogue() {
        const bool is_integer = request_.element == Element::kUint8;
        const float step = is_integer ? request_.input_levels.step : 1.0f;
        std::vector<float> row;
        for (std::uint32_t filter = 0; filter < request_.weights->filters; ++filter) {
            float scale = request_.filter_scale(filter) * step;
            const std::uint32_t channel = filter / request_.filters_per_bias;
            float shift = request_.bias != nullptr ? request_.bias->real[channel] : 0.0f;
            if (request_.affine_scale != nullptr) {
                scale *= request_.affine_scale->real[channel];
                shift = shift * request_.affine_scale->real[channel] + request_.affine_shift->real[channel];
            }
            step_.conv.scale.push_back(scale);
            std::int32_t total = 0;
            if (is_integer && request_.input_levels.zero != 0) {
                request_.read_filter(filter, row);
                for (const float weight : row) total += static_cast<std::int32_t>(weight);
            }
            step_.conv.excess.push_back(request_.input_levels.zero * total);
            step_.conv.shift.push_back(shift);
        }
    }

    const ConvRequest& request_;
    Step step_;
    std::vector<std::int32_t> taps_;
    std::vector<KernelPosition> positions_;
    std::int32_t channel_stride_ = 0;
    std::size_t group_stride_ = 0;
};

}  // namespace

Tap tap(std::uint32_t index, std::uint32_t dilation, std::int32_t pad, std::uint32_t stride) {
    const std::int64_t at = std::int64_t{index} * dilation - pad;
    const std::int64_t phase = ((at % stride) + stride) % stride;
    return {phase, (at - phase) / stride};
}

ConvReach strided_reach(const ConvShape& conv, const Shape& input, const Shape& output) {
    const auto before = [](std::int64_t pad) { return static_cast<std::uint32_t>(std::max<std::int64_t>(0, pad)); };
    const auto behind = [](std::uint32_t outputs, std::uint32_t stride, std::uint32_t kernel, std::uint32_t dilation,
                           std::int64_t pad, std::uint32_t inputs) {
        const std::int64_t last = (std::int64_t{outputs} - 1) * stride + (std::int64_t{kernel} - 1) * dilation - pad;
        return static_cast<std::uint32_t>(std::max<std::int64_t>(0, last - (std::int64_t{inputs} - 1)));
    };
    ConvReach reach;
    reach.top = before(conv.pad_top);
    reach.left = before(conv.pad_left);
    reach.bottom =
        behind(output.height, conv.stride_height, conv.kernel_height, conv.dilation_height, conv.pad_top, input.height);
    reach.right =
        behind(output.width, conv.stride_width, conv.kernel_width, conv.dilation_width, conv.pad_left, input.width);
    reach.is_strided = true;
    return reach;
}

bool can_read_strides(const ConvRequest& request) {
    const bool is_depthwise = request.shape.groups > 1 && request.shape.groups == request.input.channels;
    const bool is_single = request.output.height == 1 && request.output.width == 1;
    return is_depthwise && !is_single && request.shape.stride_width == 2;
}

SplitShape split_shape(const ConvRequest& request, const ConvReach& reach) {
    SplitShape shape;
    shape.phases = reach.phases;
    shape.stride_height = request.shape.stride_height;
    shape.stride_width = request.shape.stride_width;
    shape.reach_bottom = reach.bottom;
    shape.reach_right = reach.right;
    return shape;
}

ConvReach conv_reach(const ConvShape& conv, const Shape& input, const Shape& output) {
    ConvReach reach;
    reach.is_direct = conv.stride_height == 1 && conv.stride_width == 1 && input.height == output.height &&
                      input.width == output.width;
    const std::uint64_t all = std::uint64_t{conv.stride_height} * conv.stride_width;
    for (std::uint32_t y = 0; y < conv.kernel_height; ++y) {
        const std::int64_t row = tap(y, conv.dilation_height, conv.pad_top, conv.stride_height).phase;
        for (std::uint32_t x = 0; x < conv.kernel_width; ++x) {
            const std::int64_t column = tap(x, conv.dilation_width, conv.pad_left, conv.stride_width).phase;
            reach.phases |= all > 64 ? ~std::uint64_t{0} : std::uint64_t{1} << (row * conv.stride_width + column);
        }
    }
    for (std::uint32_t y = 0; y < conv.kernel_height; ++y) {
        const std::int64_t shift = tap(y, conv.dilation_height, conv.pad_top, conv.stride_height).shift;
        reach.top = std::max(reach.top, static_cast<std::uint32_t>(std::max<std::int64_t>(0, -shift)));
        reach.bottom = std::max(reach.bottom, static_cast<std::uint32_t>(std::max<std::int64_t>(0, shift)));
    }
    for (std::uint32_t x = 0; x < conv.kernel_width; ++x) {
        const std::int64_t shift = tap(x, conv.dilation_width, conv.pad_left, conv.stride_width).shift;
        reach.left = std::max(reach.left, static_cast<std::uint32_t>(std::max<std::int64_t>(0, -shift)));
        reach.right = std::max(reach.right, static_cast<std::uint32_t>(std::max<std::int64_t>(0, shift)));
    }
    return reach;
}

void ConvRequest::read_filter(std::uint32_t filter, std::vector<float>& to) const {
    to.resize(weights->width);
    weights->read_filter(filter, to.data());
    if (element != Element::kUint8 || weights->kind != Weights::Kind::kFloat) return;
    const float scale = filter_scale(filter);
    for (float& weight : to) {
        weight = scale > 0.0f ? std::nearbyint(weight / scale) : 0.0f;
    }
}

float ConvRequest::filter_scale(std::uint32_t filter) const {
    if (weights->kind != Weights::Kind::kFloat || element != Element::kUint8) return weights->scale[filter];
    float largest = 0.0f;
    for (std::size_t i = 0; i < weights->width; ++i) {
        largest = std::max(largest, std::fabs(weights->real[filter * weights->width + i]));
    }
    return largest / kInt8Largest;
}

Step make_conv_step(const ConvRequest& request, ConvMethod method) {
    return ConvPlanner(request).run(method);
}

ConvMethod untuned_method(const ConvRequest& request, ConvMethod method) {
    if (method != ConvMethod::kLists) return method;
    const Weights& weights = *request.weights;
    if (weights.kind != Weights::Kind::kSigns) return gains_by_fast(request) ? ConvMethod::kFast : method;
    const bool is_packed =
        request.is_few && request.element == Element::kUint8 &&
        weights.nonzeros() * kPackedWeightsPerNonzero >= std::uint64_t{weights.filters} * weights.width;
    return is_packed ? ConvMethod::kDense : method;
}

std::vector<ConvMethod> other_methods(const ConvRequest& request, StepKind kind) {
    const Weights& weights = *request.weights;
    const bool has_few_zeros =
        weights.nonzeros() * kWeightsPerNonzero >= std::uint64_t{weights.filters} * weights.width;
    std::vector<ConvMethod> methods;
    if (kind == StepKind::kGather || (kind == StepKind::kSparse && has_few_zeros))
        methods.push_back(ConvMethod::kDense);
    if (request.has_matrices) methods.push_back(ConvMethod::kMatrix);
    const bool is_dense = kind == StepKind::kDense || (kind == StepKind::kSparse && has_few_zeros);
    if (is_dense && can_be_fast(request)) methods.push_back(ConvMethod::kFast);
    return methods;
}

}  // namespace sterna
