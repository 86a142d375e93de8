// What render.cu takes from CUDA, for a host compiler. A block's threads are fibers that change over at barriers.
#pragma once
#include <ucontext.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#define GPU_RENDER_HOST 1
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
// One block runs at a time, so what a block shares may be static. It begins with what the last block left, as on a GPU.
#define __shared__ static thread_local

using std::ceil;
using std::floor;

struct Index3 {
    unsigned x, y;
};
static thread_local Index3 blockIdx, blockDim, threadIdx, gridDim;

struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

template <class T> static inline T __ldg(const T *at) { return *at; }

// Built with -ffp-contract=off: each of these is one rounded operation.
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __ddiv_rn(double a, double b) { return a / b; }
static inline float add_f32(float a, float b) { return a + b; }
static inline float sub_f32(float a, float b) { return a - b; }
static inline float mul_f32(float a, float b) { return a * b; }
static inline float narrow(double a) { return static_cast<float>(a); }
static inline double widen(float a) { return a; }

static inline unsigned __umulhi(unsigned a, unsigned b) {
    return static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32);
}

// The four bytes that the selector's nibbles name, of the eight of a and b.
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    const unsigned long long bytes = static_cast<unsigned long long>(b) << 32 | a;
    unsigned result = 0;
    for (int k = 0; k < 4; ++k) result |= static_cast<unsigned>(bytes >> 8 * (selector >> 4 * k & 7) & 255) << 8 * k;
    return result;
}

static inline float from_bits(unsigned a) {
    float value;
    std::memcpy(&value, &a, sizeof value);
    return value;
}

static inline unsigned long long to_bits(double a) {
    unsigned long long bits;
    std::memcpy(&bits, &a, sizeof bits);
    return bits;
}

template <class T> static inline void atomicMin(T *place, T value) {
    if (value < *place) *place = value;
}
template <class T> static inline void atomicMax(T *place, T value) {
    if (value > *place) *place = value;
}

// ---- fibers

struct Fiber {
    static const std::size_t STACK = 64 * 1024;
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[STACK]};
    int waits_at = 0;  // line of the barrier; 0: runs
};

struct Block {
    std::vector<std::unique_ptr<Fiber>> fibers;
    ucontext_t scheduler;
    unsigned running = 0;
    void (*body)(void *) = nullptr;
    void *argument = nullptr;
};
static thread_local Block block_state;

[[noreturn]] static inline void divergent(int line, int other) {
    std::fprintf(stderr, "barrier divergence: a thread waits at line %d, another at %d (0: it has finished)\n", line, other);
    std::abort();
}

static inline void barrier(int line) {
    Fiber &fiber = *block_state.fibers[block_state.running];
    fiber.waits_at = line;
    swapcontext(&fiber.context, &block_state.scheduler);
}
#define __syncthreads() barrier(__LINE__)

static void fiber_main() { block_state.body(block_state.argument); }

// Run every thread of the block until it waits or has finished; whether they wait. Every other block runs them
// backwards, so that no order is relied on.
static bool run_to_barrier(unsigned threads) {
    for (unsigned n = 0; n < threads; ++n) {
        const unsigned t = (blockIdx.x + blockIdx.y) % 2 ? threads - 1 - n : n;
        Fiber &fiber = *block_state.fibers[t];
        block_state.running = threadIdx.x = t;
        fiber.waits_at = 0;
        swapcontext(&block_state.scheduler, &fiber.context);
    }
    const int line = block_state.fibers[0]->waits_at;
    for (unsigned t = 1; t < threads; ++t)
        if (block_state.fibers[t]->waits_at != line) divergent(block_state.fibers[t]->waits_at, line);
    return line != 0;
}

static void run_block(unsigned threads, void (*body)(void *), void *argument) {
    block_state.body = body;
    block_state.argument = argument;
    while (block_state.fibers.size() < threads) block_state.fibers.push_back(std::make_unique<Fiber>());
    for (unsigned t = 0; t < threads; ++t) {
        Fiber &fiber = *block_state.fibers[t];
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = Fiber::STACK;
        fiber.context.uc_link = &block_state.scheduler;
        makecontext(&fiber.context, fiber_main, 0);
    }
    while (run_to_barrier(threads)) {
    }
}

// Every block of the grid, one after the other.
template <class Body> static void launch(unsigned grid_x, unsigned grid_y, unsigned block, Body body) {
    gridDim = {grid_x, grid_y};
    blockDim = {block, 1};
    for (blockIdx.y = 0; blockIdx.y < grid_y; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < grid_x; ++blockIdx.x)
            run_block(block, [](void *argument) { (*static_cast<Body *>(argument))(); }, &body);
}
