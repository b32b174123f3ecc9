// The tensors that a graph uses, in the form from which plans make their own: signs as lists of places.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/base/buffer.h"
#include "core/container/reader.h"

namespace sterna {

// A tensor. Its filters are the indices of its first axis; a filter has `width` places.
struct Weights {
    enum class Kind : std::uint8_t { kSigns, kInt8, kFloat };
    Kind kind = Kind::kFloat;
    std::vector<std::uint32_t> shape;
    std::uint32_t filters = 0;
    std::size_t width = 0;
    std::vector<float> scale;  // by filter; of signs and int8
    // Signs: places of positive weights of a filter, then those of its negative ones, each in order.
    Buffer<std::uint32_t> places;
    std::vector<std::uint32_t> begin;     // by filter, and one more: into `places`
    std::vector<std::uint32_t> positive;  // by filter
    Buffer<std::int8_t> int8;
    Buffer<float> real;

    std::size_t nonzeros() const { return places.size(); }
    // Of a filter's weights in integer inference, the most that their magnitudes are together.
    std::uint64_t most() const { return std::uint64_t{width} * (kind == Kind::kSigns ? 1 : 128); }
    // Weight `place` of a filter without the scale; all of the filter are written to `to`.
    void read_filter(std::uint32_t filter, float* to) const;
};

// Decodes tensors of a file when they are asked for, each once.
class WeightStore {
  public:
    explicit WeightStore(const Reader& reader) : reader_(reader) {}

    // Nothing if it cannot be decoded or used; `problem` says why.
    const Weights* get(std::uint32_t tensor, std::string& problem);
    // Decodes the next chunk of a ternary tensor before the tensor is asked for, while the file is on its way; chunks
    // in the order of the file.
    bool decode_early(const TritChunk& chunk, std::string& problem);
    std::string tensor_name(std::uint32_t tensor) const;
    // After it no further tensor can be decoded; the file's bytes are not used any more.
    void forget_file() { arrays_.clear(); }

  private:
    bool load_arrays(std::string& problem);
    static std::unique_ptr<Weights> make_weights(const TensorInfo& info);
    std::unique_ptr<Weights> decode_signs(std::uint32_t tensor, std::string& problem);
    bool decode_chunk(const TritChunk& chunk, Weights& weights, std::string& problem) const;
    bool to_floats(std::size_t array, Buffer<float>& to, std::string& problem) const;

    const Reader& reader_;
    std::vector<std::unique_ptr<Weights>> weights_;
    // Signs of some first chunks, by tensor.
    struct Early {
        std::unique_ptr<Weights> weights;
        std::uint32_t chunks = 0;
    };
    std::vector<Early> early_;
    bool has_arrays_ = false;
    std::vector<std::unique_ptr<Buffer<std::uint8_t>>> arrays_;  // as the file holds them
};

}  // namespace sterna
