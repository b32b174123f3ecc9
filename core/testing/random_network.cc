#include "core/testing/random_network.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace sterna::testing {
namespace {

// Sizes of images are taken smaller until a convolution multiplies at most so often: the reference is slow.
constexpr std::uint64_t kMaxProducts = 400000, kMaxWideProducts = 4000000;
constexpr std::uint32_t kMaxNodes = 9;

struct Image {
    std::uint32_t channels = 1, height = 1, width = 1;
    bool is_matrix = false;
    bool operator==(const Image&) const = default;
};

// Adds node after node, and knows the shapes of the values.
class Builder {
  public:
    Builder(Random& random, std::uint32_t images) : random_(random), images_(images) {}

    std::uint32_t add_input(const Image& image) {
        GraphInput input;
        input.name = "input" + std::to_string(shapes_.size());
        input.shape = {image.channels};
        if (!image.is_matrix) input.shape = {image.channels, image.height, image.width};
        graph().inputs.push_back(input);
        Value value;
        value.images = images_;
        value.channels = image.channels;
        value.height = image.height;
        value.width = image.width;
        value.is_matrix = image.is_matrix;
        value.numbers.resize(value.size());
        for (float& number : value.numbers) number = 3.0f * random_.real();
        made_.inputs.push_back(value);
        shapes_.push_back(image);
        return static_cast<std::uint32_t>(shapes_.size() - 1);
    }

    std::uint32_t add(Operator op, const std::vector<std::uint32_t>& inputs, const Image& shape,
                      const std::vector<std::uint32_t>& attributes = {},
                      const std::vector<std::uint32_t>& tensors = {}) {
        GraphNode node;
        node.op = op;
        node.inputs = inputs;
        std::copy(attributes.begin(), attributes.end(), node.attributes.begin());
        std::copy(tensors.begin(), tensors.end(), node.tensors.begin());
        graph().nodes.push_back(node);
        shapes_.push_back(shape);
        return static_cast<std::uint32_t>(shapes_.size() - 1);
    }

    std::uint32_t add_tensor(Tensor tensor) {
        made_.network.tensors.push_back(std::move(tensor));
        return static_cast<std::uint32_t>(made_.network.tensors.size() - 1);
    }

    std::uint32_t add_vector(std::uint32_t size) {
        Tensor tensor;
        tensor.shape = {size};
        for (std::uint32_t i = 0; i < size; ++i) tensor.real.push_back(random_.real());
        return add_tensor(std::move(tensor));
    }

    // Of any kind and density, or with numbers and few zeros; numbers so small that sums stay near 1.
    std::uint32_t add_weights(const std::vector<std::uint32_t>& shape, bool is_dense = false) {
        Tensor tensor;
        tensor.shape = shape;
        const std::size_t elements = tensor.elements();
        const float size = 1.0f / std::sqrt(static_cast<float>(elements / shape[0]));
        const std::uint32_t least = is_dense ? 90 : 1;
        const std::uint32_t density = random_.one_in(4) ? random_.between(0, 1) * 100 : random_.between(least, 100);
        const std::uint32_t kind = random_.between(0, is_dense ? 1 : 5);
        tensor.kind = kind == 0 ? Tensor::Kind::kFloat : kind == 1 ? Tensor::Kind::kInt8 : Tensor::Kind::kSigns;
        for (std::size_t i = 0; i < elements; ++i) {
            const bool is_there = random_.between(1, 100) <= density;
            if (tensor.kind == Tensor::Kind::kFloat) {
                tensor.real.push_back(is_there ? size * random_.real() : 0.0f);
            } else if (tensor.kind == Tensor::Kind::kInt8) {
                tensor.whole.push_back(static_cast<std::int8_t>(is_there ? 127.0f * random_.real() : 0.0f));
            } else {
                tensor.whole.push_back(static_cast<std::int8_t>(is_there ? (random_.one_in(2) ? 1 : -1) : 0));
            }
        }
        const float unit = tensor.kind == Tensor::Kind::kInt8 ? size / 127.0f : size;
        if (tensor.kind == Tensor::Kind::kInt8 || (tensor.kind == Tensor::Kind::kSigns && random_.one_in(2))) {
            const std::uint32_t scales = random_.one_in(2) ? 1 : shape[0];
            for (std::uint32_t i = 0; i < scales; ++i) tensor.scale.push_back(unit * (1.5f + random_.real()));
        }
        return add_tensor(std::move(tensor));
    }

