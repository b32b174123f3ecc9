#include "core/testing/reference.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/engine/shapes.h"

namespace sterna::testing {
namespace {

// How the numbers of a value are kept: as they are, or as levels.
struct Grid {
    bool is_levels = false;
    float step = 1.0f, inverse_step = 1.0f, lowest = 0.0f, highest = 0.0f;

    float level(float y) const { return std::nearbyint(std::min(std::max(y * inverse_step, lowest), highest)); }
    float kept(float y) const { return is_levels ? level(y) * step : y; }
};

Grid grid_of(const Range& range) {
    Grid grid;
    grid.is_levels = true;
    grid.lowest = range.low < 0.0f ? -127.0f : 0.0f;
    grid.highest = range.low < 0.0f ? 127.0f : 255.0f;
    grid.step = std::max(range.low < 0.0f ? -range.low : 0.0f, range.high) / grid.highest;
    grid.inverse_step = 1.0f / grid.step;
    return grid;
}

// The series of core/kernels/epilogue.h, one number at a time.
float exponential(float x) {
    x = std::max(std::min(x, 88.0f), -87.0f);
    const float k = std::nearbyint(x * 1.44269504f);
    const float r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
    float series = 1.0f / 5040.0f;
    for (const float term : {1.0f / 720.0f, 1.0f / 120.0f, 1.0f / 24.0f, 1.0f / 6.0f, 0.5f, 1.0f, 1.0f}) {
        series = series * r + term;
    }
    return std::ldexp(series, static_cast<int>(k));
}

float activated(Operator op, float y) {
    switch (op) {
        case Operator::kRelu:
            return std::max(y, 0.0f);
        case Operator::kRelu6:
            return std::min(std::max(y, 0.0f), 6.0f);
        case Operator::kHardsigmoid:
            return std::min(std::max(y + 3.0f, 0.0f), 6.0f) * (1.0f / 6.0f);
        case Operator::kHardswish:
            return y * (std::min(std::max(y + 3.0f, 0.0f), 6.0f) * (1.0f / 6.0f));
        case Operator::kSigmoid:
            return 1.0f / (1.0f + exponential(-y));
        case Operator::kSilu:
            return y / (1.0f + exponential(-y));
        default:
            return y;
    }
}

class Computation {
  public:
    Computation(const Network& network, const std::vector<Value>& inputs, bool is_integer)
        : network_(network), graph_(network.graph), is_integer_(is_integer), values_(inputs) {}

    std::vector<Value> run() {
        values_.resize(graph_.value_count());
        grids_.resize(graph_.value_count());
        if (!is_integer_) {
            // Node by node: also what the engine computes together.
            for (std::uint32_t i = 0; i < graph_.nodes.size(); ++i) {
                Group group;
                group.node = i;
                group.value = static_cast<std::uint32_t>(graph_.inputs.size()) + i;
                compute(group);
            }
            return std::move(values_);
        }
        std::vector<bool> is_used(graph_.value_count(), false);
        for (const GraphNode& node : graph_.nodes) {
            for (const std::uint32_t value : node.inputs) is_used[value] = true;
        }
        for (std::size_t v = 0; v < graph_.value_count(); ++v) {
            if (is_used[v] || v < graph_.inputs.size()) grids_[v] = grid_of(graph_.ranges[v]);
        }
        std::vector<Shape> shapes;
        for (const Value& value : Computation(network_, values_inputs(), false).run()) {
            shapes.push_back({value.channels, value.height, value.width, value.is_matrix});
        }
        for (std::size_t i = 0; i < graph_.inputs.size(); ++i) {
            for (float& number : values_[i].numbers) number = grids_[i].kept(number);
        }
        for (const Group& group : fuse(graph_, shapes)) compute(group);
        return std::move(values_);
    }

  private:
    std::vector<Value> values_inputs() const {
        return {values_.begin(), values_.begin() + static_cast<std::ptrdiff_t>(graph_.inputs.size())};
    }
    const GraphNode& node(const Group& group) const { return graph_.nodes[group.node]; }
    const Value& input(const Group& group, std::size_t i = 0) const { return values_[node(group).inputs[i]]; }

