#include "core/engine/thread_pool.h"

namespace sterna {

#if defined(STERNA_NO_THREADS)

ThreadPool::ThreadPool(unsigned) : threads_(1) {}
ThreadPool::~ThreadPool() = default;
bool ThreadPool::try_acquire() {
    return true;
}
void ThreadPool::release() {}
void ThreadPool::run(std::uint32_t count, std::uint32_t, Work work, void* context) {
    work(context, 0, 0, count);
}

#else

namespace {

// Turns of waiting before a worker sleeps: about 50 microseconds, longer than the pauses between the layers of a
// network.
constexpr int kSpins = 2000;

// Fields of ThreadPool::state_.
constexpr std::uint64_t kRound = std::uint64_t{1} << 32;
constexpr std::uint64_t kOpen = std::uint64_t{1} << 31;
constexpr std::uint64_t kWorkers = kOpen - 1;

inline std::uint64_t round_of(std::uint64_t state) {
    return state / kRound;
}

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(unsigned threads) : threads_(threads == 0 ? 1 : threads), shares_(threads_) {
    for (unsigned i = 1; i < threads_; ++i) workers_.emplace_back([this, i] { serve(i); });
}

ThreadPool::~ThreadPool() {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        is_ending_.store(true);
        state_.fetch_add(kRound);
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
}

bool ThreadPool::try_acquire() {
    return !is_owned_.exchange(true, std::memory_order_acquire);
}

void ThreadPool::release() {
    is_owned_.store(false, std::memory_order_release);
}

void ThreadPool::run(std::uint32_t count, std::uint32_t grain, Work work, void* context) {
    if (threads_ == 1 || count <= grain) {
        work(context, 0, 0, count);
        return;
    }
    for (unsigned i = 0; i < threads_; ++i) {
        const auto bound = [&](unsigned share) {
            return static_cast<std::uint32_t>(std::uint64_t{count} * share / threads_);
        };
        shares_[i].next.store(bound(i), std::memory_order_relaxed);
        shares_[i].end = bound(i + 1);
    }
    grain_ = grain;
    work_ = work;
    context_ = context;
    // No worker is in a loop between two of them, so that only the caller changes the state here.
    state_.store((round_of(state_.load(std::memory_order_relaxed)) + 1) * kRound | kOpen);
    if (sleeping_.load() != 0) {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
        }
        wake_.notify_all();
    }
    take_pieces(0);
    std::uint64_t state = state_.fetch_and(~kOpen);
    for (int spins = 0; (state & kWorkers) != 0; ++spins) {
        if (spins < kSpins) {
            pause();
        } else {
            std::this_thread::yield();
        }
        state = state_.load(std::memory_order_acquire);
    }
}

void ThreadPool::take_pieces(unsigned thread) {
    for (unsigned i = 0; i < threads_; ++i) {
        Share& share = shares_[(thread + i) % threads_];
        for (;;) {
            const std::uint32_t first = share.next.fetch_add(grain_, std::memory_order_relaxed);
            if (first >= share.end) break;
            const std::uint32_t left = share.end - first;
            work_(context_, thread, first, first + (left < grain_ ? left : grain_));
        }
    }
}

void ThreadPool::serve(unsigned thread) {
    std::uint64_t seen = 0;
    for (;;) {
        int spins = 0;
        std::uint64_t state = state_.load();
        while (round_of(state) == seen) {
            if (++spins < kSpins) {
                pause();
            } else {
                std::unique_lock<std::mutex> lock(mutex_);
                sleeping_.fetch_add(1);
                wake_.wait(lock, [this, seen] { return round_of(state_.load()) != seen; });
                sleeping_.fetch_sub(1);
            }
            state = state_.load();
        }
        if (is_ending_.load()) return;
        seen = round_of(state);
        // In, unless the last piece was taken and the loop closed in the meantime.
        while (round_of(state) == seen && (state & kOpen) != 0) {
            if (!state_.compare_exchange_weak(state, state + 1)) continue;
            take_pieces(thread);
            state_.fetch_sub(1, std::memory_order_release);
            break;
        }
    }
}

#endif

}  // namespace sterna