    // A convolution that fits the value, with whatever kernel; or nothing.
    std::uint32_t add_convolution(std::uint32_t value, std::uint32_t most_filters) {
        constexpr std::uint32_t kKernels[] = {1, 3, 5, 7, 2};
        const Image x = shapes_[value];
        std::uint32_t rows = kKernels[random_.between(0, 4)],
                      columns = random_.one_in(4) ? kKernels[random_.between(0, 4)] : rows;
        const std::uint32_t down = random_.one_in(2) ? 1 : random_.between(1, 3);
        const std::uint32_t across = random_.one_in(4) ? random_.between(1, 3) : down;
        const std::uint32_t dilation_down = random_.one_in(3) ? random_.between(1, 3) : 1;
        const std::uint32_t dilation_across = random_.one_in(3) ? dilation_down : 1;
        std::uint32_t pads[4];
        const std::uint32_t same = dilation_down * (rows - 1) / 2;
        const bool is_same = random_.one_in(2);
        for (std::uint32_t& pad : pads) pad = is_same ? same : random_.between(0, rows);
        std::uint32_t groups = 1;
        if (random_.one_in(3)) groups = x.channels;
        for (std::uint32_t i = 2; i <= 5 && groups == 1; ++i) {
            if (x.channels % i == 0 && random_.one_in(4)) groups = i;
        }
        std::uint32_t filters = random_.between(1, most_filters);
        if (groups > 1) filters = groups * random_.between(1, std::max(1u, std::min(3u, most_filters / groups)));
        const auto room = [](std::uint32_t size, std::uint32_t before, std::uint32_t after) {
            return size + before + after;
        };
        if (room(x.height, pads[0], pads[2]) < dilation_down * (rows - 1) + 1 ||
            room(x.width, pads[1], pads[3]) < dilation_across * (columns - 1) + 1) {
            rows = columns = 1;
        }
        const Image y = {filters, (room(x.height, pads[0], pads[2]) - dilation_down * (rows - 1) - 1) / down + 1,
                         (room(x.width, pads[1], pads[3]) - dilation_across * (columns - 1) - 1) / across + 1, false};
        const std::uint32_t weight = add_weights({filters, x.channels / groups, rows, columns});
        const std::uint32_t bias = random_.one_in(2) ? add_vector(filters) : kNoTensor;
        return add(Operator::kConv2d, {value}, y,
                   {down, across, pads[0], pads[1], pads[2], pads[3], dilation_down, dilation_across, groups},
                   {weight, bias});
    }

