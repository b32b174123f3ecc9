// Makes a plan: geometry of all image sizes, a step for each group of nodes, and a place in the arena for each value.
#include "core/engine/plan.h"

#include <algorithm>
#include <cmath>

#include "core/engine/arena_layout.h"
#include "core/engine/conv_plan.h"
#include "core/engine/fast_plan.h"
#include "core/engine/geometry.h"
#include "core/engine/levels.h"
#include "core/engine/matrix_plan.h"
#include "core/engine/pool_plan.h"
#include "core/engine/transposed_conv.h"

namespace sterna {
namespace {

// Far beyond any network; places are found in a time that grows with the square of their number.
constexpr std::size_t kMaxNodes = std::size_t{1} << 14;
constexpr std::size_t kMaxNodeInputs = std::size_t{1} << 16;
// So that int32 holds every sum of bytes times weights.
constexpr std::uint64_t kMaxInt32Sum = 0x7fffffff, kLargestByte = 255;

}  // namespace

class Planner {
  public:
    Planner(const Graph& graph, WeightStore& weights, const EngineOptions& options, Plan& plan, std::string& problem)
        : graph_(graph), weights_(weights), options_(options), plan_(plan), problem_(problem) {}

    void run() {
        std::size_t node_inputs = 0;
        for (const GraphNode& node : graph_.nodes) node_inputs += node.inputs.size();
        if (graph_.nodes.size() > kMaxNodes || node_inputs > kMaxNodeInputs) {
            problem_ = "the graph has too many nodes for the engine";
            return;
        }
        shapes_ = infer_shapes(graph_, plan_.inputs_, weights_, problem_);
        if (!problem_.empty()) return;
        groups_ = fuse(graph_, shapes_);
        if (options_.int8_activations && graph_.ranges.empty()) {
            problem_ = "the graph has no ranges for 8-bit activations: it is not calibrated";
            return;
        }
        is_used_ = graph_.used_values();
        for (const GraphOutput& output : graph_.outputs) plan_.outputs_.push_back(shapes_[output.value]);
        make_geometries();
        if (!problem_.empty()) return;
        make_value_places();
        if (!problem_.empty()) return;
        for (std::uint32_t i = 0; i < graph_.inputs.size(); ++i) add_load(i);
        for (const Group& group : groups_) {
            add_group(group);
            if (!problem_.empty()) return;
        }
        for (std::uint32_t i = 0; i < graph_.outputs.size(); ++i) add_store(i);
        plan_.arena_bytes_ = lay_out(plan_.steps_, plan_.places_);
        if (plan_.arena_bytes_ > options_.max_bytes) refuse_size();
    }

    std::vector<Alternative> take_alternatives() { return std::move(alternatives_); }

  private:
    const GraphNode& node(const Group& group) const { return graph_.nodes[group.node]; }

    std::uint32_t geometry_of(std::uint32_t height, std::uint32_t width) {
        for (std::uint32_t i = 0; i < plan_.geometries_.size(); ++i) {
            const Geometry& geometry = plan_.geometries_[i];
            if (geometry.height == height && geometry.width == width) return i;
        }
        Geometry geometry;
        geometry.height = height;
        geometry.width = width;
        plan_.geometries_.push_back(std::move(geometry));
        return static_cast<std::uint32_t>(plan_.geometries_.size() - 1);
    }

    // What all convolutions read beyond rows and images decides how many zeros lie there.
    void make_geometries() {
        for (const Shape& shape : shapes_) geometry_of(shape.height, shape.width);
        make_transposed();
        if (!problem_.empty()) return;
        std::vector<ConvReach> direct(plan_.geometries_.size()), split(plan_.geometries_.size());
        for (const Group& group : groups_) {
            if (!is_convolution(node(group).op)) continue;
            const ConvRequest request = request_of(group);
            if (reads_strides(group, request)) {
                direct[geometry_of(request.input.height, request.input.width)].include(
                    strided_reach(request.shape, request.input, request.output));
                continue;
            }
            const ConvReach reach = conv_reach(request.shape, request.input, request.output);
            (reach.is_direct ? direct : split)[geometry_of(request.output.height, request.output.width)].include(reach);
        }
        for (std::size_t i = 0; i < plan_.geometries_.size(); ++i) {
            Geometry& geometry = plan_.geometries_[i];
            if (!size_planes(geometry, direct[i], split[i], plan_.images_)) return refuse_size();
        }
    }

