// The table of tensors, their trits and their arrays.
#include <cstring>

#include "core/base/varint.h"
#include "core/codec/byte_model.h"
#include "core/codec/number_coder.h"
#include "core/container/reader.h"
#include "core/container/reading.h"

namespace sterna {

Fault Reader::read_table() {
    if (const Fault fault = check_section(0)) return fault;
    if (const Fault fault = read_text(sections_[0], kMaxTextBytes, table_text_)) return fault;
    const std::uint64_t offset = sections_[0].offset;
    std::size_t position = 0;
    std::uint64_t count = 0;
    const Status status = get_varint(table_text_.data(), table_text_.size(), position, count);
    if (status != Status::kOk) return from_status(status, Cause::kTable, offset);
    if (count > kMaxTensors) return refuse(Cause::kLimit, "too many tensors", offset, count, kMaxTensors);
    std::uint64_t total = 0;
    for (std::uint64_t i = 0; i < count; ++i) {
        TensorInfo tensor;
        if (const Fault fault = read_tensor(position, tensor)) return fault;
        total += tensor.elements;
        if (total > kMaxTotalElements) {
            return refuse(Cause::kLimit, "too many elements of all tensors", offset, total, kMaxTotalElements);
        }
        if (const Status added = tensors_.push_back(tensor); added != Status::kOk) {
            return from_status(added, Cause::kMemory, offset);
        }
    }
    if (position != table_text_.size()) return refuse(Cause::kTable, "bytes follow the last tensor", offset);
    return {};
}

Fault Reader::read_tensor(std::size_t& position, TensorInfo& tensor) const {
    const std::uint64_t offset = sections_[0].offset;
    const std::uint8_t* const text = table_text_.data();
    const std::size_t size = table_text_.size();
    std::uint64_t name_size = 0;
    const Status status = get_varint(text, size, position, name_size);
    if (status != Status::kOk) return from_status(status, Cause::kTable, offset);
    if (name_size > kMaxNameBytes) {
        return refuse(Cause::kLimit, "the name of a tensor is too long", offset, name_size, kMaxNameBytes);
    }
    if (size - position < name_size + 3) return refuse(Cause::kTable, "the table of tensors ends within one", offset);
    tensor.name_begin = static_cast<std::uint32_t>(position);
    tensor.name_size = static_cast<std::uint32_t>(name_size);
    position += to_size(name_size);
    const std::uint8_t kind = text[position++];
    const std::uint8_t scale = text[position++];
    tensor.rank = text[position++];
    if (kind >= kNumTensorKinds)
        return refuse(Cause::kTable, "unknown kind of tensor", offset, kind, kNumTensorKinds - 1);
    if (scale >= kNumScaleKinds)
        return refuse(Cause::kTable, "unknown kind of scale", offset, scale, kNumScaleKinds - 1);
    if (tensor.rank > kMaxAxes)
        return refuse(Cause::kLimit, "too many axes of a tensor", offset, tensor.rank, kMaxAxes);
    tensor.kind = static_cast<TensorKind>(kind);
    tensor.scale = static_cast<ScaleKind>(scale);
    const bool scale_per_filter =
        tensor.scale == ScaleKind::kFloat16OfFilter || tensor.scale == ScaleKind::kFloat32OfFilter;
    const bool may_have_scale = tensor.kind == TensorKind::kTrits || tensor.kind == TensorKind::kScaledInt8;
    if ((tensor.scale != ScaleKind::kNone && !may_have_scale) || (scale_per_filter && tensor.rank == 0) ||
        (tensor.scale == ScaleKind::kNone && tensor.kind == TensorKind::kScaledInt8)) {
        return refuse(Cause::kTable, "a tensor of this kind and rank has another scale", offset, scale, 0);
    }
    tensor.elements = 1;
    for (std::size_t axis = 0; axis < tensor.rank; ++axis) {
        std::uint64_t length = 0;
        const Status read = get_varint(text, size, position, length);
        if (read != Status::kOk) return from_status(read, Cause::kTable, offset);
        if (length > kMaxElements || (length != 0 && tensor.elements > kMaxElements / length)) {
            return refuse(Cause::kLimit, "too many elements of a tensor", offset, length, kMaxElements);
        }
        tensor.shape[axis] = length;
        tensor.elements *= length;
    }
    return {};
}

Fault Reader::list_arrays() {
    for (std::uint32_t i = 0; i < tensors_.size(); ++i) {
        const TensorInfo& tensor = tensors_[i];
        KeptArray array;
        array.tensor = i;
        if (tensor.kind != TensorKind::kTrits) {
            array.width = width_of(tensor.kind);
            array.elements = tensor.elements;
            const Status status = arrays_.push_back(array);
            if (status != Status::kOk) return from_status(status, Cause::kMemory, 0);
        }
        if (tensor.scale == ScaleKind::kNone) continue;
        const bool is_half = tensor.scale == ScaleKind::kFloat16OfAll || tensor.scale == ScaleKind::kFloat16OfFilter;
        const bool is_one = tensor.scale == ScaleKind::kFloat16OfAll || tensor.scale == ScaleKind::kFloat32OfAll;
        array.is_scale = true;
        array.width = is_half ? 2 : 4;
        array.elements = is_one ? 1 : tensor.shape[0];
        const Status status = arrays_.push_back(array);
        if (status != Status::kOk) return from_status(status, Cause::kMemory, 0);
    }
    return {};
}

// Bytes of the payload that are there: all of them, except while a file is on its way.
std::size_t Reader::bytes_there(const SectionInfo& section) const {
    const std::uint64_t there = size_ - section.offset;
    return to_size(section.size < there ? section.size : there);
}

// Takes no byte beyond the list of the chunks.
Fault Reader::list_trits(std::uint32_t index) {
    SectionInfo& section = sections_[index];
    std::size_t position = 0;
    std::uint64_t count = 0;
    const Status status = get_varint(bytes_ + section.offset, bytes_there(section), position, count);
    if (status != Status::kOk) return from_status(status, Cause::kTrits, section.offset);
    section.first = static_cast<std::uint32_t>(chunks_.size());
    for (std::uint64_t i = 0; i < count; ++i, ++next_tensor_) {
        while (next_tensor_ < tensors_.size() && tensors_[next_tensor_].kind != TensorKind::kTrits) ++next_tensor_;
        if (next_tensor_ >= tensors_.size()) {
            return refuse(Cause::kCoverage, "a section holds more ternary tensors than there are", section.offset);
        }
        if (const Fault fault = list_trit_tensor(index, next_tensor_, position)) return fault;
    }
    section.count = static_cast<std::uint32_t>(chunks_.size()) - section.first;
    for (std::size_t i = 0; i < section.count; ++i) {
        TritChunk& chunk = chunks_[section.first + i];
        chunk.offset = section.offset + position;
        if (chunk.size > section.size - position) {
            return refuse(Cause::kCoverage, "coded trits reach beyond their section", chunk.offset, chunk.size,
                          section.size - position);
        }
        position += to_size(chunk.size);
    }
    if (position != section.size) {
        return refuse(Cause::kCoverage, "bytes follow the last trits of a section", section.offset + position);
    }
    return {};
}

// The description of one tensor: its coder, its filters a chunk, and the sizes of its chunks.
Fault Reader::list_trit_tensor(std::uint32_t section_index, std::uint32_t tensor_index, std::size_t& position) {
    const SectionInfo& section = sections_[section_index];
    const TensorInfo& tensor = tensors_[tensor_index];
    const std::uint8_t* const payload = bytes_ + section.offset;
    const std::size_t there = bytes_there(section);
    KernelShape whole;
    Status status = kernel_shape(tensor.shape.data(), tensor.rank, whole);
    if (status != Status::kOk) return from_status(status, Cause::kLimit, section.offset);
    std::uint64_t coder = 0;
    std::uint64_t filters = 0;
    status = get_varint(payload, there, position, coder);
    if (status == Status::kOk) status = get_varint(payload, there, position, filters);
    if (status != Status::kOk) return from_status(status, Cause::kTrits, section.offset);
    if (coder >= kNumTritCoders) {
        return refuse(Cause::kVersion, "trits need a Sterna that knows their coder", section.offset, coder,
                      kNumTritCoders - 1);
    }
    const bool is_empty = tensor.elements == 0;
    if (is_empty ? filters != 0 : filters == 0 || filters > whole.filters) {
        return refuse(Cause::kTrits, "filters of a chunk of trits", section.offset, filters,
                      is_empty ? 0 : whole.filters);
    }
    const std::uint64_t weights_per_filter = is_empty ? 0 : tensor.elements / whole.filters;
    for (std::uint64_t first = 0; !is_empty && first < whole.filters; first += filters) {
        TritChunk chunk;
        chunk.tensor = tensor_index;
        chunk.section = section_index;
        chunk.coder = static_cast<TritCoder>(coder);
        chunk.begin = first * weights_per_filter;
        chunk.shape = whole;
        chunk.shape.filters = whole.filters - first < filters ? whole.filters - first : filters;
        status = get_varint(payload, there, position, chunk.size);
        if (status != Status::kOk) return from_status(status, Cause::kTrits, section.offset);
        if (!can_hold(chunk.size, chunk.elements(), kMaxTritsPerByte)) {
            return refuse(Cause::kRatio, "so few bytes cannot hold these trits", section.offset, chunk.elements(),
                          (chunk.size + kSlackBytes) * kMaxTritsPerByte);
        }
        status = chunks_.push_back(chunk);
        if (status != Status::kOk) return from_status(status, Cause::kMemory, section.offset);
    }
    return {};
}

Fault Reader::assign_arrays(std::uint32_t index) {
    SectionInfo& section = sections_[index];
    std::size_t position = 0;
    std::uint64_t count = 0;
    const Status status = get_varint(bytes_ + section.offset, to_size(section.size), position, count);
    if (status != Status::kOk) return from_status(status, Cause::kArrays, section.offset);
    if (count > arrays_.size() - next_array_) {
        return refuse(Cause::kCoverage, "a section holds more arrays than there are", section.offset, count,
                      arrays_.size() - next_array_);
    }
    section.first = next_array_;
    section.count = static_cast<std::uint32_t>(count);
    std::uint64_t total = 0;
    for (std::uint32_t i = 0; i < section.count; ++i) {
        KeptArray& array = arrays_[next_array_++];
        array.section = index;
        total += array.elements * array.width;
    }
    if (!can_hold(section.size, total, kMaxBytesPerByte)) {
        return refuse(Cause::kRatio, "so few bytes cannot hold these arrays", section.offset, total,
                      (section.size + kSlackBytes) * kMaxBytesPerByte);
    }
    return {};
}

Fault Reader::read_chunk(const TritChunk& chunk, std::int8_t* trits) const {
    const Status status = decode_trits(chunk.coder, bytes_ + chunk.offset, to_size(chunk.size), chunk.shape, trits);
    return from_status(status, Cause::kTrits, chunk.offset);
}

Fault Reader::read_arrays(std::size_t index, std::uint8_t* const* destinations) const {
    const SectionInfo& section = sections_[index];
    std::size_t position = 0;
    std::uint64_t count = 0;
    const Status status = get_varint(bytes_ + section.offset, to_size(section.size), position, count);
    if (status != Status::kOk) return from_status(status, Cause::kArrays, section.offset);
    for (const unsigned width : {1u, 2u, 4u, 8u}) {
        if (const Fault fault = read_width(index, width, position, destinations)) return fault;
    }
    if (position != section.size) {
        return refuse(Cause::kArrays, "bytes follow the last array of a section", section.offset + position);
    }
    return {};
}

// The arrays of one element size, one after the other as if they were one, in chunks.
Fault Reader::read_width(std::size_t index, unsigned width, std::size_t& position,
                         std::uint8_t* const* destinations) const {
    const SectionInfo& section = sections_[index];
    const std::uint8_t* const payload = bytes_ + section.offset;
    std::uint64_t left = 0;
    for (std::size_t i = 0; i < section.count; ++i) {
        const KeptArray& array = arrays_[section.first + i];
        if (array.width == width) left += array.elements;
    }
    Buffer<std::uint8_t> chunk;
    std::size_t array = 0;
    std::uint64_t done = 0;  // elements of that array
    while (left != 0) {
        const std::uint64_t numbers = left < kNumbersPerChunk ? left : kNumbersPerChunk;
        left -= numbers;
        std::uint64_t size = 0;
        Status status = get_varint(payload, to_size(section.size), position, size);
        if (status == Status::kOk && size > section.size - position) status = Status::kTruncated;
        if (status == Status::kOk) status = chunk.assign(numbers * width, 0);
        if (status == Status::kOk) {
            status = decode_numbers(payload + position, to_size(size), chunk.data(), to_size(numbers), width);
        }
        if (status != Status::kOk) return from_status(status, Cause::kArrays, section.offset + position);
        position += to_size(size);
        for (std::uint64_t taken = 0; taken < numbers;) {
            const KeptArray& kept = arrays_[section.first + array];
            if (kept.width != width || done == kept.elements) {
                ++array;
                done = 0;
                continue;
            }
            const std::uint64_t open = kept.elements - done;
            const std::uint64_t part = open < numbers - taken ? open : numbers - taken;
            std::memcpy(destinations[array] + done * width, chunk.data() + taken * width, to_size(part * width));
            taken += part;
            done += part;
        }
    }
    return {};
}

}  // namespace sterna