    static Value like(const Value& x, std::uint32_t channels, std::uint32_t height, std::uint32_t width) {
        Value y;
        y.images = x.images;
        y.channels = channels;
        y.height = height;
        y.width = width;
        y.is_matrix = x.is_matrix;
        y.numbers.assign(y.size(), 0.0f);
        return y;
    }

    // A number for each place of the output.
    template <class Number>
    static void fill(Value& y, const Number& number) {
        std::size_t at = 0;
        for (std::uint32_t n = 0; n < y.images; ++n) {
            for (std::uint32_t c = 0; c < y.channels; ++c) {
                for (std::uint32_t i = 0; i < y.height; ++i) {
                    for (std::uint32_t j = 0; j < y.width; ++j) y.numbers[at++] = number(n, c, i, j);
                }
            }
        }
    }

    void compute(const Group& group) {
        Value y;
        switch (node(group).op) {
            case Operator::kConv2d:
            case Operator::kLinear:
                y = convolution(group);
                break;
            case Operator::kConvTranspose2d:
                y = transposed_convolution(group);
                break;
            case Operator::kAffine: {
                const std::vector<float>& scale = network_.tensors[node(group).tensors[0]].real;
                const std::vector<float>& shift = network_.tensors[node(group).tensors[1]].real;
                y = input(group);
                fill(y, [&](auto n, auto c, auto i, auto j) {
                    return input(group).numbers[y.at(n, c, i, j)] * scale[c] + shift[c];
                });
                break;
            }
            case Operator::kAdd:
            case Operator::kMul:
                y = pair(group);
                break;
            case Operator::kConcat:
                y = concatenation(group);
                break;
            case Operator::kMaxPool2d:
            case Operator::kAvgPool2d:
                y = pool(group);
                break;
            case Operator::kAdaptiveAvgPool2d:
            case Operator::kAdaptiveMaxPool2d:
                y = adaptive_pool(group);
                break;
            case Operator::kFlatten:
                y = input(group);
                y.channels *= y.height * y.width;
                y.height = y.width = 1;
                y.is_matrix = true;
                break;
            case Operator::kResizeNearest:
            case Operator::kResizeBilinear:
            case Operator::kUpsampleNearest:
            case Operator::kUpsampleBilinear:
                y = resized(group);
                break;
            case Operator::kPad: {
                const Value& x = input(group);
                const auto& a = node(group).attributes;
                y = like(x, x.channels + a[4] + a[5], x.height + a[0] + a[2], x.width + a[1] + a[3]);
                for (std::uint32_t n = 0; n < x.images; ++n) {
                    for (std::uint32_t c = 0; c < x.channels; ++c) {
                        for (std::uint32_t i = 0; i < x.height; ++i) {
                            for (std::uint32_t j = 0; j < x.width; ++j) {
                                y.numbers[y.at(n, c + a[4], i + a[0], j + a[1])] = x.numbers[x.at(n, c, i, j)];
                            }
                        }
                    }
                }
                break;
            }
            case Operator::kSoftmax:
                y = softmax(group);
                break;
            default:
                y = input(group);
                for (float& number : y.numbers) number = activated(node(group).op, number);
        }
        Grid& grid = grids_[group.value];
        const bool is_max = node(group).op == Operator::kMaxPool2d || node(group).op == Operator::kAdaptiveMaxPool2d;
        if (is_max && grid.is_levels) grid = grids_[node(group).inputs[0]];
        for (float& number : y.numbers) number = grid.kept(number);
        values_[group.value] = std::move(y);
    }

