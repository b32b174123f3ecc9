// The one place where the core takes memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "core/base/status.h"

namespace sterna {

// A growable array of plain values that reports a failed allocation instead of throwing.
template <class T>
class Buffer {
    static_assert(std::is_trivially_copyable_v<T>);

  public:
    Buffer() = default;
    ~Buffer() { std::free(data_); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    Buffer(Buffer&& other) noexcept : data_(other.data_), size_(other.size_), capacity_(other.capacity_) {
        other.data_ = nullptr;
        other.size_ = other.capacity_ = 0;
    }
    Buffer& operator=(Buffer&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        std::swap(capacity_, other.capacity_);
        return *this;
    }

    T* data() { return data_; }
    const T* data() const { return data_; }
    std::size_t size() const { return size_; }
    T& operator[](std::size_t index) { return data_[index]; }
    const T& operator[](std::size_t index) const { return data_[index]; }

    // Afterwards the buffer holds `size` copies of `value`. More than an address can reach is too much memory, too.
    Status assign(std::uint64_t size, T value) {
        size_ = 0;
        if (size > std::numeric_limits<std::size_t>::max()) return Status::kOutOfMemory;
        const auto count = static_cast<std::size_t>(size);
        if (const Status status = reserve(count); status != Status::kOk) return status;
        for (std::size_t i = 0; i < count; ++i) data_[i] = value;
        size_ = count;
        return Status::kOk;
    }

    Status push_back(T value) {
        if (size_ == capacity_) {
            if (const Status status = grow(size_ + 1); status != Status::kOk) return status;
        }
        data_[size_++] = value;
        return Status::kOk;
    }

    Status append(const T* values, std::size_t count) {
        if (count > capacity_ - size_) {
            if (count > std::numeric_limits<std::size_t>::max() - size_) return Status::kOutOfMemory;
            if (const Status status = grow(size_ + count); status != Status::kOk) return status;
        }
        if (count != 0) std::memcpy(data_ + size_, values, count * sizeof(T));
        size_ += count;
        return Status::kOk;
    }

    void shrink(std::size_t size) { size_ = size < size_ ? size : size_; }

  private:
    // By half at least, so that all growing together takes time that is linear in the size.
    Status grow(std::size_t least) {
        const std::size_t half_more = capacity_ < 64 ? 64 : capacity_ + capacity_ / 2;
        return reserve(half_more < least ? least : half_more);
    }

    Status reserve(std::size_t capacity) {
        if (capacity <= capacity_) return Status::kOk;
        if (capacity > std::numeric_limits<std::size_t>::max() / sizeof(T)) return Status::kOutOfMemory;
        void* const moved = std::realloc(data_, capacity * sizeof(T));
        if (moved == nullptr) return Status::kOutOfMemory;
        data_ = static_cast<T*>(moved);
        capacity_ = capacity;
        return Status::kOk;
    }

    T* data_ = nullptr;
    std::size_t size_ = 0;
    std::size_t capacity_ = 0;
};

}  // namespace sterna
