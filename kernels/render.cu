// The fused kernel: stored samples of a batch of frames in, arrays out. The bit-for-bit twin of cpu.py, where the
// formula is the specification; in short (PS3.3 C.7.6.3, C.11.1, C.11.2; PS3.18 8.3.5):
//
//   stored   = container >> shift, its lowest `bits` bits, sign-extended if `is_signed`; floats as they are
//   m        = slope * stored + intercept, float64, or table[clamp(stored - table_first)] (MODALITY, TABLE)
//   STORED   = stored, interleaved
//   MODALITY = m as float32, or as int16
//   DISPLAY  = GREY: t = (m - lower) * 255 / span; 255 if t >= 255, floor(t + 0.5) if t > 0, else 0
//                    or the number of thresholds <= m, or table[clamp(stored - table_first)];
//                    then 255 - grey if `invert`; then 0 where pad_low <= stored <= pad_high
//              RGB, YBR: 8-bit samples, YBR through its matrix in whole millionths; PALETTE: table[clamp(...)]
//   scaling  = bilinear in float32 of the values above, pixel centres at .5, neighbours clamped to the region
//
// Every operation is rounded by itself. The double intrinsics are never fused; the float operations are written in
// PTX, because a compiler's flags (CuPy always adds -ftz=true) must not turn denormal numbers into zeros here.
//
// FrameParams is params.FRAME_PARAMS, byte for byte. The host has checked it (check.py): no index computed from it
// leaves the source or the table. The file needs no header; a host build defines GPU_RENDER_HOST and what is CUDA's.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

struct FrameParams {
    u64 source;  // address of the first sample
    u64 table;   // address of the table, or 0
    u64 output;  // address of this frame's output
    u64 steps;   // address of Steps, or 0
    double slope, intercept;
    double lower, span;          // modality value shown as 0; modality units from 0 to 255
    double pad_low, pad_high;    // inclusive range of stored values shown as background; NaN: none
    int rows, columns, samples;  // samples: 1 or 3 per pixel
    int planar;                  // 1: planes, 0: interleaved
    int sample_format;           // SampleFormat
    int shift, bits, is_signed;
    int region_x, region_y, region_width, region_height;
    int height, width;  // of the output
    int stage, curve, colour;
    int table_first, table_length;
    int invert;
    int output_format, output_samples;
};
static_assert(sizeof(FrameParams) == 168, "FrameParams is params.FRAME_PARAMS");

struct Steps {
    u32 above[256];  // the first key whose grey is above the index; all ones where there is none, and at 255
    long long offset;
    u32 gain;
    int fraction;
    u32 flip, mask;
    u32 pad_first, pad_span;
    u32 invert, reserved;
};
static_assert(sizeof(Steps) == 1064, "Steps is params.STEPS");

struct UnpackParams {
    u64 source;  // address of the packed bytes, aligned to 8
    u64 output;  // address of the samples, aligned to 8
    int rows, columns, samples;
    int itemsize;  // of a sample [byte]
    int packing;   // Packing
    int reserved;
};
static_assert(sizeof(UnpackParams) == 40, "UnpackParams is params.UNPACK_PARAMS");

struct AdoptParams {
    u64 source;      // what the codec left
    u64 output;      // samples, dense; 0: not written
    u64 reference;   // samples to compare with, dense; 0: none
    u64 stats;       // five words, all ones before
    long long row_stride;  // of the source [byte]
    int source_format, output_format;  // one of U8, I8, U16, I16
    int rows, columns, samples;
    int offset;
    int sign_bits;
    int reserved;
};
static_assert(sizeof(AdoptParams) == 72, "AdoptParams is params.ADOPT_PARAMS");

enum Stage { STORED, MODALITY, DISPLAY };
enum SampleFormat { U8, I8, U16, I16, U32, I32, F32, F64 };
enum Curve { RATIO, THRESHOLDS, TABLE };
enum Colour { GREY, RGB, YBR_FULL, YBR_PARTIAL, PALETTE };