    void make_transposed() {
        transposed_.resize(graph_.nodes.size());
        for (const Group& group : groups_) {
            if (node(group).op != Operator::kConvTranspose2d) continue;
            const Weights& weights = *weights_.get(node(group).tensors[0], problem_);
            transposed_[group.node] = make_transposed_conv(node(group), weights, shapes_[group.value],
                                                           options_.int8_activations, options_.max_bytes, problem_);
            if (!problem_.empty()) return;
            geometry_of(transposed_[group.node]->output.height, transposed_[group.node]->output.width);
        }
    }

    // What a group computes first: the convolution of its node or, of a transposed one, that of its phases.
    ConvRequest request_of(const Group& group) {
        const GraphNode& node = this->node(group);
        ConvRequest request;
        request.input = shapes_[node.inputs[0]];
        request.images = plan_.images_;
        if (const TransposedConv* const phases = transposed_[group.node].get()) {
            request.weights = &phases->weights;
            request.shape = phases->shape;
            request.output = phases->output;
            request.filters_per_bias = phases->phases();
        } else {
            request.weights = weights_.get(node.tensors[0], problem_);
            request.shape = conv_shape(node, *request.weights);
            request.output = shapes_[group.value];
        }
        return request;
    }

    // Whether every second column is read, without a copy that is split into phases.
    bool reads_strides(const Group& group, const ConvRequest& request) const {
        return options_.int8_activations && is_used_[group.value] && group.residual == kNothing &&
               can_read_strides(request);
    }

    void refuse_size() { problem_ = "the batch or the image is too large"; }

    std::uint32_t add_place(std::uint64_t channels, std::uint32_t geometry_number, Element element, Levels levels) {
        const Geometry& geometry = plan_.geometries_[geometry_number];
        Place place;
        if (channels > kMaxPlanesElements / geometry.plane_stride) {
            refuse_size();
            channels = 0;
        }
        place.channels = static_cast<std::uint32_t>(channels);
        place.geometry = geometry_number;
        place.element = element;
        place.levels = levels;
        const std::uint64_t elements = 2 * geometry.margin + channels * geometry.plane_stride;
        const std::uint64_t bytes = elements * size_of(element);
        if (elements > kMaxPlanesElements || bytes > options_.max_bytes) refuse_size();
        place.bytes = round_up(static_cast<std::size_t>(bytes), kAlignment);
        plan_.places_.push_back(place);
        return static_cast<std::uint32_t>(plan_.places_.size() - 1);
    }

    void make_value_places() {
        value_place_.assign(graph_.value_count(), kNothing);
        for (std::uint32_t i = 0; i < graph_.inputs.size(); ++i) make_value_place(i, true);
        for (const Group& group : groups_) make_value_place(group.value, is_used_[group.value]);
    }

    // What nobody computes with is an output, and stays a real number.
    void make_value_place(std::uint32_t value, bool is_used) {
        const Shape& shape = shapes_[value];
        const bool is_uint8 = options_.int8_activations && is_used;
        Levels levels;
        if (is_uint8) levels = levels_of(graph_.ranges[value]);
        value_place_[value] = add_place(shape.channels, geometry_of(shape.height, shape.width),
                                        is_uint8 ? Element::kUint8 : Element::kFloat32, levels);
    }

    Step& add_step(StepKind kind, std::uint32_t node) {
        plan_.steps_.emplace_back();
        plan_.steps_.back().kind = kind;
        plan_.steps_.back().node = node;
        return plan_.steps_.back();
    }

    void add_load(std::uint32_t input) {
        Step& step = add_step(StepKind::kLoad, kNothing);
        step.external = input;
        step.input = step.output = value_place_[input];
        step.units = plan_.places_[step.output].channels;
    }

    void add_store(std::uint32_t output) {
        Step& step = add_step(StepKind::kStore, kNothing);
        step.external = output;
        step.input = step.output = value_place_[graph_.outputs[output].value];
    }

