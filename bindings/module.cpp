// The only place that knows both Python and the core.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "core/codec/range_coder.h"
#include "core/codec/trit_coder.h"

namespace nb = nanobind;

namespace {

// So that the ratio also holds for tiny tensors, whose last decisions cost no byte.
constexpr std::uint64_t kSlackBytes = 64;

using TritArray = nb::ndarray<const std::int8_t, nb::c_contig, nb::device::cpu>;

void check(sterna::Status status) {
    if (status == sterna::Status::kOutOfMemory) throw std::bad_alloc();
    if (status != sterna::Status::kOk) throw nb::value_error(sterna::message(status));
}

sterna::KernelShape view(const std::vector<std::uint64_t>& shape) {
    sterna::KernelShape kernel;
    check(sterna::kernel_shape(shape.data(), shape.size(), kernel));
    return kernel;
}

nb::bytes encode_trits(const TritArray& trits) {
    std::vector<std::uint64_t> shape(trits.ndim());
    for (std::size_t axis = 0; axis < shape.size(); ++axis) shape[axis] = trits.shape(axis);
    const sterna::KernelShape kernel = view(shape);
    sterna::Buffer<std::uint8_t> bytes;
    sterna::Status status;
    {
        nb::gil_scoped_release release;
        status = sterna::encode_trits(trits.data(), kernel, bytes);
    }
    check(status);
    return nb::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

auto decode_trits(const nb::bytes& bytes, const std::vector<std::uint64_t>& shape) {
    const sterna::KernelShape kernel = view(shape);
    const std::uint64_t count = kernel.filters * kernel.channels * kernel.rows * kernel.columns;
    // Asked before memory is taken: a few bytes must not claim gigabytes.
    if (count / sterna::kMaxWeightsPerByte > bytes.size() + kSlackBytes) check(sterna::Status::kTruncated);
    auto trits = std::make_unique<std::int8_t[]>(count);
    const auto* data = reinterpret_cast<const std::uint8_t*>(bytes.c_str());
    const std::size_t size = bytes.size();
    sterna::Status status;
    {
        nb::gil_scoped_release release;
        status = sterna::decode_trits(data, size, kernel, trits.get());
    }
    check(status);
    std::int8_t* owned = trits.release();
    const nb::capsule owner(owned, [](void* memory) noexcept { delete[] static_cast<std::int8_t*>(memory); });
    const std::vector<std::size_t> sizes(shape.begin(), shape.end());
    return nb::ndarray<nb::numpy, std::int8_t>(owned, sizes.size(), sizes.data(), owner);
}

}  // namespace

NB_MODULE(_core, module) {
    module.doc() = "Native code of Sterna.";
    module.attr("MAX_WEIGHTS") = sterna::kMaxWeights;
    module.attr("MAX_WEIGHTS_PER_BYTE") = sterna::kMaxWeightsPerByte;
    module.def("encode_trits", &encode_trits, nb::arg("trits"),
               "Code an int8 array of -1, 0 and 1; decode_trits gives it back.");
    module.def("decode_trits", &decode_trits, nb::arg("data"), nb::arg("shape"),
               "The int8 array that encode_trits was given; ValueError where the bytes do not code one.");
}
