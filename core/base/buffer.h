// The one place where the core takes memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
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

    // Afterwards the buffer holds `size` copies of `value`.
    Status assign(std::size_t size, T value) {
        size_ = 0;
        if (const Status status = reserve(size); status != Status::kOk) return status;
        for (std::size_t i = 0; i < size; ++i) data_[i] = value;
        size_ = size;
        return Status::kOk;
    }

    Status push_back(T value) {
        if (size_ == capacity_) {
            const std::size_t grown = capacity_ < 64 ? 64 : capacity_ + capacity_ / 2;
            if (const Status status = reserve(grown); status != Status::kOk) return status;
        }
        data_[size_++] = value;
        return Status::kOk;
    }

    void shrink(std::size_t size) { size_ = size < size_ ? size : size_; }

  private:
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