    void add_group(const Group& group) {
        const GraphNode& node = this->node(group);
        const auto& a = node.attributes;
        if (is_convolution(node.op)) return add_conv(group);
        Step step;
        step.node = group.node;
        step.input = value_place_[node.inputs[0]];
        step.output = value_place_[group.value];
        const Shape& input = shapes_[node.inputs[0]];
        const Shape& output = shapes_[group.value];
        step.units = output.channels;
        step.operations = std::uint64_t{output.channels} * output.height * output.width * plan_.images_;
        switch (node.op) {
            case Operator::kAffine:
                step.kind = StepKind::kMap;
                for (unsigned i = 0; i < 2; ++i) {
                    const Buffer<float>& vector = weights_.get(node.tensors[i], problem_)->real;
                    (i == 0 ? step.conv.scale : step.conv.shift).assign(vector.data(), vector.data() + vector.size());
                }
                break;
            case Operator::kAdd:
            case Operator::kMul: {
                step.kind = StepKind::kCombine;
                step.is_product = node.op == Operator::kMul;
                step.second = value_place_[node.inputs[1]];
                if (input.height * input.width < output.height * output.width) std::swap(step.input, step.second);
                break;
            }
            case Operator::kConcat:
                return add_concat(group);
            case Operator::kMaxPool2d:
            case Operator::kAvgPool2d:
                step.kind = StepKind::kPool;
                step.pool = node.op == Operator::kMaxPool2d ? Pool::kMax : Pool::kAverage;
                step.pool_shape = pool_shape(node);
                step.operations *= std::uint64_t{step.pool_shape.kernel_height} * step.pool_shape.kernel_width;
                need_scratch(pool_scratch(step.pool_shape, input, output));
                break;
            case Operator::kAdaptiveAvgPool2d:
            case Operator::kAdaptiveMaxPool2d:
                step.kind = StepKind::kAdaptivePool;
                step.pool = node.op == Operator::kAdaptiveMaxPool2d ? Pool::kMax : Pool::kAverage;
                step.operations = std::uint64_t{input.channels} * input.height * input.width * plan_.images_;
                need_scratch(2 * std::size_t{input.width} + output.width);
                break;
            case Operator::kFlatten:
                step.kind = StepKind::kFlatten;
                step.units = input.channels;
                need_scratch(input.width);
                break;
            case Operator::kResizeNearest:
            case Operator::kUpsampleNearest:
            case Operator::kResizeBilinear:
            case Operator::kUpsampleBilinear:
                step.kind = StepKind::kResize;
                if (node.op == Operator::kResizeBilinear || node.op == Operator::kUpsampleBilinear) {
                    step.resize =
                        a[ResizeAttribute::kAlignCorners] != 0 ? Resize::kBilinearAlignCorners : Resize::kBilinear;
                }
                need_scratch(2 * std::size_t{input.width} + output.width);
                break;
            case Operator::kPad:
                step.kind = StepKind::kPad;
                step.pad_top = a[PadAttribute::kTop];
                step.pad_left = a[PadAttribute::kLeft];
                step.channels_before = a[PadAttribute::kChannelsBefore];
                need_scratch(input.width);
                break;
            case Operator::kSoftmax:
                step.kind = StepKind::kSoftmax;
                step.units = 1;
                break;
            default:
                step.kind = StepKind::kMap;
                step.activation = activation_of(node.op);
        }
        // The largest of some levels is one of them.
        if (step.pool == Pool::kMax && (step.kind == StepKind::kPool || step.kind == StepKind::kAdaptivePool) &&
            plan_.places_[step.output].element == Element::kUint8) {
            plan_.places_[step.output].levels = plan_.places_[step.input].levels;
        }
        plan_.steps_.push_back(std::move(step));
    }

    void add_concat(const Group& group) {
        std::uint32_t channels = 0;
        for (const std::uint32_t value : node(group).inputs) {
            Step& step = add_step(StepKind::kMap, group.node);
            step.input = value_place_[value];
            step.output = value_place_[group.value];
            step.channel_begin = channels;
            step.units = shapes_[value].channels;
            step.operations = std::uint64_t{step.units} * shapes_[value].height * shapes_[value].width * plan_.images_;
            channels += step.units;
        }
    }

