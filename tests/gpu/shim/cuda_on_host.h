// Runs the project's CUDA kernels on the host, for tests. Included before them by a C++17 compiler.
//
// A block's threads are fibers on one OS thread: each runs until it waits at a barrier, then the next one does. Barriers
// are counted properly, for the block and for each warp, so that a thread never passes one that others have not reached;
// where nobody can go on, the launch fails ("threads wait at different barriers"). The order of threads is shuffled anew
// at every round: what depends on it gives different results. Shared memory is allocated to the byte and poisoned.
//
// With SHIM_THREADS each CUDA thread is an OS thread: for ThreadSanitizer, which then sees every race there is.
#pragma once
#define CUDA_HOST_SHIM 1
#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <type_traits>
#include <vector>
#if !defined(__x86_64__) && !defined(SHIM_THREADS)
#define SHIM_THREADS
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(n)
#define __restrict__

struct float2 { float x, y; };
struct float4 { float x, y, z, w; };
struct dim3 { unsigned x, y, z; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

static thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace shim {

constexpr int warp_size = 32;
enum Result { done = 0, bad_launch = 1, deadlock = 2 };

struct Kernel {
    void (*call)(void**);
    void** arguments;
};

inline float2 unpack_half2(unsigned word)
{
    uint16_t bits[2] = {(uint16_t)(word & 0xffff), (uint16_t)(word >> 16)};
    _Float16 half[2];
    memcpy(half, bits, sizeof half);
    return {(float)half[0], (float)half[1]};
}

inline unsigned pack_half2(float re, float im)
{
    _Float16 half[2] = {(_Float16)re, (_Float16)im};
    uint16_t bits[2];
    memcpy(bits, half, sizeof bits);
    return bits[0] | (unsigned)bits[1] << 16;
}

// What threads exchange in a warp operation: two sets that take turns, so that one barrier an operation is enough.
struct Exchange {
    uint64_t value[2][warp_size];
};

#ifdef SHIM_THREADS

class Barrier {
  public:
    explicit Barrier(int n) : live_(n) {}
    void wait()
    {
        std::unique_lock<std::mutex> lock(mutex_);
        const long generation = generation_;
        if (++arrived_ == live_) open();
        else condition_.wait(lock, [&] { return generation_ != generation; });
    }
    void leave()
    {
        std::unique_lock<std::mutex> lock(mutex_);
        if (--live_ > 0 && arrived_ == live_) open();
    }

  private:
    void open()
    {
        arrived_ = 0;
        ++generation_;
        condition_.notify_all();
    }
    std::mutex mutex_;
    std::condition_variable condition_;
    int live_, arrived_ = 0;
    long generation_ = 0;
};

struct Block {
    unsigned char* shared;
    Barrier* whole;
    std::vector<std::unique_ptr<Barrier>>* warps;
    std::vector<Exchange>* exchange;
};
static thread_local Block* block;
static thread_local unsigned operations;

inline void wait_block() { block->whole->wait(); }
inline void wait_warp() { (*block->warps)[threadIdx.x / warp_size]->wait(); }

// One team for all blocks, each of which has shared memory of its own: a thread that is done with one goes on to the next.
inline Result run(const Kernel& kernel, dim3 grid, unsigned threads, size_t shared_bytes, unsigned)
{
    const size_t blocks = (size_t)grid.x * grid.y;
    std::vector<std::unique_ptr<unsigned char[]>> shared(shared_bytes ? blocks : 0);
    for (auto& memory : shared) {
        memory.reset(new unsigned char[shared_bytes]);
        memset(memory.get(), 0xff, shared_bytes);
    }
    Barrier whole((int)threads);
    std::vector<std::unique_ptr<Barrier>> warps;
    for (unsigned w = 0; w < threads / warp_size; ++w) warps.emplace_back(new Barrier(warp_size));
    std::vector<Exchange> exchange(threads / warp_size);
    auto work = [&](unsigned t) {
        Block here{nullptr, &whole, &warps, &exchange};
        block = &here;
        operations = 0;
        threadIdx = {t, 0, 0}, blockDim = {threads, 1, 1}, gridDim = grid;
        for (size_t b = 0; b < blocks; ++b) {
            if (shared_bytes) here.shared = shared[b].get();
            blockIdx = {(unsigned)(b % grid.x), (unsigned)(b / grid.x), 0};
            kernel.call(kernel.arguments);
        }
        warps[t / warp_size]->leave();
        whole.leave();
    };
    std::vector<std::thread> team;
    for (unsigned t = 0; t < threads; ++t) team.emplace_back(work, t);
    for (auto& thread : team) thread.join();
    return done;
}

#else  // fibers

extern "C" void shim_switch(void** save, void* load) __attribute__((visibility("hidden")));
asm(R"(
    .text
    .hidden shim_switch
    .globl shim_switch
    .type shim_switch, @function
shim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size shim_switch, .-shim_switch
)");

struct Barrier {
    int live = 0, arrived = 0;
    long generation = 0;
    void settle()
    {
        if (live > 0 && arrived == live) {
            arrived = 0;
            ++generation;
        }
    }
};

constexpr size_t stack_bytes = 32 << 10;

struct Fiber {
    std::unique_ptr<unsigned char[]> stack{new unsigned char[stack_bytes]};
    void* pointer = nullptr;
    Barrier* waits = nullptr;
    long generation = 0;
    unsigned operations = 0;
    bool ended = false;
    void* sanitizer = nullptr;
};

struct Block {
    unsigned char* shared = nullptr;
    const Kernel* kernel = nullptr;
    Barrier whole;
    std::vector<Barrier> warps;
    std::vector<Exchange> exchange;
    std::vector<Fiber> fibers;
    Fiber* current = nullptr;
    void* scheduler = nullptr;
    void* sanitizer = nullptr;
    const void* scheduler_stack = nullptr;
    size_t scheduler_bytes = 0;
};
static thread_local Block* block;

inline void to_scheduler(bool last)
{
    Block* const here = block;
    Fiber* const self = here->current;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(last ? nullptr : &self->sanitizer, here->scheduler_stack, here->scheduler_bytes);
#else
    (void)last;
#endif
    shim_switch(&self->pointer, here->scheduler);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(self->sanitizer, &here->scheduler_stack, &here->scheduler_bytes);
#endif
}

inline void to_fiber(Block& here, Fiber& fiber)
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&here.sanitizer, fiber.stack.get(), stack_bytes);
#endif
    shim_switch(&here.scheduler, fiber.pointer);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(here.sanitizer, nullptr, nullptr);
#endif
}

