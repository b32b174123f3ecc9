#include "core/engine/matrix_plan.h"

#include <algorithm>

#include "core/engine/geometry.h"
#include "core/engine/packed_signs.h"

namespace sterna {
namespace {

// Memory of a thread for the inputs of a run and the weights of a block of filters.
constexpr std::uint64_t kMaxScratchBytes = std::uint64_t{1} << 23;
// For the choice between layouts, of a tile of 64 elements: what a row of inputs takes, in twelve shuffles, and a step
// of a block of filters, in eight products. As the instructions are documented; nothing of it was measured.
constexpr std::uint64_t kRowCycles = 12, kStepCycles = 8 * 16;

// Rows of inputs and the steps of a sum.
struct MatrixLayout {
    // Rows are channels, and a step moves them to a position; otherwise rows are weights of a filter, four by four.
    bool has_positions = false;
    std::uint32_t steps_per_plane = 0;  // of one position, or of all weights
    std::uint32_t step_rows = 0;
    std::size_t rows = 0, steps = 0;
    std::int32_t lowest_shift = 0, highest_shift = 0;
    std::size_t run = 0;

    std::size_t rows_per_plane() const { return std::size_t{steps_per_plane} * step_rows; }
};

class MatrixPlanner {
  public:
    MatrixPlanner(const ConvRequest& request, const std::vector<KernelPosition>& positions, std::int32_t channel_stride)
        : request_(request), positions_(positions), channel_stride_(channel_stride) {
        for (const KernelPosition& position : positions) planes_.push_back(position.plane);
        std::sort(planes_.begin(), planes_.end());
        planes_.erase(std::unique(planes_.begin(), planes_.end()), planes_.end());
        blocks_ = (request.weights->filters + kMatrixFilters - 1) / kMatrixFilters;
    }

    bool run(Step& step) {
        MatrixLayout layout = layout_of(true);
        const MatrixLayout other = layout_of(false);
        if (!fits(layout) || (fits(other) && cycles(other) < cycles(layout))) layout = other;
        if (!fits(layout)) return false;
        ConvData& data = step.conv;
        data.matrix_rows = layout.step_rows;
        data.lowest_shift = layout.lowest_shift;
        data.highest_shift = layout.highest_shift;
        data.matrix_run = layout.run;
        make_inputs(layout, data);
        make_weights(layout, data);
        step.units = blocks_;
        return true;
    }

  private:
    std::size_t channels() const { return request_.input.channels; }
    bool is_packed() const { return request_.weights->kind == Weights::Kind::kSigns; }

    MatrixLayout layout_of(bool has_positions) const {
        MatrixLayout layout;
        layout.has_positions = has_positions;
        const std::size_t inputs = has_positions ? channels() : channels() * positions_.size();
        // Steps of equal size waste least: each has as many rows as the largest one.
        const std::size_t fours = (inputs + kMatrixFour - 1) / kMatrixFour;
        layout.steps_per_plane = static_cast<std::uint32_t>((fours + kMatrixRows - 1) / kMatrixRows);
        layout.step_rows = static_cast<std::uint32_t>((fours + layout.steps_per_plane - 1) / layout.steps_per_plane);
        layout.rows = layout.rows_per_plane() * (has_positions ? planes_.size() : 1);
        layout.steps = layout.steps_per_plane * (has_positions ? positions_.size() : 1);
        if (has_positions) {
            layout.lowest_shift = layout.highest_shift = positions_[0].shift;
            for (const KernelPosition& position : positions_) {
                layout.lowest_shift = std::min(layout.lowest_shift, position.shift);
                layout.highest_shift = std::max(layout.highest_shift, position.shift);
            }
        }
        layout.run = run_of(layout);
        return layout;
    }

    // Elements whose inputs stay in the second cache while all filters are computed, in runs of equal length.
    std::size_t run_of(const MatrixLayout& layout) const {
        const Geometry& geometry = *request_.geometry;
        const std::size_t span = round_up(
            (request_.images - 1) * geometry.image_stride + (geometry.height - 1) * geometry.pitch + geometry.width,
            kAlignment);
        const std::size_t around = static_cast<std::size_t>(layout.highest_shift - layout.lowest_shift);
        const std::size_t most = request_.matrix_bytes / (layout.rows * kMatrixFour);
        const std::size_t run = most < around + kAlignment ? kAlignment : (most - around) / kAlignment * kAlignment;
        const std::size_t runs = (span + run - 1) / run;
        return round_up((span + runs - 1) / runs, kAlignment);
    }

    // Also bounds the weights of a block, with all that are added to fill it.
    bool fits(const MatrixLayout& layout) const {
        const auto around = static_cast<std::uint64_t>(layout.highest_shift - layout.lowest_shift);
        const std::uint64_t inputs = layout.rows * (layout.run + around) * kMatrixFour;
        const std::uint64_t weights = std::uint64_t{layout.steps} * layout.step_rows * kMatrixFour * kMatrixFilters;
        return layout.rows < kMaxScratchBytes && inputs < kMaxScratchBytes && weights < kMaxScratchBytes;
    }