    void add_conv(const Group& group) {
        const GraphNode& node = this->node(group);
        const TransposedConv* const phases = transposed_[group.node].get();
        ConvRequest request = request_of(group);
        const Weights& weights = *request.weights;
        if (node.tensors[1] != kNoTensor) request.bias = weights_.get(node.tensors[1], problem_);
        if (group.affine != kNothing) {
            request.affine_scale = weights_.get(graph_.nodes[group.affine].tensors[0], problem_);
            request.affine_shift = weights_.get(graph_.nodes[group.affine].tensors[1], problem_);
        }
        std::uint32_t input = value_place_[node.inputs[0]];
        if (phases != nullptr && !phases->input_scale.empty()) input = scaled_place(input, phases->input_scale);
        const ConvReach reach = conv_reach(request.shape, request.input, request.output);
        const std::uint32_t output = phases == nullptr ? value_place_[group.value] : phases_place(group, *phases);
        request.geometry = &plan_.geometries_[plan_.places_[output].geometry];
        request.is_few = is_few(*request.geometry, plan_.images_);
        // A depthwise convolution reads each channel once: it splits them by itself.
        const bool is_strided = phases == nullptr && !request.is_few && reads_strides(group, request);
        if (is_strided) request.strided = &plan_.geometries_[plan_.places_[input].geometry];
        const bool splits_input = !reach.is_direct && !is_strided && !request.is_few && request.shape.groups > 1 &&
                                  request.shape.groups == request.input.channels;
        if (!reach.is_direct && !is_strided && !splits_input) input = split_place(input, request, reach);
        if (!problem_.empty()) return;
        const Place& place = plan_.places_[input];
        request.element = place.element;
        request.input_levels = place.levels;
        if (place.element == Element::kUint8 && weights.most() > kMaxInt32Sum / kLargestByte) {
            problem_ = "tensor " + weights_.tensor_name(node.tensors[0]) +
                       " has too many weights a filter for 8-bit activations";
            return;
        }
        request.is_split = !reach.is_direct && !is_strided;
        request.dense_taps = plan_.kernels_->dense_taps;
        request.depthwise_taps = plan_.kernels_->depthwise_taps;
        request.cache_bytes = options_.cache_bytes;
        request.block_bytes = options_.block_bytes;
        request.matrix_bytes = options_.matrix_bytes;
        if (request.shape.groups == 1 && !request.is_few && request.element == Element::kUint8) {
            request.has_matrices = plan_.kernels_->matrix_conv != nullptr;
            request.fast_columns = plan_.kernels_->fast_columns;
        }

        const auto make = [&](ConvMethod method) {
            Step step = make_conv_step(request, method);
            if (step.kind == StepKind::kMatrix) {
                need_scratch(matrix_conv_of(step.conv).scratch_bytes() / sizeof(float));
            } else if (step.kind == StepKind::kFast) {
                need_scratch(fast_conv_of(step.conv).scratch_bytes() / sizeof(float));
            }
            step.node = group.node;
            step.input = input;
            step.output = output;
            if (splits_input) {
                step.splits_input = true;
                step.split_shape = split_shape(request, reach);
            }
            if (phases == nullptr || group.residual == kNothing) finish_group(group, step);
            const Levels* const residual = step.residual == kNothing ? nullptr : &plan_.places_[step.residual].levels;
            step.is_bounded = is_bounded(step.conv, weights.most(), plan_.places_[output].levels, residual);
            return step;
        };
        plan_.steps_.push_back(make(options_.is_tuned ? ConvMethod::kLists : untuned_method(request, options_.method)));
        Step& step = plan_.steps_.back();
        const KernelSet& kernels = *plan_.kernels_;
        const bool is_float = place.element == Element::kFloat32;
        step.form = std::min(
            options_.sparse_form.value_or(is_float ? kernels.untuned_form_float32 : kernels.untuned_form_uint8),
            kernels.sparse_form_count - 1);
        if (splits_input) need_split_scratch(step, place.element, *request.geometry);
        if (request.is_few) need_scratch(weights.width + kPackedGroup);
        if (options_.is_tuned) {
            for (const ConvMethod method : other_methods(request, step.kind)) {
                Step other = make(method);
                if (other.kind != StepKind::kDot) alternatives_.push_back({plan_.steps_.size() - 1, std::move(other)});
            }
        }
        if (phases != nullptr) add_merge(group, *phases, output);
    }

    // What a step that computes a group's value does at its end.
    void finish_group(const Group& group, Step& step) {
        if (group.residual != kNothing) step.residual = value_place_[group.residual];
        step.activation = needed_activation(group.activation, plan_.places_[value_place_[group.value]]);
    }

    // Planes for the phases of a transposed convolution: of what its value is kept in, or, where something is added to
    // it, which comes after they are merged, of real numbers.
    std::uint32_t phases_place(const Group& group, const TransposedConv& phases) {
        const Place& value = plan_.places_[value_place_[group.value]];
        const bool is_real = group.residual != kNothing;
        return add_place(phases.output.channels, geometry_of(phases.output.height, phases.output.width),
                         is_real ? Element::kFloat32 : value.element, is_real ? Levels() : value.levels);
    }

    void add_merge(const Group& group, const TransposedConv& phases, std::uint32_t planes) {
        const std::uint32_t value = value_place_[group.value], channels = plan_.places_[value].channels;
        std::uint32_t merged = value;
        if (group.residual != kNothing) {
            merged = add_place(channels, plan_.places_[value].geometry, Element::kFloat32, Levels());
        }
        Step& merge = add_step(StepKind::kMerge, kNothing);
        merge.input = planes;
        merge.output = merged;
        merge.phase_rows = phases.phase_rows;
        merge.phase_columns = phases.phase_columns;
        merge.units = channels;
        if (group.residual == kNothing) return;
        Step& sum = add_step(StepKind::kMap, group.node);
        sum.input = merged;
        sum.output = value;
        sum.units = channels;
        finish_group(group, sum);
    }