    // One or two filters a channel, mostly of every second column of rows that may be long.
    std::uint32_t add_depthwise(std::uint32_t value) {
        const Image x = shapes_[value];
        const std::uint32_t rows = random_.one_in(2) ? 3 : random_.between(1, 5);
        const std::uint32_t columns = random_.one_in(2) ? 3 : random_.between(1, 5);
        const std::uint32_t down = random_.between(1, 3), across = random_.one_in(4) ? random_.between(1, 3) : 2;
        const std::uint32_t dilation = random_.one_in(4) ? 2 : 1;
        const std::uint32_t reach_down = dilation * (rows - 1), reach_across = dilation * (columns - 1);
        std::uint32_t pads[4] = {reach_down / 2, reach_across / 2, reach_down / 2, reach_across / 2};
        for (std::uint32_t i = 0; i < 4; ++i) {
            if (random_.one_in(3)) pads[i] = random_.between(0, 3);
        }
        // The image is as large as the kernel at least.
        pads[2] += reach_down + 1 > pads[0] + x.height + pads[2] ? reach_down : 0;
        pads[3] += reach_across + 1 > pads[1] + x.width + pads[3] ? reach_across : 0;
        const Image y = {x.channels * random_.between(1, 2), (x.height + pads[0] + pads[2] - reach_down - 1) / down + 1,
                         (x.width + pads[1] + pads[3] - reach_across - 1) / across + 1, false};
        const std::uint32_t weight = add_weights({y.channels, 1, rows, columns});
        const std::uint32_t bias = random_.one_in(2) ? add_vector(y.channels) : kNoTensor;
        return add(Operator::kConv2d, {value}, y,
                   {down, across, pads[0], pads[1], pads[2], pads[3], dilation, dilation, x.channels}, {weight, bias});
    }

    // A convolution of numbers with whatever kernel, strides and pads; or nothing, if it does not fit.
    bool add_dense_convolution(std::uint32_t value, std::uint32_t most_filters) {
        const Image x = shapes_[value];
        const std::uint32_t rows = random_.between(1, 8), columns = random_.one_in(3) ? random_.between(1, 8) : rows;
        const std::uint32_t down = random_.between(1, 3), across = random_.one_in(4) ? random_.between(1, 3) : down;
        const bool is_same = random_.one_in(2);
        std::uint32_t pads[4] = {rows / 2, columns / 2, rows / 2, columns / 2};
        for (std::size_t i = 0; i < 4 && !is_same; ++i) pads[i] = random_.between(0, i % 2 == 0 ? rows : columns);
        const std::uint32_t height = x.height + pads[0] + pads[2], width = x.width + pads[1] + pads[3];
        if (height < rows || width < columns) return false;
        const Image y = {random_.between(1, most_filters), (height - rows) / down + 1, (width - columns) / across + 1,
                         false};
        const std::uint32_t weight = add_weights({y.channels, x.channels, rows, columns}, !random_.one_in(5));
        const std::uint32_t bias = random_.one_in(2) ? add_vector(y.channels) : kNoTensor;
        add(Operator::kConv2d, {value}, y, {down, across, pads[0], pads[1], pads[2], pads[3], 1, 1, 1}, {weight, bias});
        return true;
    }

    // A transposed convolution with whatever kernel; its output has at least a pixel.
    std::uint32_t add_transposed(std::uint32_t value, std::uint32_t most_channels) {
        const Image x = shapes_[value];
        const std::uint32_t rows = random_.between(1, 5), columns = random_.one_in(4) ? random_.between(1, 5) : rows;
        const std::uint32_t down = random_.between(1, 4), across = random_.one_in(4) ? random_.between(1, 4) : down;
        // Now and then more than the kernel, so that pixels of the input count for nothing.
        const auto pads = [this](std::uint32_t whole, std::uint32_t kernel) {
            const std::uint32_t most = random_.one_in(4) ? whole - 1 : std::min(whole - 1, kernel);
            const std::uint32_t before = random_.between(0, most);
            return std::pair(before, random_.between(0, most - before));
        };
        const std::uint32_t height = (x.height - 1) * down + rows, width = (x.width - 1) * across + columns;
        const auto [top, bottom] = pads(height, rows);
        const auto [left, right] = pads(width, columns);
        const Image y = {random_.between(1, most_channels), height - top - bottom, width - left - right, false};
        const std::uint32_t weight = add_weights({x.channels, y.channels, rows, columns});
        const std::uint32_t bias = random_.one_in(2) ? add_vector(y.channels) : kNoTensor;
        return add(Operator::kConvTranspose2d, {value}, y, {down, across, top, left, bottom, right}, {weight, bias});
    }