    std::uint64_t cycles(const MatrixLayout& layout) const {
        return layout.rows * kRowCycles + std::uint64_t{blocks_} * layout.steps * kStepCycles;
    }

    // Offsets of rows, and the steps. Places that no input is left for repeat the last one; their weights are 0.
    void make_inputs(const MatrixLayout& layout, ConvData& data) const {
        const std::size_t places = layout.rows_per_plane() * kMatrixFour;
        if (layout.has_positions) {
            for (const std::int32_t plane : planes_) {
                for (std::size_t i = 0; i < places; ++i) {
                    const auto channel = static_cast<std::int32_t>(std::min(i, channels() - 1));
                    data.offsets.push_back(channel * channel_stride_ + plane);
                }
            }
            for (const KernelPosition& position : positions_) {
                const auto plane = std::lower_bound(planes_.begin(), planes_.end(), position.plane) - planes_.begin();
                for (std::uint32_t i = 0; i < layout.steps_per_plane; ++i) {
                    const std::size_t row =
                        static_cast<std::size_t>(plane) * layout.rows_per_plane() + std::size_t{i} * layout.step_rows;
                    data.matrix_steps.push_back({static_cast<std::uint32_t>(row), position.shift});
                }
            }
        } else {
            const std::size_t weights = channels() * positions_.size();
            for (std::size_t i = 0; i < places; ++i) {
                const std::size_t weight = std::min(i, weights - 1);
                const KernelPosition& position = positions_[weight % positions_.size()];
                const auto channel = static_cast<std::int32_t>(weight / positions_.size());
                data.offsets.push_back(channel * channel_stride_ + position.plane + position.shift);
            }
            for (std::uint32_t i = 0; i < layout.steps_per_plane; ++i) {
                data.matrix_steps.push_back({i * layout.step_rows, 0});
            }
        }
    }

    // The weight of a filter that belongs to place `i` of its steps; beyond the last one if there is none.
    std::size_t weight_at(const MatrixLayout& layout, std::size_t i) const {
        if (!layout.has_positions) return i;
        const std::size_t places = layout.rows_per_plane() * kMatrixFour;
        const std::size_t channel = i % places, position = i / places;
        return channel < channels() ? channel * positions_.size() + position : request_.weights->width;
    }

    void make_weights(const MatrixLayout& layout, ConvData& data) const {
        MatrixConv conv;
        conv.step_count = static_cast<std::uint32_t>(layout.steps);
        conv.step_rows = layout.step_rows;
        conv.is_packed = is_packed();
        const std::size_t step_places = std::size_t{layout.step_rows} * kMatrixFour;
        if (is_packed()) {
            data.packed.assign(blocks_ * conv.block_bytes(), kPackedZeros);
        } else {
            data.bytes.assign(blocks_ * conv.block_bytes(), 0);
        }
        std::vector<float> row;
        for (std::uint32_t filter = 0; filter < request_.weights->filters; ++filter) {
            request_.read_filter(filter, row);
            const std::size_t block = filter / kMatrixFilters * conv.block_bytes();
            for (std::size_t i = 0; i < layout.steps * step_places; ++i) {
                const std::size_t weight = weight_at(layout, i);
                if (weight >= row.size() || row[weight] == 0.0f) continue;
                const std::size_t at =
                    i / step_places * conv.step_bytes() + filter % kMatrixFilters * step_places + i % step_places;
                if (is_packed()) {
                    pack_sign(at, row[weight] > 0.0f ? 1 : -1, data.packed.data() + block);
                } else {
                    data.bytes[block + at] = static_cast<std::int8_t>(row[weight]);
                }
            }
        }
    }

    const ConvRequest& request_;
    const std::vector<KernelPosition>& positions_;
    std::int32_t channel_stride_;
    std::vector<std::int32_t> planes_;  // that positions read, of a channel
    std::uint32_t blocks_ = 0;          // of filters
};

}  // namespace

bool plan_matrices(const ConvRequest& request, const std::vector<KernelPosition>& positions,
                   std::int32_t channel_stride, Step& step) {
    return request.has_matrices && MatrixPlanner(request, positions, channel_stride).run(step);
}

MatrixConv matrix_conv_of(const ConvData& data) {
    MatrixConv conv;
    conv.offsets = data.offsets.data();
    conv.rows = static_cast<std::uint32_t>(data.offsets.size() / kMatrixFour);
    conv.steps = data.matrix_steps.data();
    conv.step_count = static_cast<std::uint32_t>(data.matrix_steps.size());
    conv.step_rows = data.matrix_rows;
    conv.lowest_shift = data.lowest_shift;
    conv.highest_shift = data.highest_shift;
    conv.run = data.matrix_run;
    conv.is_packed = data.bytes.empty();
    conv.weights = conv.is_packed ? static_cast<const void*>(data.packed.data()) : data.bytes.data();
    conv.filters = static_cast<std::uint32_t>(data.scale.size());
    conv.excess = data.excess.data();
    return conv;
}

}  // namespace sterna