inline void wait_at(Barrier& barrier)
{
    Fiber& self = *block->current;
    const long generation = barrier.generation;
    ++barrier.arrived;
    barrier.settle();
    if (barrier.generation != generation) return;
    self.waits = &barrier;
    self.generation = generation;
    to_scheduler(false);
}

inline void wait_block() { wait_at(block->whole); }
inline void wait_warp() { wait_at(block->warps[threadIdx.x / warp_size]); }

// Where a fiber begins; it never returns.
inline void fiber_main()
{
    Block& here = *block;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &here.scheduler_stack, &here.scheduler_bytes);
#endif
    here.kernel->call(here.kernel->arguments);
    here.current->ended = true;
    Barrier& warp = here.warps[threadIdx.x / warp_size];
    --warp.live;
    warp.settle();
    --here.whole.live;
    here.whole.settle();
    to_scheduler(true);
    abort();
}

inline void start(Fiber& fiber)
{
    auto top = reinterpret_cast<uintptr_t>(fiber.stack.get() + stack_bytes) & ~uintptr_t(63);
    void** frame = reinterpret_cast<void**>(top - 64);
    memset(frame, 0, 64);
    frame[6] = reinterpret_cast<void*>(&fiber_main);  // what shim_switch returns to, above six saved registers
    fiber.pointer = frame;
    fiber.waits = nullptr;
    fiber.operations = 0;
    fiber.ended = false;
}

inline Result run_block(Block& here, dim3 index, unsigned threads, std::minstd_rand& random, std::vector<unsigned>& order)
{
    here.whole = {(int)threads, 0, 0};
    here.warps.assign(threads / warp_size, {warp_size, 0, 0});
    for (unsigned t = 0; t < threads; ++t) start(here.fibers[t]);
    blockIdx = index;
    for (unsigned live = threads; live > 0;) {
        bool moved = false;
        // a random rotation and direction: cheap, and enough to move every pair of threads past each other
        const unsigned first = random() % threads, step = (random() & 1) ? 1 : threads - 1;
        for (unsigned i = 0, t = first; i < threads; ++i, t = (t + step) % threads) {
            Fiber& fiber = here.fibers[order[t]];
            if (fiber.ended || (fiber.waits && fiber.waits->generation == fiber.generation)) continue;
            fiber.waits = nullptr;
            here.current = &fiber;
            threadIdx = {order[t], 0, 0};
            to_fiber(here, fiber);
            moved = true;
            if (fiber.ended) --live;
        }
        if (!moved) return deadlock;
    }
    return done;
}

