// Threads that wait for work; the caller is one of them.
#pragma once

#include <atomic>
#include <cstdint>

#if !defined(STERNA_NO_THREADS)
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>
#endif

namespace sterna {

// Runs pieces of one loop at a time. Whoever finds it busy works alone: results do not depend on who does what.
class ThreadPool {
  public:
    using Work = void (*)(void* context, unsigned thread, std::uint32_t first, std::uint32_t last);

    explicit ThreadPool(unsigned threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    unsigned threads() const { return threads_; }

    // The pool belongs to one caller from a successful try_acquire to release.
    bool try_acquire();
    void release();

    // Calls `work` for runs of at most `grain` of the numbers below `count`; returns when all are done. Only for its
    // owner. A thread begins with its own share of the numbers, the same in every loop, so that it finds what it wrote
    // in the loop before in its own cache; then it helps the others. Nobody waits for a worker that has not come to the
    // loop before its last piece was taken: where other programs hold the cores, the caller does the work of those that
    // sleep.
    void run(std::uint32_t count, std::uint32_t grain, Work work, void* context);

  private:
    void take_pieces(unsigned thread);
    void serve(unsigned thread);

    unsigned threads_;
#if !defined(STERNA_NO_THREADS)
    std::vector<std::thread> workers_;
    std::atomic<bool> is_owned_{false};
    std::atomic<bool> is_ending_{false};
    // The number of the loop in the upper half; below it whether it is open, and how many workers are in it.
    std::atomic<std::uint64_t> state_{0};
    std::atomic<unsigned> sleeping_{0};
    // Numbers of one thread; each in a cache line of its own.
    struct alignas(64) Share {
        std::atomic<std::uint32_t> next{0};  // the first number that nobody has taken
        std::uint32_t end = 0;
    };
    std::vector<Share> shares_;
    std::uint32_t grain_ = 1;
    Work work_ = nullptr;
    void* context_ = nullptr;
    std::mutex mutex_;
    std::condition_variable wake_;
#endif
};

}  // namespace sterna
