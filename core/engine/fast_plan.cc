#include "core/engine/fast_plan.h"

#include <algorithm>

#include "core/engine/geometry.h"

namespace sterna {
namespace {

constexpr std::uint64_t kMaxInt32Sum = 0x7fffffff;
constexpr std::uint64_t kLargestProduct = 255 * 128;
// Products of a tile: their inputs stay in the second cache.
constexpr std::size_t kMaxPairs = 8192;
constexpr std::int32_t kPoints[kFastTaps] = {0, 1, -1, 2};

// Taps of one phase in one dimension: numbers of the kernel's, `stride` apart.
struct Line {
    std::int64_t phase = 0, shift = 0;
    std::uint32_t first = 0, taps = 0;
    // By point, the last one infinity: what taps are multiplied with.
    std::int32_t factors[kFastTaps + 1][kFastTaps] = {};
};

// Of all phases that have some.
std::vector<Line> lines_of(std::uint32_t kernel, std::uint32_t stride, std::int32_t pad) {
    std::vector<Line> lines;
    for (std::uint32_t first = 0; first < std::min(kernel, stride); ++first) {
        const Tap at = tap(first, 1, pad, stride);
        lines.emplace_back();
        lines.back().phase = at.phase;
        lines.back().shift = at.shift;
        lines.back().first = first;
        lines.back().taps = (kernel - first + stride - 1) / stride;
    }
    return lines;
}

std::uint32_t most_taps(const std::vector<Line>& lines) {
    std::uint32_t most = 0;
    for (const Line& line : lines) most = std::max(most, line.taps);
    return most;
}

// L: a multiple of all N, and even.
std::int32_t multiple_of(std::uint32_t taps) {
    return taps == 4 ? 6 : 2;
}

// L / N times the powers of each point.
void set_factors(Line& line, std::int32_t multiple) {
    for (std::uint32_t point = 0; point < line.taps; ++point) {
        std::int32_t factor = multiple;
        for (std::uint32_t other = 0; other < line.taps; ++other) {
            if (other != point) factor /= kPoints[point] - kPoints[other];
        }
        for (std::uint32_t tap = 0; tap < line.taps; ++tap, factor *= kPoints[point]) line.factors[point][tap] = factor;
    }
    line.factors[line.taps][line.taps - 1] = multiple;
}

class FastPlanner {
  public:
    explicit FastPlanner(const ConvRequest& request)
        : request_(request),
          rows_(lines_of(request.shape.kernel_height, request.shape.stride_height, request.shape.pad_top)),
          columns_(lines_of(request.shape.kernel_width, request.shape.stride_width, request.shape.pad_left)) {
        most_rows_ = most_taps(rows_);
        most_columns_ = most_taps(columns_);
        if (!is_taken()) return;
        const std::int32_t multiple = multiple_of(std::max(most_rows_, most_columns_));
        for (Line& line : rows_) set_factors(line, multiple);
        for (Line& line : columns_) set_factors(line, multiple);
        count_products();
        has_plan_ = pairs_ <= kMaxPairs;
    }

    bool has_plan() const { return has_plan_; }

    void run(Step& step) {
        ConvData& data = step.conv;
        make_planes(data);
        make_weights(data);
        data.fast_pairs = point_pairs_;
        data.fast_factor = static_cast<std::uint32_t>(factor());
        data.fast_run = run_of();
        step.units = (request_.weights->filters + kFastFilters - 1) / kFastFilters;
    }

    // Time in products of vectors with their sums, as far as inputs and outputs are transformed too, against that of a
    // convolution that multiplies with all weights.
    bool gains() const {
        const std::uint64_t filters = request_.weights->filters, columns = request_.fast_columns;
        const Geometry& geometry = *request_.geometry;
        const std::uint64_t tiles = std::uint64_t{request_.images} * ((request_.output.height + 1) / 2) *
                                    ((request_.output.width + columns - 1) / columns) * columns / 2;
        const std::uint64_t inputs = kInputCost * 2 * pairs_;
        const std::uint64_t fast = tiles * (filters * (pairs_ + kOutputCost * points()) + inputs);
        const std::uint64_t elements = request_.images * geometry.image_stride;
        const std::uint64_t all = elements * filters * ((request_.weights->width + 1) / 2);
        return all >= fast + fast / kLeastGain;
    }