    Value convolution(const Group& group) {
        const GraphNode& node = this->node(group);
        const Value& x = input(group);
        const Tensor& weight = network_.tensors[node.tensors[0]];
        const Grid& grid = grids_[node.inputs[0]];
        const bool is_linear = node.op == Operator::kLinear;
        const auto& a = node.attributes;
        const std::uint32_t filters = weight.shape[0], in_group = weight.shape[1];
        const std::uint32_t rows = is_linear ? 1 : weight.shape[2], columns = is_linear ? 1 : weight.shape[3];
        const std::uint32_t down = is_linear ? 1 : a[0], across = is_linear ? 1 : a[1];
        const std::uint32_t dilation_down = is_linear ? 1 : a[6], dilation_across = is_linear ? 1 : a[7];
        const std::uint32_t groups = is_linear ? 1 : a[8];
        Value y = like(x, filters, is_linear ? 1 : (x.height + a[2] + a[4] - dilation_down * (rows - 1) - 1) / down + 1,
                       is_linear ? 1 : (x.width + a[3] + a[5] - dilation_across * (columns - 1) - 1) / across + 1);
        std::vector<std::int64_t> levels(x.size());
        for (std::size_t i = 0; grid.is_levels && i < x.size(); ++i) {
            levels[i] = std::lrint(x.numbers[i] * grid.inverse_step);
        }
        const std::size_t width = std::size_t{in_group} * rows * columns;
        std::vector<double> real(width);
        std::vector<std::int64_t> whole(width);
        for (std::uint32_t o = 0; o < filters; ++o) {
            float scale = weight.scale.empty() ? 1.0f : weight.scale[weight.scale.size() == 1 ? 0 : o];
            if (weight.kind == Tensor::Kind::kFloat && grid.is_levels) {
                float largest = 0.0f;
                for (std::size_t i = 0; i < width; ++i)
                    largest = std::max(largest, std::fabs(weight.real[o * width + i]));
                scale = largest / 127.0f;
            }
            for (std::size_t i = 0; i < width; ++i) {
                const bool is_float = weight.kind == Tensor::Kind::kFloat;
                real[i] = static_cast<double>(is_float ? weight.real[o * width + i]
                                                       : static_cast<float>(weight.whole[o * width + i]));
                if (!grid.is_levels) continue;
                if (!is_float) {
                    whole[i] = weight.whole[o * width + i];
                } else {
                    whole[i] = scale > 0.0f ? std::lrint(weight.real[o * width + i] / scale) : 0;
                }
            }
            const Ending ending = ending_of(group, o, scale);
            const std::uint32_t first = o / (filters / groups) * in_group;
            for (std::uint32_t n = 0; n < y.images; ++n) {
                for (std::uint32_t i = 0; i < y.height; ++i) {
                    for (std::uint32_t j = 0; j < y.width; ++j) {
                        std::int64_t sum = 0;
                        double real_sum = 0.0;
                        for (std::uint32_t c = 0; c < in_group; ++c) {
                            for (std::uint32_t k = 0; k < rows; ++k) {
                                const std::int64_t row =
                                    std::int64_t{i} * down + std::int64_t{k} * dilation_down - a[2];
                                if (row < 0 || row >= x.height) continue;
                                for (std::uint32_t l = 0; l < columns; ++l) {
                                    const std::int64_t column =
                                        std::int64_t{j} * across + std::int64_t{l} * dilation_across - a[3];
                                    if (column < 0 || column >= x.width) continue;
                                    const std::size_t place = (std::size_t{c} * rows + k) * columns + l;
                                    const std::size_t from = x.at(n, first + c, static_cast<std::uint32_t>(row),
                                                                  static_cast<std::uint32_t>(column));
                                    sum += whole[place] * levels[from];
                                    real_sum += real[place] * double{x.numbers[from]};
                                }
                            }
                        }
                        const std::size_t to = y.at(n, o, i, j);
                        y.numbers[to] = ended(group, ending, sum, real_sum, to);
                    }
                }
            }
        }
        return y;
    }

