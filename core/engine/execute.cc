// Runs a plan.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "core/engine/fast_plan.h"
#include "core/engine/matrix_plan.h"
#include "core/engine/plan.h"

namespace sterna {

std::unique_ptr<Plan::Arena> Plan::take_arena(unsigned threads) const {
    {
        const MutexLock lock(mutex_);
        if (!arenas_.empty()) {
            std::unique_ptr<Arena> arena = std::move(arenas_.back());
            arenas_.pop_back();
            return arena;
        }
    }
    auto arena = std::make_unique<Arena>();
    if (arena->bytes.assign(arena_bytes_ + kAlignment, 0) != Status::kOk) return nullptr;
    if (arena->scratch.assign(scratch_floats_ * threads, 0.0f) != Status::kOk) return nullptr;
    const auto address = reinterpret_cast<std::uintptr_t>(arena->bytes.data());
    arena->base = arena->bytes.data() + (kAlignment - address % kAlignment) % kAlignment;
    return arena;
}

Planes Plan::planes(std::uint32_t place_number, unsigned char* arena) const {
    const Place& place = places_[place_number];
    const Geometry& geometry = geometries_[place.geometry];
    const std::size_t element = size_of(place.element);
    Planes planes;
    planes.origin = arena + place.offset + geometry.margin * element;
    planes.element = place.element;
    planes.levels = place.levels;
    planes.channels = place.channels;
    planes.images = images_;
    planes.height = geometry.height;
    planes.width = geometry.width;
    planes.pitch = geometry.pitch;
    planes.image_stride = geometry.image_stride;
    planes.plane_stride = geometry.plane_stride;
    return planes;
}

// Before the first plane and after the last one convolutions read zeros, where other values have been before.
void Plan::clear_margins(const Step& step, unsigned char* arena) const {
    const Place& place = places_[step.output];
    const std::size_t element = size_of(place.element);
    const std::size_t margin = geometries_[place.geometry].margin * element;
    std::memset(arena + place.offset, place.levels.zero, margin);
    std::memset(arena + place.offset + place.bytes - margin, place.levels.zero, margin);
}

// Phases of one channel at a time, which stay in the first cache.
void Plan::run_split_depthwise(const Step& step, DepthwiseConv conv, const Planes& input, float* scratch,
                               std::uint32_t first, std::uint32_t last) const {
    const std::size_t element = size_of(input.element);
    const std::size_t margin = geometries_[places_[step.output].geometry].margin * element;
    const std::size_t phases = std::size_t{step.split_shape.stride_height} * step.split_shape.stride_width;
    unsigned char* const room = reinterpret_cast<unsigned char*>(scratch);
    Planes split = conv.output;
    split.origin = room + margin;
    split.element = input.element;
    split.levels = input.levels;
    std::memset(room, input.levels.zero, margin);
    std::memset(room + margin + phases * split.plane_stride * element, input.levels.zero, margin);
    conv.input = split.origin;
    conv.channel_stride = 0;
    while (first < last) {
        const std::uint32_t channel = first / conv.filters_per_channel;
        const std::uint32_t end = std::min(last, (channel + 1) * conv.filters_per_channel);
        Planes one = input;
        one.origin = static_cast<unsigned char*>(input.origin) + channel * input.plane_stride * element;
        kernels_->split(one, step.split_shape, split, 0, 1);
        kernels_->depthwise_conv(conv, first, end);
        first = end;
    }
}

void Plan::run_step(const Step& step, unsigned char* arena, float* scratch, std::uint32_t first,
                    std::uint32_t last) const {
    const Planes input = planes(step.input, arena);
    Planes output = planes(step.output, arena);
    Planes residual;
    Epilogue epilogue;
    epilogue.activation = step.activation;
    epilogue.is_bounded = step.is_bounded;
    if (!step.conv.scale.empty()) epilogue.scale = step.conv.scale.data();
    if (!step.conv.shift.empty()) epilogue.shift = step.conv.shift.data();
    if (step.residual != kNothing) {
        residual = planes(step.residual, arena);
        epilogue.residual = &residual;
    }
    const ConvData& data = step.conv;
    switch (step.kind) {
        case StepKind::kSplit:
            kernels_->split(input, step.split_shape, output, first, last);
            return;
        case StepKind::kMerge:
            kernels_->merge(input, step.phase_rows, step.phase_columns, output, first, last);
            return;
        case StepKind::kSparse:
        case StepKind::kGather: {
            SparseConv conv;
            conv.input = input.origin;
            conv.element = input.element;
            conv.offsets = data.offsets.data();
            conv.offset_begin = data.offset_begin.data();
            conv.chunks = data.chunks.data();
            conv.chunk_begin = data.chunk_begin.data();
            conv.filters = step.units;
            conv.blocks = data.blocks;
            conv.run_bytes = data.run_bytes;
            conv.excess = data.excess.data();
            conv.output = output;
            conv.epilogue = epilogue;
            if (step.kind == StepKind::kGather) {
                kernels_->sparse_gather(conv, first, last);
            } else {
                const SparseForm& form = kernels_->sparse_forms[step.form];
                (input.element == Element::kFloat32 ? form.run_float32 : form.run_uint8)(conv, first, last);
            }
            return;
        }
        case StepKind::kDense: {
            DenseConv conv;
            conv.input = input.origin;
            conv.element = input.element;
            conv.taps = static_cast<std::uint32_t>(data.taps.size());
            conv.offsets = data.taps.data();
            conv.group_stride = data.group_stride;
            conv.filters_per_group = data.filters_per_group;
            conv.blocks_per_group = data.blocks_per_group;
            conv.weights = data.weights();
            conv.excess = data.excess.data();
            conv.output = output;
            conv.epilogue = epilogue;
            kernels_->dense_conv(conv, first, last);
            return;
        }
        case StepKind::kDot: {
            DenseDot product;
            product.input = input.origin;
            product.element = input.element;
            product.taps = static_cast<std::uint32_t>(data.taps.size());
            product.offsets = data.tap_stride == 0 ? data.taps.data() : nullptr;
            product.tap_stride = data.tap_stride;
            product.group_stride = data.group_stride;
            product.filters_per_group = data.filters_per_group;
            product.weights = data.weights();
            product.excess = data.excess.data();
            product.output = output;
            product.epilogue = epilogue;
            kernels_->dense_dot(product, first, last);
            return;
        }
        case StepKind::kPackedDot: {
            PackedDot dot;
            dot.input = input.origin;
            dot.element = input.element;
            dot.width = data.taps.size();
            dot.tap_stride = data.tap_stride;
            dot.weights = data.packed.data();
            dot.excess = data.excess.data();
            dot.output = output;
            dot.epilogue = epilogue;
            kernels_->packed_dot(dot, scratch, first, last);
            return;
        }
        case StepKind::kMatrix: {
            MatrixConv conv = matrix_conv_of(data);
            conv.input = static_cast<const std::uint8_t*>(input.origin);
            conv.output = output;
            conv.epilogue = epilogue;
            kernels_->matrix_conv(conv, scratch, first, last);
            return;
        }
        case StepKind::kFast: {
            FastConv conv = fast_conv_of(data);
            conv.input = static_cast<const std::uint8_t*>(input.origin);
            conv.output = output;
            conv.epilogue = epilogue;
            kernels_->fast_conv(conv, scratch, first, last);
            return;
        }
        case StepKind::kDepthwise: {
            DepthwiseConv conv;
            conv.input = input.origin;
            conv.element = input.element;
            conv.taps = static_cast<std::uint32_t>(data.taps.size());
            conv.offsets = data.taps.data();
            conv.channel_stride = data.group_stride;
            conv.row_stride = data.row_stride;
            conv.image_stride = data.image_stride;
            conv.filters_per_channel = data.filters_per_channel;
            conv.weights = data.weights();
            conv.excess = data.excess.data();
            conv.output = output;
            conv.epilogue = epilogue;
            if (step.splits_input) {
                run_split_depthwise(step, conv, input, scratch, first, last);
            } else {
                kernels_->depthwise_conv(conv, first, last);
            }
            return;
        }
        case StepKind::kMap: {
            const std::size_t element = size_of(output.element);
            output.origin =
                static_cast<unsigned char*>(output.origin) + step.channel_begin * output.plane_stride * element;
            kernels_->map(input, epilogue, output, first, last);
            return;
        }
        case StepKind::kCombine:
            kernels_->combine(step.is_product, input, planes(step.second, arena), epilogue, output, first, last);
            return;
        case StepKind::kPool:
            kernels_->pool(step.pool, input, step.pool_shape, output, scratch, first, last);
            return;
        case StepKind::kAdaptivePool:
            kernels_->adaptive_pool(step.pool, input, output, scratch, first, last);
            return;
        case StepKind::kFlatten:
            kernels_->flatten(input, output, scratch, first, last);
            return;
        case StepKind::kResize:
            kernels_->resize(step.resize, input, output, scratch, first, last);
            return;
        case StepKind::kPad:
            kernels_->pad(input, step.pad_top, step.pad_left, step.channels_before, output, scratch, first, last);
            return;
        case StepKind::kSoftmax:
            kernels_->softmax(input, output);
            return;
        case StepKind::kLoad:
        case StepKind::kStore:
            return;  // by Plan::run, which knows the arrays
    }
}

// Gives an arena back.
class Plan::Lease {
  public:
    Lease(const Plan& plan, unsigned threads) : plan_(plan), arena_(plan.take_arena(threads)) {}
    ~Lease() {
        if (arena_ == nullptr) return;
        const MutexLock lock(plan_.mutex_);
        plan_.arenas_.push_back(std::move(arena_));
    }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    Arena* get() { return arena_.get(); }