  private:
    // Of a product's input and of a point's output: its instructions are a few, half of what a product with its sum is.
    static constexpr std::uint64_t kInputCost = 2, kOutputCost = 1;
    // A fourth.
    static constexpr std::uint64_t kLeastGain = 4;

    bool is_taken() const {
        const ConvShape& shape = request_.shape;
        return request_.fast_columns != 0 && shape.dilation_height == 1 && shape.dilation_width == 1 &&
               request_.output.height >= 2 && most_rows_ <= kFastTaps && most_columns_ <= kFastTaps &&
               request_.weights->width <= kMaxInt32Sum / (kLargestProduct * factor());
    }
    std::uint64_t factor() const {
        const std::int32_t multiple = multiple_of(std::max(most_rows_, most_columns_));
        return static_cast<std::uint64_t>(multiple * multiple);
    }
    std::size_t points() const { return std::size_t{most_rows_ + 1} * (most_columns_ + 1); }

    // Number of point `row`, `column` of a plane: finite points first, infinity last.
    std::size_t point_at(const Line& rows, const Line& columns, std::uint32_t row, std::uint32_t column) const {
        const std::uint32_t y = row == rows.taps ? most_rows_ : row;
        const std::uint32_t x = column == columns.taps ? most_columns_ : column;
        return std::size_t{y} * (most_columns_ + 1) + x;
    }

    // Calls `work` with rows, columns and channel of each plane.
    template <class Work>
    void for_planes(const Work& work) const {
        for (const Line& rows : rows_) {
            for (const Line& columns : columns_) {
                for (std::uint32_t channel = 0; channel < request_.input.channels; ++channel) {
                    work(rows, columns, channel);
                }
            }
        }
    }

    // Calls `work` with row, column and number of each point of a plane, column by column.
    template <class Work>
    void for_points(const Line& rows, const Line& columns, const Work& work) const {
        for (std::uint32_t column = 0; column <= columns.taps; ++column) {
            for (std::uint32_t row = 0; row <= rows.taps; ++row) {
                work(row, column, point_at(rows, columns, row, column));
            }
        }
    }

    void count_products() {
        std::vector<std::size_t> products(points(), 0);
        for (const Line& rows : rows_) {
            for (const Line& columns : columns_) {
                for_points(rows, columns, [&](std::uint32_t, std::uint32_t, std::size_t point) {
                    products[point] += request_.input.channels;
                });
            }
        }
        for (const std::size_t count : products) {
            first_slot_.push_back(2 * pairs_);
            pairs_ += (count + 1) / 2;
            point_pairs_.push_back(static_cast<std::uint32_t>((count + 1) / 2));
        }
    }

    void make_planes(ConvData& data) const {
        const auto plane = static_cast<std::int64_t>(request_.geometry->plane_stride);
        const auto pitch = static_cast<std::int64_t>(request_.geometry->pitch);
        const std::int64_t width = request_.is_split ? request_.shape.stride_width : 1;
        const std::int64_t phases = request_.is_split ? width * request_.shape.stride_height : 1;
        std::vector<std::size_t> next = first_slot_;
        for_planes([&](const Line& rows, const Line& columns, std::uint32_t channel) {
            const std::int64_t at = channel * phases + rows.phase * width + columns.phase;
            const std::int64_t offset = at * plane + rows.shift * pitch + columns.shift;
            data.fast_planes.push_back({static_cast<std::int32_t>(offset), rows.taps, columns.taps});
            for_points(rows, columns, [&](std::uint32_t, std::uint32_t, std::size_t point) {
                data.fast_slots.push_back(static_cast<std::uint32_t>(next[point]++));
            });
        });
    }