    // Each pixel adds the kernel times itself to the output.
    Value transposed_convolution(const Group& group) {
        const GraphNode& node = this->node(group);
        const Value& x = input(group);
        const Tensor& weight = network_.tensors[node.tensors[0]];
        const Grid& grid = grids_[node.inputs[0]];
        const auto& a = node.attributes;
        const std::uint32_t channels = weight.shape[1], rows = weight.shape[2], columns = weight.shape[3];
        Value y =
            like(x, channels, (x.height - 1) * a[0] + rows - a[2] - a[4], (x.width - 1) * a[1] + columns - a[3] - a[5]);
        const auto real = [&](std::uint32_t c, std::uint32_t o, std::uint32_t k, std::uint32_t l) {
            const std::size_t place = ((std::size_t{c} * channels + o) * rows + k) * columns + l;
            if (weight.kind == Tensor::Kind::kFloat) return weight.real[place];
            const float scale = weight.scale.empty() ? 1.0f : weight.scale[weight.scale.size() == 1 ? 0 : c];
            return scale * static_cast<float>(weight.whole[place]);
        };
        const std::size_t image = std::size_t{y.height} * y.width;
        for (std::uint32_t o = 0; o < channels; ++o) {
            float largest = 0.0f;
            for (std::uint32_t c = 0; c < x.channels; ++c) {
                for (std::uint32_t k = 0; k < rows; ++k) {
                    for (std::uint32_t l = 0; l < columns; ++l) {
                        largest = std::max(largest, std::fabs(real(c, o, k, l)));
                    }
                }
            }
            const float unit = largest / 127.0f;
            const Ending ending = ending_of(group, o, grid.is_levels ? unit : 1.0f);
            for (std::uint32_t n = 0; n < x.images; ++n) {
                std::vector<std::int64_t> sums(image, 0);
                std::vector<double> real_sums(image, 0.0);
                for (std::uint32_t c = 0; c < x.channels; ++c) {
                    for (std::uint32_t i = 0; i < x.height; ++i) {
                        for (std::uint32_t j = 0; j < x.width; ++j) {
                            const float number = x.numbers[x.at(n, c, i, j)];
                            const std::int64_t level = grid.is_levels ? std::lrint(number * grid.inverse_step) : 0;
                            for (std::uint32_t k = 0; k < rows; ++k) {
                                for (std::uint32_t l = 0; l < columns; ++l) {
                                    const std::int64_t row = std::int64_t{i} * a[0] + k - a[2];
                                    const std::int64_t column = std::int64_t{j} * a[1] + l - a[3];
                                    if (row < 0 || row >= y.height || column < 0 || column >= y.width) continue;
                                    const auto to = static_cast<std::size_t>(row * y.width + column);
                                    const float one = real(c, o, k, l);
                                    real_sums[to] += double{one} * double{number};
                                    sums[to] += unit > 0.0f ? std::lrint(one / unit) * level : 0;
                                }
                            }
                        }
                    }
                }
                for (std::size_t k = 0; k < image; ++k) {
                    const std::size_t to = y.at(n, o, 0, 0) + k;
                    y.numbers[to] = ended(group, ending, sums[k], real_sums[k], to);
                }
            }
        }
        return y;
    }

    // What becomes of the sums of a filter: y = sum * scale + shift, in the order of the engine.
    struct Ending {
        float scale, shift;
    };
    Ending ending_of(const Group& group, std::uint32_t filter, float scale) const {
        const GraphNode& node = this->node(group);
        const Grid& grid = grids_[node.inputs[0]];
        if (grid.is_levels) scale *= grid.step;
        float shift = node.tensors[1] == kNoTensor ? 0.0f : network_.tensors[node.tensors[1]].real[filter];
        if (group.affine != kNothing) {
            const GraphNode& affine = graph_.nodes[group.affine];
            const float gain = network_.tensors[affine.tensors[0]].real[filter];
            scale *= gain;
            shift = shift * gain + network_.tensors[affine.tensors[1]].real[filter];
        }
        return {scale, shift};
    }
    float ended(const Group& group, const Ending& ending, std::int64_t sum, double real_sum, std::size_t to) const {
        float number = 0.0f;
        if (grids_[node(group).inputs[0]].is_levels) {
            number = static_cast<float>(static_cast<std::int32_t>(sum)) * ending.scale + ending.shift;
        } else {
            number = static_cast<float>(real_sum * double{ending.scale} + double{ending.shift});
        }
        if (group.residual != kNothing) number += values_[group.residual].numbers[to];
        if (group.activation != Activation::kNone) number = activated(last_operator(group), number);
        return number;
    }

    // Of the node that gives a group its value.
    Operator last_operator(const Group& group) const { return graph_.nodes[group.value - graph_.inputs.size()].op; }

    Value pair(const Group& group) {
        const Value& a = input(group, 0);
        const Value& b = input(group, 1);
        Value y = a.height * a.width < b.height * b.width ? b : a;
        const auto number = [](const Value& x, std::uint32_t n, std::uint32_t c, std::uint32_t i, std::uint32_t j) {
            return x.height * x.width == 1 ? x.numbers[x.at(n, c, 0, 0)] : x.numbers[x.at(n, c, i, j)];
        };
        const bool is_product = node(group).op == Operator::kMul;
        fill(y, [&](auto n, auto c, auto i, auto j) {
            return is_product ? number(a, n, c, i, j) * number(b, n, c, i, j)
                              : number(a, n, c, i, j) + number(b, n, c, i, j);
        });
        return y;
    }