#define BOTH static __device__ __forceinline__

#ifndef GPU_RENDER_HOST
BOTH float add_f32(float a, float b) { float r; asm("add.rn.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b)); return r; }
BOTH float sub_f32(float a, float b) { float r; asm("sub.rn.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b)); return r; }
BOTH float mul_f32(float a, float b) { float r; asm("mul.rn.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b)); return r; }
BOTH float narrow(double a) { float r; asm("cvt.rn.f32.f64 %0, %1;" : "=f"(r) : "d"(a)); return r; }
BOTH double widen(float a) { double r; asm("cvt.f64.f32 %0, %1;" : "=d"(r) : "f"(a)); return r; }
BOTH float from_bits(u32 a) { return __uint_as_float(a); }
BOTH u64 to_bits(double a) { return static_cast<u64>(__double_as_longlong(a)); }
#endif

BOTH bool is_nan(double a) { return a != a; }

// ---- one sample

BOTH u64 sample_index(const FrameParams &p, int x, int y, int c) {
    const u64 pixel = static_cast<u64>(y) * p.columns + x;
    if (p.samples == 1) return pixel;
    return p.planar ? static_cast<u64>(c) * p.rows * p.columns + pixel : pixel * 3 + c;
}

BOTH u32 container(const FrameParams &p, u64 i) {
    if (p.sample_format <= I8) return reinterpret_cast<const u8 *>(p.source)[i];
    if (p.sample_format <= I16) return reinterpret_cast<const u16 *>(p.source)[i];
    return reinterpret_cast<const u32 *>(p.source)[i];
}

// Shifted, masked and sign-extended to 32 bits.
BOTH u32 field(const FrameParams &p, u32 raw) {
    const u32 value = (raw >> p.shift) & (0xffffffffu >> (32 - p.bits));
    const u32 sign = p.is_signed ? 1u << (p.bits - 1) : 0u;
    return (value ^ sign) - sign;
}

BOTH double integer_value(const FrameParams &p, u32 raw) {
    const u32 value = field(p, raw);
    return p.is_signed ? static_cast<double>(static_cast<int>(value)) : static_cast<double>(value);
}

BOTH double stored_value(const FrameParams &p, u64 i) {
    if (p.sample_format == F64) return reinterpret_cast<const double *>(p.source)[i];
    if (p.sample_format == F32) return widen(reinterpret_cast<const float *>(p.source)[i]);
    return integer_value(p, container(p, i));
}

// ---- one value

BOTH double rescaled(const FrameParams &p, double stored) {
    return __dadd_rn(__dmul_rn(stored, p.slope), p.intercept);
}

BOTH int table_index(const FrameParams &p, double stored) {
    const double place = __dadd_rn(stored, -static_cast<double>(p.table_first));
    const int last = p.table_length - 1;
    if (!(place > 0.0)) return 0;
    return place < last ? static_cast<int>(place) : last;
}

BOTH u32 grey_of_ratio(const FrameParams &p, double stored) {
    const double above = __dadd_rn(rescaled(p, stored), -p.lower);
    const double t = __ddiv_rn(__dmul_rn(above, 255.0), p.span);
    if (t >= 255.0) return 255;
    return t > 0.0 ? static_cast<u32>(__dadd_rn(t, 0.5)) : 0;
}

BOTH u32 grey_of_thresholds(const FrameParams &p, double stored) {
    const double *thresholds = reinterpret_cast<const double *>(p.table);
    const double m = rescaled(p, stored);
    int low = 0, high = 255;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (thresholds[middle] <= m) low = middle + 1;
        else high = middle;
    }
    return low;
}

BOTH u32 grey(const FrameParams &p, double stored) {
    u32 value;
    if (p.curve == TABLE) value = reinterpret_cast<const u8 *>(p.table)[table_index(p, stored)];
    else value = p.curve == THRESHOLDS ? grey_of_thresholds(p, stored) : grey_of_ratio(p, stored);
    if (p.invert) value = 255 - value;
    return p.pad_low <= stored && stored <= p.pad_high ? 0 : value;
}

// NaN in one spelling only.
BOTH float canonical(float value) { return value != value ? from_bits(0x7fc00000u) : value; }

BOTH double modality_value(const FrameParams &p, int x, int y) {
    const double stored = stored_value(p, sample_index(p, x, y, 0));
    if (p.curve != TABLE) return rescaled(p, stored);
    return widen(reinterpret_cast<const float *>(p.table)[table_index(p, stored)]);
}

BOTH short to_int16(double m) {
    if (m >= 32767.0) return 32767;
    if (m <= -32768.0) return -32768;
    return is_nan(m) ? 0 : static_cast<short>(static_cast<int>(m));
}

// ---- one displayed pixel: grey, or red + green * 2^8 + blue * 2^16

BOTH int eight_bit(const FrameParams &p, int x, int y, int c) {
    const u32 value = field(p, container(p, sample_index(p, x, y, c)));
    if (p.bits == 8) return static_cast<int>(value);
    const double scale = static_cast<double>(0xffffffffu >> (32 - p.bits));
    return static_cast<int>(__dadd_rn(__ddiv_rn(__dmul_rn(static_cast<double>(value), 255.0), scale), 0.5));
}

// Millionths to 0..255, half up. The added 512 makes the division one of a positive number.
BOTH u32 from_millionths(int value) {
    const int whole = (value + 500000 + 512000000) / 1000000 - 512;
    return whole < 0 ? 0 : whole > 255 ? 255 : static_cast<u32>(whole);
}

BOTH u32 pack(u32 red, u32 green, u32 blue) { return red | green << 8 | blue << 16; }

BOTH u32 colour(const FrameParams &p, int x, int y) {
    if (p.colour == PALETTE) {
        const int i = table_index(p, stored_value(p, sample_index(p, x, y, 0)));
        const u8 *entry = reinterpret_cast<const u8 *>(p.table) + 3ull * i;
        return pack(entry[0], entry[1], entry[2]);
    }
    const int first = eight_bit(p, x, y, 0), second = eight_bit(p, x, y, 1), third = eight_bit(p, x, y, 2);
    if (p.colour == RGB) return pack(first, second, third);
    const int cb = second - 128, cr = third - 128;
    if (p.colour == YBR_FULL) {
        const int luma = first * 1000000;
        return pack(from_millionths(luma + 1402000 * cr), from_millionths(luma - 344136 * cb - 714136 * cr),
                    from_millionths(luma + 1772000 * cb));
    }
    const int luma = (first - 16) * 1164384;
    return pack(from_millionths(luma + 1596027 * cr), from_millionths(luma - 391762 * cb - 812968 * cr),
                from_millionths(luma + 2017232 * cb));
}

BOTH u32 shown(const FrameParams &p, int x, int y) {
    return p.colour == GREY ? grey(p, stored_value(p, sample_index(p, x, y, 0))) : colour(p, x, y);
}

// ---- scaling

struct Neighbours {
    int first, second;  // source positions
    float weight;       // of the second
};

BOTH Neighbours neighbours(int start, int length, int size, int o) {
    const double along = __ddiv_rn(__dmul_rn(static_cast<double>(o) + 0.5, static_cast<double>(length)), size);
    const double position = __dadd_rn(__dadd_rn(static_cast<double>(start), along), -0.5);
    const double low = floor(position);
    const int first = static_cast<int>(low), last = start + length - 1;
    Neighbours n;
    n.first = first < start ? start : first > last ? last : first;
    n.second = first + 1 < start ? start : first + 1 > last ? last : first + 1;
    n.weight = narrow(__dadd_rn(position, -low));
    return n;
}

BOTH float between(float a, float b, float weight) { return add_f32(a, mul_f32(sub_f32(b, a), weight)); }

BOTH float bilinear(float a, float b, float c, float d, float across, float down) {
    return between(between(a, b, across), between(c, d, across), down);
}

BOTH float channel(u32 pixel, int c) { return static_cast<float>((pixel >> (8 * c)) & 255u); }

// ---- one output pixel (ox, oy), number o

BOTH void put_stored(const FrameParams &p, int ox, int oy, u32 o) {
    for (int c = 0; c < p.samples; ++c) {
        const u64 from = sample_index(p, p.region_x + ox, p.region_y + oy, c);
        const u64 to = static_cast<u64>(o) * p.samples + c;
        if (p.sample_format == F64)
            reinterpret_cast<u64 *>(p.output)[to] = reinterpret_cast<const u64 *>(p.source)[from];
        else if (p.sample_format == F32)
            reinterpret_cast<u32 *>(p.output)[to] = container(p, from);
        else if (p.sample_format >= U32)
            reinterpret_cast<u32 *>(p.output)[to] = field(p, container(p, from));
        else if (p.sample_format >= U16)
            reinterpret_cast<u16 *>(p.output)[to] = static_cast<u16>(field(p, container(p, from)));
        else
            reinterpret_cast<u8 *>(p.output)[to] = static_cast<u8>(field(p, container(p, from)));
    }
}

BOTH void put_pixel(const FrameParams &p, u32 pixel, u32 o) {
    u8 *output = reinterpret_cast<u8 *>(p.output) + static_cast<u64>(o) * p.output_samples;
    output[0] = static_cast<u8>(pixel);
    if (p.output_samples == 3) {
        output[1] = static_cast<u8>(pixel >> 8);
        output[2] = static_cast<u8>(pixel >> 16);
    }
}

BOTH void put_same_size(const FrameParams &p, int ox, int oy, u32 o) {
    const int x = p.region_x + ox, y = p.region_y + oy;
    if (p.stage == DISPLAY) {
        put_pixel(p, shown(p, x, y), o);
        return;
    }
    const double m = modality_value(p, x, y);
    if (p.output_format == I16) reinterpret_cast<short *>(p.output)[o] = to_int16(m);
    else reinterpret_cast<float *>(p.output)[o] = canonical(narrow(m));
}

BOTH void put_scaled(const FrameParams &p, int ox, int oy, u32 o) {
    const Neighbours x = neighbours(p.region_x, p.region_width, p.width, ox);
    const Neighbours y = neighbours(p.region_y, p.region_height, p.height, oy);
    if (p.stage == MODALITY) {
        const float a = narrow(modality_value(p, x.first, y.first)), b = narrow(modality_value(p, x.second, y.first));
        const float c = narrow(modality_value(p, x.first, y.second)), d = narrow(modality_value(p, x.second, y.second));
        reinterpret_cast<float *>(p.output)[o] = canonical(bilinear(a, b, c, d, x.weight, y.weight));
        return;
    }
    const u32 a = shown(p, x.first, y.first), b = shown(p, x.second, y.first);
    const u32 c = shown(p, x.first, y.second), d = shown(p, x.second, y.second);
    u32 pixel = 0;
    for (int k = 0; k < p.output_samples; ++k) {
        const float v = bilinear(channel(a, k), channel(b, k), channel(c, k), channel(d, k), x.weight, y.weight);
        pixel |= static_cast<u32>(add_f32(v, 0.5f)) << (8 * k);
    }
    put_pixel(p, pixel, o);
}

// ---- the common case: whole rows of 8- or 16-bit samples to grey, eight pixels at a time

BOTH bool is_plain(const FrameParams &p) {
    return p.stage == DISPLAY && p.colour == GREY && p.sample_format <= I16 && p.region_width == p.columns &&
           p.width == p.region_width && p.height == p.region_height;
}

BOTH u32 four_of_bytes(const FrameParams &p, u32 word) {
    return grey(p, integer_value(p, word & 255)) | grey(p, integer_value(p, word >> 8 & 255)) << 8 |
           grey(p, integer_value(p, word >> 16 & 255)) << 16 | grey(p, integer_value(p, word >> 24)) << 24;
}

BOTH u32 two_of_words(const FrameParams &p, u32 word) {
    return grey(p, integer_value(p, word & 65535)) | grey(p, integer_value(p, word >> 16)) << 8;
}

// Returns how many pixels, from the first, have been written by the threads of this frame together.
BOTH u32 put_plain(const FrameParams &p, u32 total, u32 thread, u32 threads) {
    const u64 bytes = p.sample_format <= I8 ? 1 : 2;
    const u64 from = p.source + static_cast<u64>(p.region_y) * p.columns * bytes;
    if (from % (8 * bytes) != 0 || p.output % 8 != 0) return 0;
    for (u32 i = thread; i < total / 8; i += threads) {
        uint2 out;
        if (bytes == 1) {
            const uint2 in = reinterpret_cast<const uint2 *>(from)[i];
            out.x = four_of_bytes(p, in.x);
            out.y = four_of_bytes(p, in.y);
        } else {
            const uint4 in = reinterpret_cast<const uint4 *>(from)[i];
            out.x = two_of_words(p, in.x) | two_of_words(p, in.y) << 16;
            out.y = two_of_words(p, in.z) | two_of_words(p, in.w) << 16;
        }
        reinterpret_cast<uint2 *>(p.output)[i] = out;
    }
    return total / 8 * 8;
}

// ---- kernels

// Grid: x shares the pixels of a frame, y the frames. Any grid is right.
extern "C" __global__ void __launch_bounds__(256) render_batch(const FrameParams *frames, int count) {
    const u32 thread = blockIdx.x * blockDim.x + threadIdx.x, threads = gridDim.x * blockDim.x;
    for (int f = static_cast<int>(blockIdx.y); f < count; f += static_cast<int>(gridDim.y)) {
        const FrameParams p = frames[f];
        const u32 total = static_cast<u32>(p.width) * static_cast<u32>(p.height);
        const u32 done = is_plain(p) ? put_plain(p, total, thread, threads) : 0;
        const bool same_size = p.width == p.region_width && p.height == p.region_height;
        for (u32 o = done + thread; o < total; o += threads) {
            const int oy = static_cast<int>(o / static_cast<u32>(p.width));
            const int ox = static_cast<int>(o - static_cast<u32>(oy) * static_cast<u32>(p.width));
            if (p.stage == STORED) put_stored(p, ox, oy, o);
            else if (same_size) put_same_size(p, ox, oy, o);
            else put_scaled(p, ox, oy, o);
        }
    }
}

// Unsigned integers in the order of the numbers they stand for.
BOTH u64 ordered(double value) {
    const u64 bits = to_bits(value);
    return bits >> 63 ? ~bits : bits | 1ull << 63;
}

// Lowest and highest stored value of one frame, padding and NaN left out. result: two words, all ones before: the least
// ordered(value), and the least of its complement; all ones after where nothing is left.
extern "C" __global__ void __launch_bounds__(256) extent_frame(const FrameParams *frame, u64 *result) {
    const FrameParams p = *frame;
    const u64 total = static_cast<u64>(p.rows) * p.columns * p.samples;
    u64 least = ~0ull, greatest = ~0ull;
    for (u64 i = blockIdx.x * blockDim.x + threadIdx.x; i < total; i += gridDim.x * blockDim.x) {
        const double stored = stored_value(p, i);
        if (is_nan(stored) || (p.pad_low <= stored && stored <= p.pad_high)) continue;
        const u64 key = ordered(stored);
        least = key < least ? key : least;
        greatest = ~key < greatest ? ~key : greatest;
    }
    if (least < result[0]) atomicMin(result, least);
    if (greatest < result[1]) atomicMin(result + 1, greatest);
}
