// A lock, or nothing where there are no threads.
#pragma once

#if !defined(STERNA_NO_THREADS)
#include <mutex>
#endif

namespace sterna {

#if defined(STERNA_NO_THREADS)

struct Mutex {};

class MutexLock {
  public:
    explicit MutexLock(Mutex&) {}
    ~MutexLock() {}
    MutexLock(const MutexLock&) = delete;
    MutexLock& operator=(const MutexLock&) = delete;
};

#else

using Mutex = std::mutex;
using MutexLock = std::lock_guard<std::mutex>;

#endif

}  // namespace sterna