    Value concatenation(const Group& group) {
        Value y = input(group);
        y.channels = 0;
        for (const std::uint32_t value : node(group).inputs) y.channels += values_[value].channels;
        y.numbers.assign(y.size(), 0.0f);
        std::uint32_t before = 0;
        for (const std::uint32_t value : node(group).inputs) {
            const Value& x = values_[value];
            const std::size_t image = std::size_t{x.channels} * x.height * x.width;
            for (std::uint32_t n = 0; n < x.images; ++n) {
                std::copy_n(x.numbers.begin() + static_cast<std::ptrdiff_t>(n * image), image,
                            y.numbers.begin() + static_cast<std::ptrdiff_t>(y.at(n, before, 0, 0)));
            }
            before += x.channels;
        }
        return y;
    }

    static std::uint32_t windows(std::uint32_t size, std::uint32_t kernel, std::uint32_t stride, std::uint32_t before,
                                 std::uint32_t after, std::uint32_t dilation, bool is_ceil) {
        const std::uint32_t room = size + before + after - dilation * (kernel - 1) - 1;
        std::uint32_t count = (is_ceil ? (room + stride - 1) / stride : room / stride) + 1;
        if (is_ceil && (count - 1) * stride >= size + before) --count;
        return count;
    }

    Value pool(const Group& group) {
        const Value& x = input(group);
        const auto& a = node(group).attributes;
        const bool is_max = node(group).op == Operator::kMaxPool2d;
        const std::uint32_t dilation_down = is_max ? a[8] : 1, dilation_across = is_max ? a[9] : 1;
        const bool is_ceil = a[is_max ? 10 : 8] != 0, counts_pads = !is_max && a[9] != 0;
        Value y = like(x, x.channels, windows(x.height, a[0], a[2], a[4], a[6], dilation_down, is_ceil),
                       windows(x.width, a[1], a[3], a[5], a[7], dilation_across, is_ceil));
        const float nothing = is_max ? -3.402823466e38f : 0.0f;
        fill(y, [&](auto n, auto c, auto i, auto j) {
            float total = nothing;
            std::int64_t counted_rows = 0, counted_columns = 0;
            for (std::uint32_t k = 0; k < a[0]; ++k) {
                const std::int64_t row = std::int64_t{i} * a[2] + std::int64_t{k} * dilation_down - a[4];
                const bool is_pad = row < 0 || row >= x.height;
                if (!is_pad || (counts_pads && row < std::int64_t{x.height} + a[6])) ++counted_rows;
            }
            for (std::uint32_t l = 0; l < a[1]; ++l) {
                const std::int64_t column = std::int64_t{j} * a[3] + std::int64_t{l} * dilation_across - a[5];
                const bool is_pad = column < 0 || column >= x.width;
                if (!is_pad || (counts_pads && column < std::int64_t{x.width} + a[7])) ++counted_columns;
                float merged = nothing;
                for (std::uint32_t k = 0; k < a[0] && !is_pad; ++k) {
                    const std::int64_t row = std::int64_t{i} * a[2] + std::int64_t{k} * dilation_down - a[4];
                    if (row < 0 || row >= x.height) continue;
                    const float number =
                        x.numbers[x.at(n, c, static_cast<std::uint32_t>(row), static_cast<std::uint32_t>(column))];
                    merged = is_max ? std::max(merged, number) : merged + number;
                }
                total = is_max ? std::max(total, merged) : total + merged;
            }
            return is_max ? total : total / static_cast<float>(counted_rows * counted_columns);
        });
        return y;
    }