    // The same convolution again, with other weights.
    std::uint32_t add_twin(std::uint32_t value) {
        const GraphNode node = made_.network.graph.nodes[value - made_.network.graph.inputs.size()];
        const std::uint32_t weight = add_weights(made_.network.tensors[node.tensors[0]].shape);
        return add(node.op, node.inputs, shapes_[value], {node.attributes.begin(), node.attributes.end()},
                   {weight, kNoTensor});
    }

    std::uint64_t products(std::uint32_t value) const {
        const GraphNode& node = made_.network.graph.nodes[value - made_.network.graph.inputs.size()];
        const std::uint64_t weights = made_.network.tensors[node.tensors[0]].elements();
        const Image& counted = node.op == Operator::kConvTranspose2d ? shapes_[node.inputs[0]] : shapes_[value];
        return weights * images_ * counted.height * counted.width;
    }

    const Image& shape(std::uint32_t value) const { return shapes_[value]; }
    std::uint32_t last() const { return static_cast<std::uint32_t>(shapes_.size() - 1); }
    Random& random() { return random_; }

    // With outputs, and ranges around what a float32 network computes: some too small, so that levels are cut.
    Case finish() {
        std::vector<bool> is_used(shapes_.size(), false);
        for (const GraphNode& node : graph().nodes) {
            for (const std::uint32_t value : node.inputs) is_used[value] = true;
        }
        for (std::uint32_t v = 0; v < shapes_.size(); ++v) {
            if (!is_used[v]) graph().outputs.push_back({"output" + std::to_string(v), v});
        }
        for (const Value& value : compute(made_.network, made_.inputs, false)) {
            const auto [low, high] = std::minmax_element(value.numbers.begin(), value.numbers.end());
            const float part = random_.one_in(3) ? 0.5f : 1.0f;
            Range range = {part * *low, part * *high};
            if (range.low >= 0.0f && !(range.high > 0.0f)) range.high = 1.0f;
            if (range.low < 0.0f && range.high < range.low) range.high = range.low;
            graph().ranges.push_back(range);
        }
        return std::move(made_);
    }

    Graph& graph() { return made_.network.graph; }
    Case& made() { return made_; }

