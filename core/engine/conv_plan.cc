#include "core/engine/conv_plan.h"

#include <algorithm>
#include <cmath>

namespace sterna {
namespace {

// The largest sum that int16 holds.
constexpr std::uint32_t kMaxSum = 32767;
// Float32 holds whole numbers exactly up to 2^24, so many products of levels and 8-bit weights.
constexpr std::size_t kMaxExactTaps = (1u << 24) / (255 * 127);
constexpr float kInt8Largest = 127.0f;

// A tap's row or column in the planes that are read: phase, and pixels from the output's.
struct Tap {
    std::int64_t phase = 0, shift = 0;
};
Tap tap(std::uint32_t index, std::uint32_t dilation, std::uint32_t pad, std::uint32_t stride) {
    const std::int64_t at = std::int64_t{index} * dilation - pad;
    const std::int64_t phase = ((at % stride) + stride) % stride;
    return {phase, (at - phase) / stride};
}

class ConvPlanner {
  public:
    explicit ConvPlanner(const ConvRequest& request) : request_(request) {}

    Step run(bool prefers_dense) {
        const Weights& weights = *request_.weights;
        const bool is_signs = weights.kind == Weights::Kind::kSigns;
        make_taps();
        const std::uint32_t in_group = request_.input.channels / request_.shape.groups;
        const bool is_depthwise = in_group == 1 && request_.shape.groups > 1;
        const bool is_integer = request_.element == Element::kInt16;
        step_.conv.filters_per_group = weights.filters / request_.shape.groups;
        step_.conv.group_stride = group_stride_;
        step_.units = weights.filters;
        const std::uint64_t pixels = std::uint64_t{request_.output.height} * request_.output.width * request_.images;
        step_.operations = pixels * (is_signs ? weights.nonzeros() : std::uint64_t{weights.filters} * weights.width);
        if (is_depthwise && !request_.is_few && (!is_integer || weights.width <= kMaxExactTaps)) {
            step_.kind = StepKind::kDepthwise;
            step_.conv.filters_per_channel = step_.conv.filters_per_group;
            step_.conv.taps = taps_;
            make_float_weights(is_integer);
        } else if (is_signs && !prefers_dense) {
            step_.kind = request_.is_few ? StepKind::kGather : StepKind::kSparse;
            make_lists();
        } else if (request_.is_few) {
            step_.kind = StepKind::kDot;
            make_dot_weights();
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
        const Geometry& geometry = *request_.geometry;
        const std::int64_t phases =
            request_.is_split ? std::int64_t{shape.stride_height} * shape.stride_width : 1;
        const std::int64_t plane = static_cast<std::int64_t>(geometry.plane_stride);
        const std::uint32_t channels = request_.input.channels / shape.groups;
        for (std::uint32_t channel = 0; channel < channels; ++channel) {
            for (std::uint32_t y = 0; y < shape.kernel_height; ++y) {
                const Tap row = tap(y, shape.dilation_height, shape.pad_top, shape.stride_height);
                for (std::uint32_t x = 0; x < shape.kernel_width; ++x) {
                    const Tap column = tap(x, shape.dilation_width, shape.pad_left, shape.stride_width);
                    const std::int64_t phase = row.phase * shape.stride_width + column.phase;
                    const std::int64_t offset = (channel * phases + phase) * plane +
                                                row.shift * static_cast<std::int64_t>(geometry.pitch) + column.shift;
                    taps_.push_back(static_cast<std::int32_t>(offset));
                }
            }
        }
        group_stride_ = static_cast<std::size_t>(channels * phases * plane);
    }

    // Lists of offsets, cut so that sums of levels fit int16: each addition and subtraction counts at most the largest level.
    void make_lists() {
        const Weights& weights = *request_.weights;
        ConvData& data = step_.conv;
        const bool is_integer = request_.element == Element::kInt16;
        const auto highest = static_cast<std::uint32_t>(request_.input_levels.highest);
        const bool is_signed = request_.input_levels.lowest < 0.0f;
        for (std::uint32_t filter = 0; filter < weights.filters; ++filter) {
            const auto base =
                static_cast<std::int32_t>(filter / data.filters_per_group * group_stride_);
            const std::uint32_t* const places = weights.places.data() + weights.begin[filter];
            const std::uint32_t added = weights.positive[filter];
            const std::uint32_t all = weights.begin[filter + 1] - weights.begin[filter];
            const std::uint32_t subtracted = all - added;
            std::uint32_t chunks = 1;
            if (is_integer) {
                // Levels from 0 on: sums lie between those of all subtractions and those of all additions.
                const std::uint32_t most = kMaxSum / highest;
                const std::uint32_t count = is_signed ? all : std::max(added, subtracted);
                chunks = std::max(1u, (count + most - 1) / most);
                // Uneven halves of an odd cut must not exceed the bound together.
                while (is_signed && share(added, chunks) + share(subtracted, chunks) > most) ++chunks;
            }
            data.offset_begin.push_back(static_cast<std::uint32_t>(data.offsets.size()));
            data.chunk_begin.push_back(static_cast<std::uint32_t>(data.chunks.size()));
            std::uint32_t next_added = 0, next_subtracted = 0;
            for (std::uint32_t i = 0; i < chunks; ++i) {
                const std::uint32_t end_added = std::min(added, next_added + share(added, chunks));
                const std::uint32_t end_subtracted = std::min(subtracted, next_subtracted + share(subtracted, chunks));
                data.chunks.push_back({end_added - next_added, end_subtracted - next_subtracted});
                for (; next_added < end_added; ++next_added) data.offsets.push_back(base + taps_[places[next_added]]);
                for (; next_subtracted < end_subtracted; ++next_subtracted) {
                    data.offsets.push_back(base + taps_[places[added + next_subtracted]]);
                }
            }
        }
        data.chunk_begin.push_back(static_cast<std::uint32_t>(data.chunks.size()));
        data.offsets.shrink_to_fit();
    }

    static std::uint32_t share(std::uint32_t count, std::uint32_t chunks) { return (count + chunks - 1) / chunks; }

    // The weights of a filter as kernels multiply with them: in integer inference whole numbers of 8 bits.
    void read_filter(std::uint32_t filter, bool is_integer, std::vector<float>& to) {
        const Weights& weights = *request_.weights;
        to.resize(weights.width);
        weights.read_filter(filter, to.data());
        if (!is_integer || weights.kind != Weights::Kind::kFloat) return;
        const float scale = filter_scale(filter);
        for (float& weight : to) {
            weight = scale > 0.0f ? std::nearbyint(weight / scale) : 0.0f;
        }
    }

    // What the sums of a filter are multiplied with before everything else.
    float filter_scale(std::uint32_t filter) const {
        const Weights& weights = *request_.weights;
        if (weights.kind != Weights::Kind::kFloat || request_.element != Element::kInt16) return weights.scale[filter];
        float largest = 0.0f;
        for (std::size_t i = 0; i < weights.width; ++i) {
            largest = std::max(largest, std::fabs(weights.real[filter * weights.width + i]));
        }
        return largest / kInt8Largest;
    }

    void make_float_weights(bool is_integer) {
        std::vector<float> row;
        for (std::uint32_t filter = 0; filter < request_.weights->filters; ++filter) {
            read_filter(filter, is_integer, row);
            step_.conv.floats.insert(step_.conv.floats.end(), row.begin(), row.end());
        }
    }

    void make_dot_weights() {
        const bool is_integer = request_.element == Element::kInt16;
        ConvData& data = step_.conv;
        data.taps = taps_;
        // Neighbours at equal distances need no list.
        data.tap_stride = taps_.size() > 1 ? static_cast<std::size_t>(std::max(0, taps_[1] - taps_[0])) : 1;
        for (std::size_t i = 0; i < taps_.size(); ++i) {
            if (taps_[i] != static_cast<std::int32_t>(i * data.tap_stride)) data.tap_stride = 0;
        }
        if (!is_integer) return make_float_weights(false);
        std::vector<float> row;
        for (std::uint32_t filter = 0; filter < request_.weights->filters; ++filter) {
            read_filter(filter, true, row);
            for (const float weight : row) data.shorts.push_back(static_cast<std::int16_t>(weight));
        }
    }

    // Blocks of filters; those that are missing in a group's last block have weights of zero.
    void make_blocks() {
        const bool is_integer = request_.element == Element::kInt16;
        ConvData& data = step_.conv;
        data.taps = taps_;
        // Pairs of taps: the second one of an odd number has a weight of zero.
        if (is_integer && data.taps.size() % 2 != 0) data.taps.push_back(data.taps.back());
        const std::size_t taps = data.taps.size();
        const std::uint32_t groups = request_.shape.groups;
        data.blocks_per_group = (data.filters_per_group + kFiltersPerBlock - 1) / kFiltersPerBlock;
        step_.units = data.blocks_per_group * groups;
        const std::size_t count = std::size_t{step_.units} * taps * kFiltersPerBlock;
        if (is_integer) {
            data.shorts.assign(count, 0);
        } else {
            data.floats.assign(count, 0.0f);
        }
        std::vector<float> row;
        for (std::uint32_t filter = 0; filter < request_.weights->filters; ++filter) {
            read_filter(filter, is_integer, row);
            const std::uint32_t in_group = filter % data.filters_per_group;
            const std::size_t block =
                filter / data.filters_per_group * data.blocks_per_group + in_group / kFiltersPerBlock;
            const std::size_t f = in_group % kFiltersPerBlock;
            for (std::size_t i = 0; i < row.size(); ++i) {
                if (is_integer) {
                    data.shorts[block * taps * kFiltersPerBlock + (i / 2 * kFiltersPerBlock + f) * 2 + i % 2] =
                        static_cast<std::int16_t>(row[i]);
                } else {
                    data.floats[(block * taps + i) * kFiltersPerBlock + f] = row[i];
                }
            }
        }
    }

    void make_epilogue() {
        const float step = request_.element == Element::kInt16 ? request_.input_levels.step : 1.0f;
        for (std::uint32_t filter = 0; filter < request_.weights->filters; ++filter) {
            float scale = filter_scale(filter) * step;
            float shift = request_.bias != nullptr ? request_.bias->real[filter] : 0.0f;
            if (request_.affine_scale != nullptr) {
                scale *= request_.affine_scale->real[filter];
                shift = shift * request_.affine_scale->real[filter] + request_.affine_shift->real[filter];
            }
            step_.conv.scale.push_back(scale);
            step_.conv.shift.push_back(shift);
        }
    }

    const ConvRequest& request_;
    Step step_;
    std::vector<std::int32_t> taps_;
    std::size_t group_stride_ = 0;
};

}  // namespace

ConvReach conv_reach(const ConvShape& conv, const Shape& input, const Shape& output) {
    ConvReach reach;
    reach.is_direct = conv.stride_height == 1 && conv.stride_width == 1 && input.height == output.height &&
                      input.width == output.width;
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

Step make_conv_step(const ConvRequest& request, bool prefers_dense) {
    return ConvPlanner(request).run(prefers_dense);
}

}  // namespace sterna
