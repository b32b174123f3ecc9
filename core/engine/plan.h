// How a graph is computed for inputs of given sizes: where values lie, which kernels run, in which order. A plan does
// not change after it is made, so that any number of threads can run it, each with an arena of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/base/buffer.h"
#include "core/base/mutex.h"
#include "core/engine/graph.h"
#include "core/engine/shapes.h"
#include "core/engine/thread_pool.h"
#include "core/engine/weights.h"
#include "core/kernels/kernel_set.h"

namespace sterna {

// Memory for the values of one run: far beyond any image, and a bound for what a graph may ask for.
inline constexpr std::uint64_t kMaxPlanBytes = std::uint64_t{1} << 36;

// How a convolution is computed: signs by lists of what is added and subtracted, or, like other weights, by products:
// of vectors (of a few images, of packed signs) or, where there are registers for them, of matrices; or by fewer
// products of inputs and weights that are transformed.
enum class ConvMethod : std::uint8_t { kLists, kDense, kMatrix, kFast };

struct EngineOptions {
    Isa isa = Isa::kScalar;
    const KernelSet* kernels = nullptr;  // in the place of those of the instruction set, in tests
    bool int8_activations = false;
    bool is_tuned = true;  // measure methods and forms of kernels; otherwise take these, where they are possible
    std::optional<std::uint32_t> sparse_form;  // by default that of the instruction set
    ConvMethod method = ConvMethod::kLists;
    std::uint64_t max_bytes = kMaxPlanBytes;
    // Of a first cache of 32 KiB, what the inputs of a block of channels may take.
    std::size_t cache_bytes = 24576;
    // Fewest inputs that a block brings a tile of a filter, of floats: ten for the largest tile.
    std::size_t block_bytes = 5120;
    // Of a second cache, what the inputs that matrices are made of may take.
    std::size_t matrix_bytes = 262144;
};

// The planes of one image size.
struct Geometry {
    std::uint32_t height = 1, width = 1;
    // Zeros that are needed after each row, and rows of zeros after each image.
    std::uint32_t pad_height = 0, pad_width = 0;
    std::size_t pitch = 1, image_stride = 1, plane_stride = 1;
    std::size_t margin = 0;  // elements before the first plane and after the last one
};

// Memory for the planes of a value, or of a value split into phases for strided convolutions.
struct Place {
    std::uint32_t channels = 0;
    std::uint32_t geometry = 0;
    Element element = Element::kFloat32;
    Levels levels;
    std::size_t bytes = 0;
    std::size_t offset = 0;  // in the arena
    std::uint32_t first_step = kNothing, last_step = 0;
};

enum class StepKind : std::uint8_t {
    kLoad,
    kStore,
    kSplit,
    kMerge,
    kSparse,
    kGather,
    kDense,
    kDot,
    kPackedDot,
    kMatrix,
    kFast,
    kDepthwise,
    kMap,
    kCombine,
    kPool,
    kAdaptivePool,
    kFlatten,
    kResize,
    kPad,
    kSoftmax,
};

// What a convolution's kernels read; shared by the forms among which one is chosen.
struct ConvData {
    std::vector<std::int32_t> offsets;
    std::vector<std::uint32_t> offset_begin, chunk_begin;
    std::vector<Chunk> chunks;
    std::uint32_t blocks = 1;  // of channels
    std::size_t run_bytes = 0;
    std::vector<std::uint8_t> packed;
    std::vector<MatrixStep> matrix_steps;  // what they are of is in `offsets`, `packed` and `bytes`
    std::uint32_t matrix_rows = 0;         // of a step
    std::int32_t lowest_shift = 0, highest_shift = 0;
    std::size_t matrix_run = 0;
    std::vector<FastPlane> fast_planes;
    std::vector<std::uint32_t> fast_slots, fast_pairs;
    std::uint32_t fast_factor = 4;  // of sums
    std::size_t fast_run = 0;
    std::vector<std::int32_t> taps;
    std::vector<float> floats;
    std::vector<std::int16_t> shorts;
    std::vector<std::int8_t> bytes;
    std::vector<std::int32_t> excess;  // by filter: zero of the input's levels times the sum of the weights
    std::vector<float> scale, shift;
    std::size_t group_stride = 0;
    std::size_t tap_stride = 0;
    std::size_t row_stride = 0, image_stride = 0;  // as in DepthwiseConv
    std::uint32_t filters_per_group = 0, blocks_per_group = 0, filters_per_channel = 1;