  private:
    Random& random_;
    std::uint32_t images_;
    Case made_;
    std::vector<Image> shapes_;
};

Operator any_activation(Random& random) {
    constexpr Operator kActivations[] = {Operator::kRelu, Operator::kRelu6,   Operator::kHardswish,
                                         Operator::kSilu, Operator::kSigmoid, Operator::kHardsigmoid};
    return random.one_in(2) ? Operator::kRelu : kActivations[random.between(0, 5)];
}

void add_pool(Builder& builder, std::uint32_t value) {
    Random& random = builder.random();
    const Image& x = builder.shape(value);
    const bool is_max = random.one_in(2);
    const std::uint32_t rows = random.between(1, std::min(3u, x.height)),
                        columns = random.between(1, std::min(3u, x.width));
    const std::uint32_t down = random.between(1, 3), across = random.between(1, 3);
    const std::uint32_t top = random.between(0, rows - 1), left = random.between(0, columns - 1);
    const bool is_ceil = random.one_in(2);
    const auto windows = [is_ceil](std::uint32_t size, std::uint32_t kernel, std::uint32_t stride, std::uint32_t pad) {
        const std::uint32_t room = size + 2 * pad - kernel;
        std::uint32_t count = (room + (is_ceil ? stride - 1 : 0)) / stride + 1;
        if (is_ceil && (count - 1) * stride >= size + pad) --count;
        return count;
    };
    const Image y = {x.channels, windows(x.height, rows, down, top), windows(x.width, columns, across, left), false};
    std::vector<std::uint32_t> attributes = {rows, columns, down, across, top, left, top, left};
    if (is_max) attributes.insert(attributes.end(), {1, 1});
    attributes.push_back(is_ceil ? 1 : 0);
    if (!is_max) attributes.push_back(random.between(0, 1));
    builder.add(is_max ? Operator::kMaxPool2d : Operator::kAvgPool2d, {value}, y, attributes);
}

void add_resize(Builder& builder, std::uint32_t value) {
    Random& random = builder.random();
    const Image& x = builder.shape(value);
    const bool is_bilinear = random.one_in(2);
    std::vector<std::uint32_t> attributes;
    Image y = x;
    if (random.one_in(2)) {
        y.height = random.between(1, 12);
        y.width = random.between(1, 12);
        attributes = {y.height, y.width};
        if (is_bilinear) attributes.push_back(random.between(0, 1));
        builder.add(is_bilinear ? Operator::kResizeBilinear : Operator::kResizeNearest, {value}, y, attributes);
        return;
    }
    attributes = {random.between(1, 2), random.between(1, 2)};
    y.height *= attributes[0];
    y.width *= attributes[1];
    if (is_bilinear) attributes.push_back(random.between(0, 1));
    builder.add(is_bilinear ? Operator::kUpsampleBilinear : Operator::kUpsampleNearest, {value}, y, attributes);
}

void add_any(Builder& builder) {
    Random& random = builder.random();
    const std::uint32_t value = random.between(0, builder.last());
    const std::uint32_t other = random.between(0, builder.last());
    const Image x = builder.shape(value), z = builder.shape(other);
    const std::uint32_t choice = random.between(0, 14);
    if (choice <= 1) {
        builder.add(any_activation(random), {value}, x);
    } else if (choice == 2) {
        const std::uint32_t scale = builder.add_vector(x.channels), shift = builder.add_vector(x.channels);
        builder.add(Operator::kAffine, {value}, x, {}, {scale, shift});
    } else if (choice <= 4) {
        const bool is_single = !x.is_matrix && !z.is_matrix && z.height * z.width == 1 && z.channels == x.channels;
        if (!(x == z) && !is_single) return;
        builder.add(random.one_in(2) ? Operator::kAdd : Operator::kMul, {value, other}, x);
    } else if (choice == 5) {
        if (x.height != z.height || x.width != z.width || x.is_matrix != z.is_matrix) return;
        Image y = x;
        y.channels += z.channels;
        if (y.channels <= 80) builder.add(Operator::kConcat, {value, other}, y);
    } else if (choice == 6) {
        builder.add(Operator::kSoftmax, {value}, x);
    } else if (x.is_matrix) {
        const std::uint32_t filters = random.between(1, 40);
        const std::uint32_t weight = builder.add_weights({filters, x.channels});
        const std::uint32_t bias = random.one_in(2) ? builder.add_vector(filters) : kNoTensor;
        builder.add(Operator::kLinear, {value}, {filters, 1, 1, true}, {}, {weight, bias});
    } else if (choice == 7) {
        add_pool(builder, value);
    } else if (choice == 8) {
        // Half of them to a single pixel, where batches lie closely.
        Image y = x;
        y.height = random.one_in(2) ? 1 : random.between(1, 6);
        y.width = y.height == 1 ? 1 : random.between(1, 6);
        builder.add(random.one_in(2) ? Operator::kAdaptiveAvgPool2d : Operator::kAdaptiveMaxPool2d, {value}, y,
                    {y.height, y.width});
    } else if (choice == 9) {
        const std::uint32_t features = x.channels * x.height * x.width;
        if (features <= 600) builder.add(Operator::kFlatten, {value}, {features, 1, 1, true});
    } else if (choice == 10) {
        if (x.height <= 8 && x.width <= 8) add_resize(builder, value);
    } else if (choice == 11) {
        std::vector<std::uint32_t> pads;
        for (int i = 0; i < 6; ++i) pads.push_back(random.between(0, 2));
        builder.add(Operator::kPad, {value},
                    {x.channels + pads[4] + pads[5], x.height + pads[0] + pads[2], x.width + pads[1] + pads[3], false},
                    pads);
    } else if (choice == 12) {
        if (x.height <= 8 && x.width <= 8) builder.add_transposed(value, 16);
    } else {
        builder.add_convolution(value, 16);
    }
}

// What the engine computes together with a convolution of value `from`, and a use of it all.
void add_what_follows(Builder& builder, std::uint32_t from, std::uint32_t convolution) {
    Random& random = builder.random();
    std::uint32_t value = convolution;
    const Image y = builder.shape(value);
    if (random.one_in(3)) {
        const std::uint32_t scale = builder.add_vector(y.channels), shift = builder.add_vector(y.channels);
        value = builder.add(Operator::kAffine, {value}, y, {}, {scale, shift});
    }
    if (random.one_in(3)) {
        const std::uint32_t residual = y == builder.shape(from) ? from : builder.add_twin(convolution);
        value = builder.add(Operator::kAdd, {value, residual}, y);
    }
    if (random.one_in(2)) value = builder.add(any_activation(random), {value}, y);
    // What is used is kept as levels.
    builder.add(Operator::kMaxPool2d, {value}, y, {1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 0});
}

// Some images, the size of an image, and how wide a convolution is.
struct ConvolutionLimits {
    std::uint32_t images, size, channels, filters;
    std::uint64_t products;
};

Case convolution(Random& random, const ConvolutionLimits& limits) {
    for (;;) {
        Builder builder(random, limits.images);
        std::uint32_t value = builder.add_input({random.between(1, limits.channels), random.between(1, limits.size),
                                                 random.between(1, limits.size), false});
        // A value before it, so that its input has been computed in its turn.
        if (random.one_in(3)) value = builder.add(any_activation(random), {value}, builder.shape(value));
        const std::uint32_t from = value;
        const bool is_transposed = random.one_in(4);
        const std::uint32_t convolution =
            is_transposed ? builder.add_transposed(value, 20) : builder.add_convolution(value, limits.filters);
        if (builder.products(convolution) > limits.products) continue;
        add_what_follows(builder, from, convolution);
        return builder.finish();
    }
}

}  // namespace

