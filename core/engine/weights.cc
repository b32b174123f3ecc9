#include "core/engine/weights.h"

#include <cmath>
#include <cstring>

#include "core/container/fault_text.h"

namespace sterna {
namespace {

constexpr char kNoMemory[] = "not enough memory for the weights";
constexpr std::uint64_t kMaxTensorElements = 0x7fffffff;

bool is_computable(const TensorInfo& info) {
    return info.rank != 0 && info.elements != 0 && info.elements <= kMaxTensorElements;
}

float half_to_float(std::uint16_t half) {
    const std::uint32_t sign = std::uint32_t{half & 0x8000u} << 16;
    const std::uint32_t exponent = half >> 10 & 31;
    const std::uint32_t mantissa = half & 1023;
    std::uint32_t bits = 0;
    if (exponent == 31) {
        bits = sign | 0x7f800000u | mantissa << 13;
    } else if (exponent != 0) {
        bits = sign | (exponent + 112) << 23 | mantissa << 13;
    } else {
        const float small = static_cast<float>(mantissa) * 5.9604644775390625e-8f;  // 2^-24
        return sign != 0 ? -small : small;
    }
    float value = 0.0f;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
}

}  // namespace

void Weights::read_filter(std::uint32_t filter, float* to) const {
    if (kind == Kind::kSigns) {
        for (std::size_t i = 0; i < width; ++i) to[i] = 0.0f;
        for (std::uint32_t i = begin[filter]; i < begin[filter + 1]; ++i) {
            to[places[i]] = i - begin[filter] < positive[filter] ? 1.0f : -1.0f;
        }
    } else if (kind == Kind::kInt8) {
        for (std::size_t i = 0; i < width; ++i) to[i] = static_cast<float>(int8[filter * width + i]);
    } else {
        std::memcpy(to, real.data() + filter * width, width * sizeof(float));
    }
}

std::string WeightStore::tensor_name(std::uint32_t tensor) const {
    const TensorInfo& info = reader_.tensors()[tensor];
    const char* const text = reinterpret_cast<const char*>(reader_.table_text().data());
    return std::string(text + info.name_begin, info.name_size);
}

const Weights* WeightStore::get(std::uint32_t tensor, std::string& problem) {
    if (weights_.empty()) weights_.resize(reader_.tensors().size());
    if (weights_[tensor] != nullptr) return weights_[tensor].get();
    if (!has_arrays_ && !load_arrays(problem)) return nullptr;
    const TensorInfo& info = reader_.tensors()[tensor];
    if (!is_computable(info)) {
        problem = "tensor " + tensor_name(tensor) + " has no axes, no elements or too many for the engine";
        return nullptr;
    }
    std::unique_ptr<Weights> weights;
    if (info.kind == TensorKind::kTrits) {
        weights = decode_signs(tensor, problem);
        if (weights == nullptr) return nullptr;
    } else {
        weights = make_weights(info);
    }
    std::size_t own = reader_.arrays().size(), scale = own;
    for (std::size_t i = 0; i < reader_.arrays().size(); ++i) {
        if (reader_.arrays()[i].tensor != tensor) continue;
        (reader_.arrays()[i].is_scale ? scale : own) = i;
    }
    weights->scale.assign(weights->filters, 1.0f);
    if (scale != reader_.arrays().size()) {
        Buffer<float> values;
        if (!to_floats(scale, values, problem)) return nullptr;
        for (std::uint32_t f = 0; f < weights->filters; ++f) weights->scale[f] = values[values.size() == 1 ? 0 : f];
    }
    switch (info.kind) {
        case TensorKind::kTrits:
            break;
        case TensorKind::kScaledInt8: {
            weights->kind = Weights::Kind::kInt8;
            if (weights->int8.assign(info.elements, 0) != Status::kOk) {
                problem = kNoMemory;
                return nullptr;
            }
            std::memcpy(weights->int8.data(), arrays_[own]->data(), static_cast<std::size_t>(info.elements));
            break;
        }
        case TensorKind::kFloat16:
        case TensorKind::kFloat32:
            if (!to_floats(own, weights->real, problem)) return nullptr;
            break;
        default:
            problem = "tensor " + tensor_name(tensor) + " is of a type that the engine does not compute with";
            return nullptr;
    }
    weights_[tensor] = std::move(weights);
    return weights_[tensor].get();
}

bool WeightStore::load_arrays(std::string& problem) {
    const auto& arrays = reader_.arrays();
    for (std::size_t i = 0; i < arrays.size(); ++i) {
        arrays_.push_back(std::make_unique<Buffer<std::uint8_t>>());
        if (arrays_[i]->assign(arrays[i].elements * arrays[i].width, 0) != Status::kOk) {
            problem = kNoMemory;
            return false;
        }
    }
    for (std::size_t s = 0; s < reader_.sections().size(); ++s) {
        const SectionInfo& section = reader_.sections()[s];
        if (section.kind != static_cast<std::uint8_t>(SectionKind::kArrays)) continue;
        std::vector<std::uint8_t*> destinations;
        for (std::uint32_t i = 0; i < section.count; ++i) destinations.push_back(arrays_[section.first + i]->data());
        if (const Fault fault = reader_.read_arrays(s, destinations.data())) {
            problem = to_text(fault);
            return false;
        }
    }
    has_arrays_ = true;
    return true;
}

bool WeightStore::to_floats(std::size_t array, Buffer<float>& to, std::string& problem) const {
    const KeptArray& kept = reader_.arrays()[array];
    const std::uint8_t* const from = arrays_[array]->data();
    if (to.assign(kept.elements, 0.0f) != Status::kOk) {
        problem = kNoMemory;
        return false;
    }
    for (std::size_t i = 0; i < to.size(); ++i) {
        if (kept.width == 2) {
            to[i] = half_to_float(static_cast<std::uint16_t>(from[2 * i] | from[2 * i + 1] << 8));
        } else {
            std::memcpy(to.data() + i, from + 4 * i, sizeof(float));
        }
        if (!std::isfinite(to[i])) {
            problem = "tensor " + tensor_name(kept.tensor) + " holds numbers that are not finite";
            return false;
        }
    }
    return true;
}

std::unique_ptr<Weights> WeightStore::make_weights(const TensorInfo& info) {
    auto weights = std::make_unique<Weights>();
    if (info.kind == TensorKind::kTrits) weights->kind = Weights::Kind::kSigns;
    for (unsigned axis = 0; axis < info.rank; ++axis) {
        weights->shape.push_back(static_cast<std::uint32_t>(info.shape[axis]));
    }
    weights->filters = weights->shape[0];
    weights->width = static_cast<std::size_t>(info.elements / weights->filters);
    return weights;
}

bool WeightStore::decode_early(const TritChunk& chunk, std::string& problem) {
    const TensorInfo& info = reader_.tensors()[chunk.tensor];
    if (!is_computable(info)) return true;  // get() will refuse it
    if (early_.empty()) early_.resize(reader_.tensors().size());
    Early& early = early_[chunk.tensor];
    if (early.weights == nullptr) early.weights = make_weights(info);
    if (!decode_chunk(chunk, *early.weights, problem)) {
        early = Early();
        return false;
    }
    ++early.chunks;
    return true;
}

std::unique_ptr<Weights> WeightStore::decode_signs(std::uint32_t tensor, std::string& problem) {
    Early early;
    if (!early_.empty()) early = std::move(early_[tensor]);
    if (early.weights == nullptr) early.weights = make_weights(reader_.tensors()[tensor]);
    for (std::size_t i = 0; i < reader_.trit_chunks().size(); ++i) {
        const TritChunk& chunk = reader_.trit_chunks()[i];
        if (chunk.tensor != tensor) continue;
        if (early.chunks != 0) {
            --early.chunks;
        } else if (!decode_chunk(chunk, *early.weights, problem)) {
            return nullptr;
        }
    }
    early.weights->begin.push_back(static_cast<std::uint32_t>(early.weights->places.size()));
    return std::move(early.weights);
}

// Appends the filters of a chunk.
bool WeightStore::decode_chunk(const TritChunk& chunk, Weights& weights, std::string& problem) const {
    Buffer<std::int8_t> trits;
    if (trits.assign(chunk.elements(), 0) != Status::kOk) {
        problem = kNoMemory;
        return false;
    }
    if (const Fault fault = reader_.read_chunk(chunk, trits.data())) {
        problem = "tensor " + tensor_name(chunk.tensor) + ": " + to_text(fault);
        return false;
    }
    for (std::size_t filter = 0; filter < trits.size(); filter += weights.width) {
        const std::int8_t* const signs = trits.data() + filter;
        weights.begin.push_back(static_cast<std::uint32_t>(weights.places.size()));
        for (const std::int8_t sign : {std::int8_t{1}, std::int8_t{-1}}) {
            for (std::size_t place = 0; place < weights.width; ++place) {
                if (signs[place] != sign) continue;
                if (weights.places.push_back(static_cast<std::uint32_t>(place)) != Status::kOk) {
                    problem = kNoMemory;
                    return false;
                }
            }
            if (sign == 1) {
                weights.positive.push_back(static_cast<std::uint32_t>(weights.places.size()) - weights.begin.back());
            }
        }
    }
    return true;
}

}  // namespace sterna