    // A product that is missing in a last pair has a weight of zero.
    void make_weights(ConvData& data) const {
        const ConvShape& shape = request_.shape;
        const std::size_t kernel = std::size_t{shape.kernel_height} * shape.kernel_width;
        const std::size_t block_weights = 2 * pairs_ * kFiltersPerBlock;
        const std::uint32_t filters = request_.weights->filters;
        data.shorts.assign((filters + kFiltersPerBlock - 1) / kFiltersPerBlock * block_weights, 0);
        std::vector<float> weights;
        for (std::uint32_t filter = 0; filter < filters; ++filter) {
            request_.read_filter(filter, weights);
            std::int16_t* const to = data.shorts.data() + filter / kFiltersPerBlock * block_weights;
            const std::uint32_t* slot = data.fast_slots.data();
            for_planes([&](const Line& rows, const Line& columns, std::uint32_t channel) {
                for_points(rows, columns, [&](std::uint32_t row, std::uint32_t column, std::size_t) {
                    std::int32_t sum = 0;
                    for (std::uint32_t y = 0; y < rows.taps; ++y) {
                        const std::size_t line =
                            channel * kernel + std::size_t{rows.first + y * shape.stride_height} * shape.kernel_width +
                            columns.first;
                        for (std::uint32_t x = 0; x < columns.taps; ++x) {
                            const float weight = weights[line + std::size_t{x} * shape.stride_width];
                            sum +=
                                rows.factors[row][y] * columns.factors[column][x] * static_cast<std::int32_t>(weight);
                        }
                    }
                    to[(*slot / 2 * kFiltersPerBlock + filter % kFiltersPerBlock) * 2 + *slot % 2] =
                        static_cast<std::int16_t>(sum);
                    ++slot;
                });
            });
        }
    }

    // Columns whose inputs stay in the first cache while all filters read them, in runs of equal length.
    std::size_t run_of() const {
        const std::size_t vectors = (request_.output.width + request_.fast_columns - 1) / request_.fast_columns;
        const std::size_t bytes = 2 * pairs_ * request_.fast_columns;
        const std::size_t most = std::clamp<std::size_t>(request_.cache_bytes / bytes, 1, kFastVectors);
        const std::size_t runs = (vectors + most - 1) / most;
        return (vectors + runs - 1) / runs * request_.fast_columns;
    }

    const ConvRequest& request_;
    std::vector<Line> rows_, columns_;
    std::uint32_t most_rows_ = 0, most_columns_ = 0;
    bool has_plan_ = false;
    std::vector<std::size_t> first_slot_;     // by point
    std::vector<std::uint32_t> point_pairs_;  // by point
    std::size_t pairs_ = 0;
};

}  // namespace

bool plan_fast(const ConvRequest& request, Step& step) {
    FastPlanner planner(request);
    if (!planner.has_plan()) return false;
    planner.run(step);
    return true;
}

bool can_be_fast(const ConvRequest& request) {
    return request.fast_columns != 0 && FastPlanner(request).has_plan();
}

bool gains_by_fast(const ConvRequest& request) {
    return can_be_fast(request) && FastPlanner(request).gains();
}

FastConv fast_conv_of(const ConvData& data) {
    FastConv conv;
    conv.planes = data.fast_planes.data();
    conv.plane_count = static_cast<std::uint32_t>(data.fast_planes.size());
    for (const FastPlane& plane : data.fast_planes) {
        conv.rows = std::max(conv.rows, plane.rows);
        conv.columns = std::max(conv.columns, plane.columns);
    }
    conv.slots = data.fast_slots.data();
    conv.point_pairs = data.fast_pairs.data();
    for (const std::uint32_t pairs : data.fast_pairs) conv.pairs += pairs;
    conv.weights = data.shorts.data();
    conv.filters = static_cast<std::uint32_t>(data.scale.size());
    const std::uint32_t odd = data.fast_factor / 4;
    // Each step doubles the bits that are right, of which an odd number's own are three.
    conv.inverse = odd;
    for (int i = 0; i < 4; ++i) conv.inverse *= 2 - odd * conv.inverse;
    conv.run = data.fast_run;
    conv.excess = data.excess.data();
    return conv;
}

}  // namespace sterna