Case random_convolution(Random& random) {
    const std::uint32_t images = random.one_in(2) ? 1 : random.between(1, 20);
    const std::uint32_t size = random.one_in(4) ? 3 : 19;
    return convolution(random, {images, size, random.one_in(3) ? 70u : 9u, 70, kMaxProducts});
}

Case wide_convolution(Random& random) {
    const std::uint32_t images = random.one_in(2) ? 1 : random.between(1, 20);
    return convolution(random, {images, 12, 200, 200, kMaxWideProducts});
}

Case depthwise_convolution(Random& random) {
    Builder builder(random, random.one_in(2) ? 1 : random.between(2, 4));
    std::uint32_t value = builder.add_input(
        {random.between(2, 5), random.between(1, 19), random.between(1, random.one_in(2) ? 19 : 300), false});
    // Of either sign, or not.
    if (random.one_in(2)) value = builder.add(any_activation(random), {value}, builder.shape(value));
    value = builder.add_depthwise(value);
    const Image y = builder.shape(value);
    if (random.one_in(8)) {
        value = builder.add(Operator::kAdd, {value, builder.add_twin(value)}, y);
    }
    if (random.one_in(2)) value = builder.add(any_activation(random), {value}, y);
    // What is used is kept as levels.
    if (!random.one_in(8)) builder.add(Operator::kMaxPool2d, {value}, y, {1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 0});
    return builder.finish();
}

Case dense_convolution(Random& random) {
    for (;;) {
        Builder builder(random, random.one_in(2) ? 1 : random.between(2, 5));
        const std::uint32_t channels = random.between(1, random.one_in(4) ? 30 : 5);
        std::uint32_t value =
            builder.add_input({channels, random.between(1, 30), random.between(1, random.one_in(3) ? 280 : 40), false});
        if (random.one_in(3)) value = builder.add(any_activation(random), {value}, builder.shape(value));
        if (!builder.add_dense_convolution(value, 40) || builder.products(builder.last()) > kMaxProducts) continue;
        add_what_follows(builder, value, builder.last());
        return builder.finish();
    }
}

