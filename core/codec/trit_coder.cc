#include "core/codec/trit_coder.h"

#include <algorithm>

#include "core/codec/range_coder.h"
#include "core/codec/trit_models.h"

namespace sterna {
namespace {

enum class Model : std::uint8_t { kCounts = 0, kContexts = 1 };

// Codes a whole tensor with one model. With an encoder `trits` is only read, with a decoder only written.
template <class TritModel, class RangeCoder, class Trit>
Status code_tensor(Trit* trits, const TritShape& shape, RangeCoder& coder) {
    TritModel model;
    if (const Status status = model.start(shape); status != Status::kOk) return status;
    // Where a kernel is a single weight, the filters x channels matrix takes its place as the plane of neighbours.
    const bool is_matrix = shape.height * shape.width == 1;
    const std::uint64_t num_planes = is_matrix ? 1 : shape.filters * shape.channels;
    const std::uint64_t num_rows = is_matrix ? shape.filters : shape.height;
    const std::uint64_t num_columns = is_matrix ? shape.channels : shape.width;
    for (std::uint64_t plane = 0; plane < num_planes; ++plane) {
        if (!is_matrix && plane % shape.channels == 0) model.start_filter();
        model.start_plane();
        for (std::uint64_t row = 0; row < num_rows; ++row) {
            if (is_matrix) model.start_filter();
            model.start_row();
            for (std::uint64_t column = 0; column < num_columns; ++column) {
                const std::uint64_t channel = is_matrix ? column : plane % shape.channels;
                const std::uint64_t tap = is_matrix ? 0 : row * num_columns + column;
                model.code_trit(coder, *trits++, channel, tap, column);
            }
        }
    }
    return Status::kOk;
}

template <class TritModel>
Status encode_with(Model id, const std::int8_t* trits, const TritShape& shape, Buffer<std::uint8_t>* bytes) {
    if (const Status status = bytes->push_back(static_cast<std::uint8_t>(id)); status != Status::kOk) return status;
    RangeEncoder encoder(*bytes);
    if (const Status status = code_tensor<TritModel>(trits, shape, encoder); status != Status::kOk) return status;
    return encoder.finish();
}

template <class TritModel>
Status decode_with(const std::uint8_t* bytes, std::size_t size, const TritShape& shape, std::int8_t* trits) {
    RangeDecoder decoder(bytes, size);
    if (const Status status = code_tensor<TritModel>(trits, shape, decoder); status != Status::kOk) return status;
    return decoder.finish();
}

}  // namespace

TritShape TritShape::of(const std::uint64_t* dimensions, std::size_t num_dimensions) {
    TritShape shape;
    if (num_dimensions > 0) shape.filters = dimensions[0];
    if (num_dimensions > 1) shape.channels = dimensions[1];
    if (num_dimensions > 2) shape.width = dimensions[num_dimensions - 1];
    for (std::size_t axis = 2; axis + 1 < num_dimensions; ++axis) {
        // A product beyond the limit stays beyond it, so that count() refuses it instead of a wrapped one.
        const std::uint64_t size = std::min(dimensions[axis], kMaxWeights + 1);
        shape.height = size == 0 || shape.height == 0 ? 0 : std::min(shape.height * size, kMaxWeights + 1);
    }
    return shape;
}

Status TritShape::count(std::uint64_t* weights) const {
    *weights = 0;
    const std::uint64_t sizes[] = {filters, channels, height, width};
    if (std::find(std::begin(sizes), std::end(sizes), std::uint64_t{0}) != std::end(sizes)) return Status::kOk;
    std::uint64_t product = 1;
    for (const std::uint64_t size : sizes) {
        if (size > kMaxWeights / product) return Status::kTooManyWeights;
        product *= size;
    }
    *weights = product;
    return Status::kOk;
}

Status encode_trits(const std::int8_t* trits, const TritShape& shape, Buffer<std::uint8_t>* bytes) {
    std::uint64_t weights = 0;
    if (const Status status = shape.count(&weights); status != Status::kOk) return status;
    bytes->shrink(0);
    if (weights == 0) return Status::kOk;
    if (std::any_of(trits, trits + weights, [](std::int8_t t) { return t < -1 || t > 1; })) return Status::kNotATrit;

    Buffer<std::uint8_t> by_counts;
    if (const Status status = encode_with<CountsModel>(Model::kCounts, trits, shape, &by_counts);
        status != Status::kOk) {
        return status;
    }
    if (const Status status = encode_with<ContextsModel>(Model::kContexts, trits, shape, bytes);
        status != Status::kOk) {
        return status;
    }
    if (by_counts.size() <= bytes->size()) bytes->swap(by_counts);
    return Status::kOk;
}

Status decode_trits(const std::uint8_t* bytes, std::size_t size, const TritShape& shape, std::int8_t* trits) {
    std::uint64_t weights = 0;
    if (const Status status = shape.count(&weights); status != Status::kOk) return status;
    if (weights == 0) return size == 0 ? Status::kOk : Status::kTrailingBytes;
    if (size == 0 || weights / kMaxWeightsPerByte > size) return Status::kTruncated;
    switch (static_cast<Model>(bytes[0])) {
        case Model::kCounts:
            return decode_with<CountsModel>(bytes + 1, size - 1, shape, trits);
        case Model::kContexts:
            return decode_with<ContextsModel>(bytes + 1, size - 1, shape, trits);
    }
    return Status::kUnknownModel;
}

}  // namespace sterna