inline Result run(const Kernel& kernel, dim3 grid, unsigned threads, size_t shared_bytes, unsigned seed)
{
    Block here;
    here.kernel = &kernel;
    here.fibers.resize(threads);
    here.exchange.resize(threads / warp_size);
    block = &here;
    blockDim = {threads, 1, 1};
    gridDim = grid;
    std::minstd_rand random(seed + 1);
    std::vector<unsigned> order(threads);
    for (unsigned t = 0; t < threads; ++t) order[t] = t;
    std::shuffle(order.begin(), order.end(), random);
    Result result = done;
    for (unsigned y = 0; y < grid.y && result == done; ++y)
        for (unsigned x = 0; x < grid.x && result == done; ++x) {
            std::unique_ptr<unsigned char[]> shared(new unsigned char[shared_bytes]);
            memset(shared.get(), 0xff, shared_bytes);
            here.shared = shared.get();
            result = run_block(here, {x, y, 0}, threads, random, order);
        }
    block = nullptr;
    return result;
}

#endif

inline unsigned& operation_count()
{
#ifdef SHIM_THREADS
    return operations;
#else
    return block->current->operations;
#endif
}

// Give every lane of the warp a value, wait for all, and return the set that was given.
template <class T> uint64_t* exchange(T value)
{
    static_assert(sizeof(T) <= sizeof(uint64_t), "a shuffle moves at most 64 bits");
#ifdef SHIM_THREADS
    Exchange& mine = (*block->exchange)[threadIdx.x / warp_size];
#else
    Exchange& mine = block->exchange[threadIdx.x / warp_size];
#endif
    uint64_t* const set = mine.value[operation_count()++ % 2];
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    set[threadIdx.x % warp_size] = bits;
    wait_warp();
    return set;
}

template <class T> T from_lane(T value, int lane)
{
    const uint64_t* const set = exchange(value);
    T result;
    memcpy(&result, set + lane, sizeof result);
    return result;
}

inline Result launch(const Kernel& kernel, const unsigned* shape, size_t shared_bytes, unsigned seed)
{
    const dim3 grid{shape[0], shape[1], 1};
    const unsigned threads = shape[2];
    // what a device refuses, and blocks of whole warps, which the kernels count on
    if (!grid.x || !grid.y || grid.y > 65535 || !threads || threads > 1024 || threads % warp_size) return bad_launch;
    if (shared_bytes > 48 * 1024) return bad_launch;
    return run(kernel, grid, threads, shared_bytes, seed);
}

}  // namespace shim

#define SHARED(T, name) T* const name = reinterpret_cast<T*>(shim::block->shared)

inline void __syncthreads() { shim::wait_block(); }
template <class T> T __shfl_down_sync(unsigned, T v, int d)
{
    const int lane = threadIdx.x % 32;
    return shim::from_lane(v, lane + d < 32 ? lane + d : lane);
}
template <class T> T __shfl_up_sync(unsigned, T v, int d)
{
    const int lane = threadIdx.x % 32;
    return shim::from_lane(v, lane - d >= 0 ? lane - d : lane);
}
template <class T> T __shfl_sync(unsigned, T v, int source) { return shim::from_lane(v, source % 32); }
inline unsigned __ballot_sync(unsigned, int predicate)
{
    const uint64_t* const set = shim::exchange((uint64_t)(predicate != 0));
    unsigned bits = 0;
    for (int lane = 0; lane < 32; ++lane) bits |= (unsigned)set[lane] << lane;
    return bits;
}

template <class Word, class T> T shim_atomic_add(T* address, T value)
{
    Word before = __atomic_load_n(reinterpret_cast<Word*>(address), __ATOMIC_RELAXED), after;
    T old, sum;
    do {
        memcpy(&old, &before, sizeof old);
        sum = old + value;
        memcpy(&after, &sum, sizeof after);
    } while (!__atomic_compare_exchange_n(
        reinterpret_cast<Word*>(address), &before, after, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
}
inline float atomicAdd(float* address, float value) { return shim_atomic_add<uint32_t>(address, value); }
inline double atomicAdd(double* address, double value) { return shim_atomic_add<uint64_t>(address, value); }
inline int atomicAdd(int* address, int value) { return __atomic_fetch_add(address, value, __ATOMIC_RELAXED); }

template <class T> T __ldg(const T* address) { return *address; }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
template <class T> T min(T a, T b) { return a < b ? a : b; }
template <class T> T max(T a, T b) { return a > b ? a : b; }
inline void sincospif(float x, float* sine, float* cosine)
{
    const float r = x - 2.f * rintf(0.5f * x);  // exact
    sincosf(3.14159265358979f * r, sine, cosine);
}