Case extreme_convolution(Random& random) {
    Builder builder(random, random.one_in(2) ? 1 : random.between(2, 9));
    const std::uint32_t kernel = 2 * random.between(0, 3) + 1, stride = kernel > 3 ? 2 : 1;
    const std::uint32_t channels = random.between(1, kernel > 3 ? 10 : 70), filters = random.between(1, 5);
    const std::uint32_t size = random.one_in(3) ? 1 : random.between(2, 6), input_size = stride * size;
    const std::uint32_t input = builder.add_input({channels, input_size, input_size, false});
    const std::uint32_t sign = random.between(0, 3);
    Tensor weight;
    weight.kind = random.one_in(kernel > 3 ? 2 : 4) ? Tensor::Kind::kInt8 : Tensor::Kind::kSigns;
    weight.shape = {filters, channels, kernel, kernel};
    const int one = weight.kind == Tensor::Kind::kInt8 ? 127 : 1;
    for (std::size_t i = 0; i < weight.elements(); ++i) {
        const std::size_t row = i / kernel % kernel / stride, column = i % kernel / stride;
        const bool is_positive = sign == 0 || (sign == 2 && random.one_in(2)) || (sign == 3 && (row + column) % 2 == 0);
        weight.whole.push_back(static_cast<std::int8_t>(is_positive ? one : -one));
    }
    if (one == 127) weight.scale = {1.0f / 127.0f};
    const std::uint32_t weights = builder.add_tensor(std::move(weight));
    const std::uint32_t pad = kernel / 2;
    const std::uint32_t value = builder.add(Operator::kConv2d, {input}, {filters, size, size, false},
                                            {stride, stride, pad, pad, pad, pad, 1, 1, 1}, {weights, kNoTensor});
    builder.add(Operator::kMaxPool2d, {value}, {filters, size, size, false}, {1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 0});
    // All numbers at an end of the levels: 0 or 255, or -127 and 127 of either sign alike.
    const bool is_signed = random.one_in(2), is_mixed = random.one_in(3), is_negative = random.one_in(2);
    for (float& number : builder.made().inputs[0].numbers) {
        const bool is_low = is_mixed ? random.one_in(2) : is_signed && is_negative;
        number = !is_low ? 1.0f : is_signed ? -1.0f : 0.0f;
    }
    Case made = builder.finish();
    made.network.graph.ranges[0] = {is_signed ? -1.0f : 0.0f, 1.0f};
    return made;
}

Case random_graph(Random& random) {
    for (;;) {
        Builder builder(random, random.one_in(2) ? random.between(1, 3) : random.between(1, 12));
        builder.add_input({random.between(1, 12), random.between(1, 9), random.between(1, 9), false});
        if (random.one_in(4)) builder.add_input({random.between(1, 12), 1, 1, random.one_in(2)});
        const std::uint32_t nodes = random.between(3, kMaxNodes);
        for (std::uint32_t tries = 0; tries < 100 && builder.graph().nodes.size() < nodes; ++tries) add_any(builder);
        bool is_small = !builder.graph().nodes.empty();
        const auto inputs = static_cast<std::uint32_t>(builder.graph().inputs.size());
        for (std::uint32_t i = 0; i < builder.graph().nodes.size(); ++i) {
            const Operator op = builder.graph().nodes[i].op;
            const bool has_products = op == Operator::kConv2d || op == Operator::kConvTranspose2d;
            is_small = is_small && !(has_products && builder.products(inputs + i) > kMaxProducts);
        }
        if (is_small) return builder.finish();
    }
}

}  // namespace sterna::testing