    Value adaptive_pool(const Group& group) {
        const Value& x = input(group);
        const auto& a = node(group).attributes;
        const bool is_max = node(group).op == Operator::kAdaptiveMaxPool2d;
        Value y = like(x, x.channels, a[0], a[1]);
        const Grid& grid = grids_[node(group).inputs[0]];
        if (grid.is_levels && !is_max && y.height == 1 && y.width == 1) {
            // The sum of levels is exact.
            fill(y, [&](auto n, auto c, auto, auto) {
                std::int64_t sum = 0;
                const std::size_t begin = x.at(n, c, 0, 0), pixels = std::size_t{x.height} * x.width;
                for (std::size_t k = begin; k < begin + pixels; ++k)
                    sum += std::lrint(x.numbers[k] * grid.inverse_step);
                return static_cast<float>(sum) * grid.step / static_cast<float>(pixels);
            });
            return y;
        }
        fill(y, [&](auto n, auto c, auto i, auto j) {
            const std::uint32_t top = i * x.height / a[0], bottom = ((i + 1) * x.height + a[0] - 1) / a[0];
            const std::uint32_t left = j * x.width / a[1], right = ((j + 1) * x.width + a[1] - 1) / a[1];
            float total = 0.0f;
            for (std::uint32_t column = left; column < right; ++column) {
                float merged = is_max ? -3.402823466e38f : 0.0f;
                for (std::uint32_t row = top; row < bottom; ++row) {
                    const float number = x.numbers[x.at(n, c, row, column)];
                    merged = is_max ? std::max(merged, number) : merged + number;
                }
                total = column == left ? merged : is_max ? std::max(total, merged) : total + merged;
            }
            return is_max ? total : total / static_cast<float>((bottom - top) * (right - left));
        });
        return y;
    }

    struct Source {
        std::uint32_t low, high;
        float fraction;
    };
    static Source source(bool is_nearest, bool aligns, std::uint32_t at, std::uint32_t from, std::uint32_t to) {
        if (is_nearest) return {at * from / to, at * from / to, 0.0f};
        float place = 0.0f;
        if (aligns) {
            if (to > 1) place = static_cast<float>(at) * (static_cast<float>(from - 1) / static_cast<float>(to - 1));
        } else {
            const float ratio = static_cast<float>(from) / static_cast<float>(to);
            place = std::max((static_cast<float>(at) + 0.5f) * ratio - 0.5f, 0.0f);
        }
        const std::uint32_t low = std::min(static_cast<std::uint32_t>(place), from - 1);
        return {low, std::min(low + 1, from - 1), place - static_cast<float>(low)};
    }

    Value resized(const Group& group) {
        const Value& x = input(group);
        const GraphNode& node = this->node(group);
        const bool is_factor = node.op == Operator::kUpsampleNearest || node.op == Operator::kUpsampleBilinear;
        const bool is_nearest = node.op == Operator::kUpsampleNearest || node.op == Operator::kResizeNearest;
        std::uint32_t height = node.attributes[0], width = node.attributes[1];
        if (is_factor) {
            height *= x.height;
            width *= x.width;
        } else if (node.inputs.size() == 2) {
            height = input(group, 1).height;
            width = input(group, 1).width;
        }
        Value y = like(x, x.channels, height, width);
        fill(y, [&](auto n, auto c, auto i, auto j) {
            const Source row = source(is_nearest, node.attributes[2] != 0, i, x.height, height);
            const Source column = source(is_nearest, node.attributes[2] != 0, j, x.width, width);
            const auto between = [&](std::uint32_t k) {
                return x.numbers[x.at(n, c, row.low, k)] * (1.0f - row.fraction) +
                       x.numbers[x.at(n, c, row.high, k)] * row.fraction;
            };
            return between(column.low) * (1.0f - column.fraction) + between(column.high) * column.fraction;
        });
        return y;
    }

    Value softmax(const Group& group) {
        const Value& x = input(group);
        Value y = x;
        fill(y, [&](auto n, auto c, auto i, auto j) {
            float largest = x.numbers[x.at(n, 0, i, j)], total = 0.0f;
            for (std::uint32_t k = 1; k < x.channels; ++k) largest = std::max(largest, x.numbers[x.at(n, k, i, j)]);
            for (std::uint32_t k = 0; k < x.channels; ++k) total += exponential(x.numbers[x.at(n, k, i, j)] - largest);
            return exponential(x.numbers[x.at(n, c, i, j)] - largest) / total;
        });
        return y;
    }

    const Network& network_;
    const Graph& graph_;
    bool is_integer_;
    std::vector<Value> values_;
    std::vector<Grid> grids_;
};

}  // namespace

std::vector<Value> compute(const Network& network, const std::vector<Value>& inputs, bool is_integer) {
    return Computation(network, inputs, is_integer).run();
}

}  // namespace sterna::testing