    std::uint32_t scaled_place(std::uint32_t source, const std::vector<float>& scale) {
        const std::uint32_t place = add_place(plan_.places_[source].channels, plan_.places_[source].geometry,
                                              plan_.places_[source].element, plan_.places_[source].levels);
        Step& step = add_step(StepKind::kMap, kNothing);
        step.input = source;
        step.output = place;
        step.units = static_cast<std::uint32_t>(scale.size());
        step.conv.scale = scale;
        return place;
    }

    // The phases of a channel, with their margins.
    void need_split_scratch(const Step& step, Element element, const Geometry& geometry) {
        const std::uint64_t phases = std::uint64_t{step.split_shape.stride_height} * step.split_shape.stride_width;
        if (phases > kMaxPlanesElements / geometry.plane_stride) return refuse_size();
        const std::uint64_t elements = phases * geometry.plane_stride + 2 * geometry.margin;
        need_scratch(static_cast<std::size_t>(elements * size_of(element) / sizeof(float)));
    }

    // A place split into phases, in the geometry of a convolution's output; one for all convolutions that read it so.
    std::uint32_t split_place(std::uint32_t unsplit, const ConvRequest& request, const ConvReach& reach) {
        const SplitShape shape = split_shape(request, reach);
        const std::uint32_t geometry = geometry_of(request.output.height, request.output.width);
        for (Split& split : splits_) {
            Step& step = plan_.steps_[split.step];
            if (split.place != unsplit || step.split_shape.stride_height != shape.stride_height ||
                step.split_shape.stride_width != shape.stride_width ||
                plan_.places_[step.output].geometry != geometry) {
                continue;
            }
            // Zeros before the first pixel are there in any case; what lies behind the last one is filled as far as
            // needed.
            step.split_shape.phases |= shape.phases;
            step.split_shape.reach_bottom = std::max(step.split_shape.reach_bottom, shape.reach_bottom);
            step.split_shape.reach_right = std::max(step.split_shape.reach_right, shape.reach_right);
            return step.output;
        }
        const Place& source = plan_.places_[unsplit];
        const std::uint64_t phases = std::uint64_t{shape.stride_height} * shape.stride_width;
        if (phases > kMaxPlanesElements / source.channels) {
            refuse_size();
            return kNothing;
        }
        const std::uint32_t source_channels = source.channels;
        const std::uint32_t place = add_place(source_channels * phases, geometry, source.element, source.levels);
        Step& step = add_step(StepKind::kSplit, kNothing);
        step.input = unsplit;
        step.output = place;
        step.split_shape = shape;
        step.units = source_channels;
        splits_.push_back({unsplit, plan_.steps_.size() - 1});
        return place;
    }

    void need_scratch(std::size_t floats) {
        plan_.scratch_floats_ = std::max(plan_.scratch_floats_, floats + 64);
        if (plan_.scratch_floats_ * sizeof(float) > options_.max_bytes) refuse_size();
    }

    struct Split {
        std::uint32_t place;
        std::size_t step;
    };

    const Graph& graph_;
    WeightStore& weights_;
    const EngineOptions& options_;
    Plan& plan_;
    std::string& problem_;
    std::vector<Shape> shapes_;
    std::vector<Group> groups_;
    std::vector<std::unique_ptr<TransposedConv>> transposed_;  // by node, of those that are such
    std::vector<bool> is_used_;                                // by value: by a node
    std::vector<std::uint32_t> value_place_;
    std::vector<Split> splits_;
    std::vector<Alternative> alternatives_;
};

std::unique_ptr<Plan> Plan::make(const Graph& graph, const std::vector<Shape>& inputs, std::uint32_t images,
                                 WeightStore& weights, const EngineOptions& options, std::string& problem) {
    auto plan = std::make_unique<Plan>();
    plan->kernels_ = options.kernels != nullptr ? options.kernels : &kernels(options.isa);
    plan->images_ = images;
    plan->inputs_ = inputs;
    Planner planner(graph, weights, options, *plan, problem);
    planner.run();
    if (!problem.empty()) return nullptr;
    if (options.is_tuned && !plan->tune(planner.take_alternatives())) {
        problem = "not enough memory to run the network";
        return nullptr;
    }
    return plan;
}

}  // namespace sterna