  private:
    const Plan& plan_;
    std::unique_ptr<Arena> arena_;
};

std::string Plan::run(const float* const* inputs, float* const* outputs, ThreadPool& pool,
                      std::vector<StepTime>* times) const {
    Lease lease(*this, pool.threads());
    Arena* const arena = lease.get();
    if (arena == nullptr) return "not enough memory to run the network";
    const bool has_pool = pool.threads() > 1 && pool.try_acquire();

    struct Job {
        const Plan* plan;
        const Step* step;
        Arena* arena;
        const float* loaded;
        std::atomic<bool> is_finite{true};
    };
    const auto work = [](void* context, unsigned thread, std::uint32_t first, std::uint32_t last) {
        Job& job = *static_cast<Job*>(context);
        if (job.step->kind == StepKind::kLoad) {
            const Planes planes = job.plan->planes(job.step->output, job.arena->base);
            if (!job.plan->kernels_->load_images(job.loaded, planes.channels, planes, first, last)) {
                job.is_finite.store(false, std::memory_order_relaxed);
            }
            return;
        }
        job.plan->run_step(*job.step, job.arena->base, job.arena->scratch.data() + thread * job.plan->scratch_floats_,
                           first, last);
    };

    std::string problem;
    for (std::uint32_t i = 0; i < steps_.size() && problem.empty(); ++i) {
        const Step& step = steps_[i];
        const auto start = std::chrono::steady_clock::now();
        if (step.kind == StepKind::kStore) {
            const Planes planes = this->planes(step.input, arena->base);
            kernels_->store_images(planes, outputs[step.external], planes.channels, 0, planes.channels);
        } else {
            if (step.channel_begin == 0) clear_margins(step, arena->base);
            Job job = {this, &step, arena, step.kind == StepKind::kLoad ? inputs[step.external] : nullptr};
            if (has_pool) {
                const std::uint32_t pieces = 4 * pool.threads();
                pool.run(step.units, (step.units + pieces - 1) / pieces, work, &job);
            } else {
                work(&job, 0, 0, step.units);
            }
            if (!job.is_finite.load()) {
                problem = "input " + std::to_string(step.external) + " holds numbers that are not finite";
            }
        }
        if (times != nullptr) {
            times->push_back({i, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count()});
        }
    }
    if (has_pool) pool.release();
    return problem;
}

std::string Plan::kernel_name(const Step& step) const {
    switch (step.kind) {
        case StepKind::kSparse:
            return std::string("sparse ") + kernels_->sparse_forms[step.form].name;
        case StepKind::kGather:
            return "sparse gather";
        case StepKind::kDense:
            return "dense";
        case StepKind::kDot:
            return "dense dot";
        case StepKind::kPackedDot:
            return "packed dot";
        case StepKind::kMatrix:
            return "matrix";
        case StepKind::kFast:
            return "dense winograd";
        case StepKind::kDepthwise:
            return "depthwise";
        case StepKind::kSplit:
            return "split phases";
        case StepKind::kMerge:
            return "merge phases";
        case StepKind::kLoad:
            return "load";
        case StepKind::kStore:
            return "store";
        case StepKind::kMap:
            return "map";
        case StepKind::kCombine:
            return "combine";
        case StepKind::kPool:
            return "pool";
        case StepKind::kAdaptivePool:
            return "adaptive pool";
        case StepKind::kFlatten:
            return "flatten";
        case StepKind::kResize:
            return "resize";
        case StepKind::kPad:
            return "pad";
        case StepKind::kSoftmax:
            return "softmax";
    }
    return "unknown";
}

}  // namespace sterna
