// What render.cu takes from CUDA, for a host compiler. Threads run one after the other.
#pragma once
#include <cmath>
#include <cstring>

#define GPU_RENDER_HOST 1
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(threads)

using std::floor;

struct Index3 {
    unsigned x, y;
};
static Index3 blockIdx, blockDim, threadIdx, gridDim;

struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

// Built with -ffp-contract=off: each of these is one rounded operation.
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __ddiv_rn(double a, double b) { return a / b; }
static inline float add_f32(float a, float b) { return a + b; }
static inline float sub_f32(float a, float b) { return a - b; }
static inline float mul_f32(float a, float b) { return a * b; }
static inline float narrow(double a) { return static_cast<float>(a); }
static inline double widen(float a) { return a; }

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

static inline void atomicMin(unsigned long long *place, unsigned long long value) {
    if (value < *place) *place = value;
}