    const void* weights() const {
        if (!floats.empty()) return floats.data();
        return shorts.empty() ? static_cast<const void*>(bytes.data()) : shorts.data();
    }
};

struct Step {
    StepKind kind = StepKind::kMap;
    std::uint32_t node = kNothing;  // of the graph, nothing for loads and stores
    std::uint32_t input = kNothing, second = kNothing, residual = kNothing, output = kNothing;  // places
    std::uint32_t external = 0;       // number of the graph's input or output
    std::uint32_t channel_begin = 0;  // of the output: for pieces of a concatenation
    std::uint32_t units = 0;          // pieces of work: channels, or blocks of filters
    Activation activation = Activation::kNone;
    bool is_bounded = false;  // as in Epilogue
    std::uint32_t form = 0;   // of the sparse convolution
    Pool pool = Pool::kMax;
    PoolShape pool_shape;
    SplitShape split_shape;
    std::uint32_t phase_rows = 1, phase_columns = 1;  // that are merged
    bool splits_input = false;                        // channel by channel, in scratch memory
    Resize resize = Resize::kNearest;
    std::uint32_t pad_top = 0, pad_left = 0, channels_before = 0;
    bool is_product = false;
    ConvData conv;
    std::uint64_t operations = 0;  // additions, or multiplications with their additions, that are useful
};

// Another way to compute a step. Those of one step follow each other.
struct Alternative {
    std::size_t step = 0;
    Step other;
};

struct StepTime {
    std::uint32_t step = 0;
    double seconds = 0.0;
};

class Plan {
  public:
    // `images` in a batch; `inputs` without the batch. Nothing, and a problem, if the graph cannot be computed for
    // them.
    static std::unique_ptr<Plan> make(const Graph& graph, const std::vector<Shape>& inputs, std::uint32_t images,
                                      WeightStore& weights, const EngineOptions& options, std::string& problem);

    std::uint32_t images() const { return images_; }
    const std::vector<Shape>& outputs() const { return outputs_; }
    const std::vector<Step>& steps() const { return steps_; }
    std::size_t arena_bytes() const { return arena_bytes_; }
    // The kernel of a step, for people.
    std::string kernel_name(const Step& step) const;

    // Inputs and outputs are in row-major order. `times` gets the time of each step if it is there.
    std::string run(const float* const* inputs, float* const* outputs, ThreadPool& pool,
                    std::vector<StepTime>* times) const;

  private:
    friend class Planner;
    // Memory for one run at a time.
    struct Arena {
        Buffer<unsigned char> bytes;
        unsigned char* base = nullptr;  // aligned
        Buffer<float> scratch;
    };
    class Lease;

    Planes planes(std::uint32_t place, unsigned char* arena) const;
    void run_step(const Step& step, unsigned char* arena, float* scratch, std::uint32_t first,
                  std::uint32_t last) const;
    void run_split_depthwise(const Step& step, DepthwiseConv conv, const Planes& input, float* scratch,
                             std::uint32_t first, std::uint32_t last) const;
    void clear_margins(const Step& step, unsigned char* arena) const;
    std::unique_ptr<Arena> take_arena(unsigned threads) const;
    // Measures forms and alternatives of convolutions; false if there is no memory for it.
    bool tune(std::vector<Alternative> alternatives);
    double measure(const Step& step, Arena& arena) const;

    const KernelSet* kernels_ = nullptr;
    std::uint32_t images_ = 1;
    std::vector<Shape> inputs_, outputs_;
    std::vector<Geometry> geometries_;
    std::vector<Place> places_;
    std::vector<Step> steps_;
    std::size_t arena_bytes_ = 0;
    std::size_t scratch_floats_ = 0;
    mutable Mutex mutex_;
    mutable std::vector<std::unique_ptr<Arena>> arenas_;  // not in use
};

}  // namespace sterna
