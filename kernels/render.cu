// The kernels: render_batch, stored samples of a batch of frames in, arrays out; extent_batch, their extents;
// unpack_batch and adopt_batch, which make samples of what files and codecs leave. Each is the bit-for-bit twin of NumPy:
// cpu.py, packing.py, adopt.py. What render_batch computes, in short (PS3.3 C.7.6.3, C.11.1, C.11.2; PS3.18 8.3.5):
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
// The records are those of params.py, byte for byte. The host has checked them (check.py): no index computed from one
// leaves the source or the table. The file needs no header; a host build defines GPU_RENDER_HOST and what is CUDA's.
//
// Every kernel: grid x shares the work on one record, y the records; any grid and any block of at most 256 threads is
// right. All threads of a block take the same way to every barrier.

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
    u32 gain;
    int offset, fraction;
    u32 flip, mask;
    u32 pad_first, pad_span;
    u32 invert;
};
static_assert(sizeof(Steps) == 1056, "Steps is params.STEPS");

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
enum Packing { PACKED_BITS, PACKED_BYTE_PLANES, PACKED_BIG_ENDIAN, PACKED_CHROMA_422, PACKED_PLANES };

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

BOTH u32 rgb_of_ybr(int colour, int y, int cb, int cr) {
    cb -= 128;
    cr -= 128;
    if (colour == YBR_FULL) {
        const int luma = y * 1000000;
        return pack(from_millionths(luma + 1402000 * cr), from_millionths(luma - 344136 * cb - 714136 * cr),
                    from_millionths(luma + 1772000 * cb));
    }
    const int luma = (y - 16) * 1164384;
    return pack(from_millionths(luma + 1596027 * cr), from_millionths(luma - 391762 * cb - 812968 * cr),
                from_millionths(luma + 2017232 * cb));
}

BOTH u32 palette_colour(const FrameParams &p, double stored) {
    const u8 *entry = reinterpret_cast<const u8 *>(p.table) + 3ull * table_index(p, stored);
    return pack(entry[0], entry[1], entry[2]);
}

BOTH u32 colour(const FrameParams &p, int x, int y) {
    if (p.colour == PALETTE) return palette_colour(p, stored_value(p, sample_index(p, x, y, 0)));
    const int first = eight_bit(p, x, y, 0), second = eight_bit(p, x, y, 1), third = eight_bit(p, x, y, 2);
    return p.colour == RGB ? pack(first, second, third) : rgb_of_ybr(p.colour, first, second, third);
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

// ---- whole rows of 8- and 16-bit samples: many pixels at a time

// What a block keeps of a frame while it works on it. So much that a multiprocessor's 64 KiB hold four blocks.
const int STAGED_BYTES = 15360;
union Staged {
    Steps steps;
    u8 bytes[STAGED_BYTES];
    u32 words[STAGED_BYTES / 4];
};

struct Three {
    u32 x, y, z;
};

template <class T> BOTH T load(const T *at) { return __ldg(at); }
BOTH Three load(const Three *at) {
    const u32 *words = reinterpret_cast<const u32 *>(at);
    return {__ldg(words), __ldg(words + 1), __ldg(words + 2)};
}

// Where the pixels are, and which of the threads that share the frame this one is.
struct Rows {
    u64 from, to;
    u32 thread, threads;
};

// `count` vectors become as many; the loads of several are under way at a time.
template <class In, class Out, int DEPTH = 2, class Map>
BOTH void map_vectors(const Rows &rows, u32 count, const Map &map) {
    const In *in = reinterpret_cast<const In *>(rows.from);
    Out *out = reinterpret_cast<Out *>(rows.to);
    u32 i = rows.thread;
    for (; i + (DEPTH - 1) * rows.threads < count; i += DEPTH * rows.threads) {
        In loaded[DEPTH];
        for (u32 k = 0; k < DEPTH; ++k) loaded[k] = load(in + i + k * rows.threads);
        for (u32 k = 0; k < DEPTH; ++k) out[i + k * rows.threads] = map(loaded[k]);
    }
    for (; i < count; i += rows.threads) out[i] = map(load(in + i));
}

// The block's threads have left the last frame when render_batch takes the next.
BOTH void stage(Staged &staged, u64 from, u32 bytes) {
    const u32 words = from % 4 == 0 ? bytes / 4 : 0;
    for (u32 i = threadIdx.x; i < words; i += blockDim.x) staged.words[i] = reinterpret_cast<const u32 *>(from)[i];
    for (u32 i = 4 * words + threadIdx.x; i < bytes; i += blockDim.x)
        staged.bytes[i] = reinterpret_cast<const u8 *>(from)[i];
    __syncthreads();
}

// Four bytes to a word; nothing is in the other bytes of each.
BOTH u32 four(u32 a, u32 b, u32 c, u32 d) {
    return __byte_perm(__byte_perm(a, b, 0x0040), __byte_perm(c, d, 0x0040), 0x5410);
}

BOTH Three twelve(u32 a, u32 b, u32 c, u32 d) { return {a | b << 24, b >> 8 | c << 16, c >> 16 | d << 8}; }

// Grey by comparisons of integers (steps.py): an estimate that is right or one too low, and whether the key has reached
// the next grey.
template <bool PADDED> struct GreyOfSteps {
    const Steps &steps;
    const u32 gain, flip, mask, pad_first, pad_span, invert;
    const int offset, fraction;

    __device__ __forceinline__ explicit GreyOfSteps(const Steps &s)
        : steps(s), gain(s.gain), flip(s.flip), mask(s.mask), pad_first(s.pad_first), pad_span(s.pad_span),
          invert(s.invert), offset(s.offset), fraction(s.fraction) {}

    __device__ __forceinline__ u32 estimate(u32 key) const {
        const int grey = (static_cast<int>(__umulhi(key, gain)) + offset) >> fraction;
        return static_cast<u32>(grey < 0 ? 0 : grey > 255 ? 255 : grey);
    }

    __device__ __forceinline__ u32 four_of(u32 first, u32 second) const {
        const u32 pair = (first ^ flip) & mask, other = (second ^ flip) & mask;
        const u32 keys[4] = {pair << 16, pair & 0xffff0000u, other << 16, other & 0xffff0000u};
        const u32 low[4] = {estimate(keys[0]), estimate(keys[1]), estimate(keys[2]), estimate(keys[3])};
        u32 greys = four(low[0], low[1], low[2], low[3]);
        for (int k = 0; k < 4; ++k) greys += (keys[k] >= steps.above[low[k]] ? 1u : 0u) << 8 * k;
        greys ^= invert;
        for (int k = 0; PADDED && k < 4; ++k)
            if (keys[k] - pad_first <= pad_span) greys &= ~(255u << 8 * k);
        return greys;
    }

    __device__ __forceinline__ uint2 operator()(const uint4 &in) const {
        return {four_of(in.x, in.y), four_of(in.z, in.w)};
    }
};

BOTH void put_steps(const FrameParams &p, Staged &staged, const Rows &rows, u32 count) {
    stage(staged, p.steps, sizeof(Steps));
    if (staged.steps.pad_first == ~0u) map_vectors<uint4, uint2, 4>(rows, count, GreyOfSteps<false>(staged.steps));
    else map_vectors<uint4, uint2, 4>(rows, count, GreyOfSteps<true>(staged.steps));
}

// Greys or packed colours of all 256 containers.
template <class T> BOTH void put_bytes_by_table(const FrameParams &p, T *values) {
    for (u32 raw = threadIdx.x; raw < 256; raw += blockDim.x) {
        const double stored = integer_value(p, raw);
        values[raw] = static_cast<T>(p.colour == GREY ? grey(p, stored) : palette_colour(p, stored));
    }
    __syncthreads();
}

struct GreyOfBytes {
    const u8 *greys;
    __device__ __forceinline__ u32 operator()(u32 in) const {
        return four(greys[in & 255], greys[in >> 8 & 255], greys[in >> 16 & 255], greys[in >> 24]);
    }
    __device__ __forceinline__ uint4 operator()(const uint4 &in) const {
        return {(*this)(in.x), (*this)(in.y), (*this)(in.z), (*this)(in.w)};
    }
};

struct ColourOfBytes {
    const u32 *colours;
    __device__ __forceinline__ Three operator()(u32 in) const {
        return twelve(colours[in & 255], colours[in >> 8 & 255], colours[in >> 16 & 255], colours[in >> 24]);
    }
};

// The entry of a table for a 16-bit container; far-off tables are left to table_index().
struct Place {
    const FrameParams &p;
    __device__ __forceinline__ int operator()(int stored) const {
        const int place = stored - p.table_first, last = p.table_length - 1;
        return place < 0 ? 0 : place < last ? place : last;
    }
};

// Padding among integers that a 16-bit container holds.
struct Padding {
    int first;
    u32 span;
    __device__ __forceinline__ explicit Padding(const FrameParams &p) : first(1 << 30), span(0) {
        const double low = ceil(p.pad_low > -40000.0 ? p.pad_low : -40000.0);
        const double high = floor(p.pad_high < 70000.0 ? p.pad_high : 70000.0);
        if (!(p.pad_low <= p.pad_high) || !(low <= high)) return;
        first = static_cast<int>(low);
        span = static_cast<u32>(static_cast<int>(high) - first);
    }
    __device__ __forceinline__ bool holds(int stored) const { return static_cast<u32>(stored - first) <= span; }
};

// Bytes that all threads only read: in shared memory, or in the device's.
struct Near {
    const u8 *bytes;
    __device__ __forceinline__ u32 operator[](u32 i) const { return bytes[i]; }
};
struct Far {
    const u8 *bytes;
    __device__ __forceinline__ u32 operator[](u32 i) const { return __ldg(bytes + i); }
};

template <class Table> struct GreyOfTable {
    const FrameParams &p;
    const Table table;
    const Padding padding;
    const u32 invert;

    __device__ __forceinline__ GreyOfTable(const FrameParams &params, const Table &greys)
        : p(params), table(greys), padding(params), invert(params.invert ? 255 : 0) {}

    __device__ __forceinline__ u32 one(u32 raw) const {
        const int stored = static_cast<int>(field(p, raw));
        const u32 grey = table[Place{p}(stored)] ^ invert;
        return padding.holds(stored) ? 0 : grey;
    }
    __device__ __forceinline__ u32 operator()(const uint2 &in) const {
        return four(one(in.x & 65535), one(in.x >> 16), one(in.y & 65535), one(in.y >> 16));
    }
};

template <class Table> struct ColourOfTable {
    const FrameParams &p;
    const Table table;

    __device__ __forceinline__ u32 one(u32 raw) const {
        const u32 i = 3u * Place{p}(static_cast<int>(field(p, raw)));
        return pack(table[i], table[i + 1], table[i + 2]);
    }
    __device__ __forceinline__ Three operator()(const uint2 &in) const {
        return twelve(one(in.x & 65535), one(in.x >> 16), one(in.y & 65535), one(in.y >> 16));
    }
};

template <class Table> BOTH void put_by_table(const FrameParams &p, const Table &table, const Rows &rows, u32 count) {
    if (p.colour == GREY) map_vectors<uint2, u32>(rows, count, GreyOfTable<Table>(p, table));
    else map_vectors<uint2, Three>(rows, count, ColourOfTable<Table>{p, table});
}

BOTH void put_words_by_table(const FrameParams &p, Staged &staged, const Rows &rows, u32 count) {
    const u32 bytes = static_cast<u32>(p.table_length) * (p.colour == GREY ? 1 : 3);
    if (bytes <= STAGED_BYTES) {
        stage(staged, p.table, bytes);
        put_by_table(p, Near{staged.bytes}, rows, count);
    } else {
        put_by_table(p, Far{reinterpret_cast<const u8 *>(p.table)}, rows, count);
    }
}

struct RgbOfYbr {
    const int colour;
    __device__ __forceinline__ u32 one(u32 ybr) const {
        return rgb_of_ybr(colour, ybr & 255, ybr >> 8 & 255, ybr >> 16 & 255);
    }
    __device__ __forceinline__ Three operator()(const Three &in) const {
        return twelve(one(in.x), one(in.x >> 24 | in.y << 8), one(in.y >> 16 | in.z << 16), one(in.z >> 8));
    }
};

struct Same {
    __device__ __forceinline__ uint4 operator()(const uint4 &in) const { return in; }
};

struct Field16 {
    const FrameParams &p;
    __device__ __forceinline__ u32 two(u32 word) const {
        return (field(p, word & 65535) & 65535) | field(p, word >> 16) << 16;
    }
    __device__ __forceinline__ uint4 operator()(const uint4 &in) const {
        return {two(in.x), two(in.y), two(in.z), two(in.w)};
    }
};

BOTH u32 sample_bytes(const FrameParams &p) {
    return p.sample_format <= I8 ? 1 : p.sample_format <= I16 ? 2 : p.sample_format == F64 ? 8 : 4;
}

// Each of these returns how many pixels, from the first, the threads that share the frame write together.

BOTH u32 put_bytes_whole(const Rows &rows, u64 bytes, u32 bytes_per_pixel) {
    map_vectors<uint4, uint4, 4>(rows, static_cast<u32>(bytes / 16), Same{});
    return static_cast<u32>(bytes / 16 * 16 / bytes_per_pixel);
}

BOTH u32 put_stored_rows(const FrameParams &p, const Rows &rows, u32 total) {
    const u32 size = sample_bytes(p), samples = static_cast<u32>(p.samples);
    const u64 count = static_cast<u64>(total) * samples;
    if (p.bits == static_cast<int>(8 * size)) return put_bytes_whole(rows, count * size, samples * size);
    if (size != 2) return 0;
    map_vectors<uint4, uint4>(rows, static_cast<u32>(count / 8), Field16{p});
    return static_cast<u32>(count / 8 * 8 / samples);
}

BOTH u32 put_colour_rows(const FrameParams &p, const Rows &rows, u32 total) {
    if (p.sample_format > I8 || p.bits != 8) return 0;
    if (p.colour == RGB) return put_bytes_whole(rows, 3ull * total, 3);
    map_vectors<Three, Three>(rows, total / 4, RgbOfYbr{p.colour});
    return total / 4 * 4;
}

BOTH u32 put_grey_or_palette_rows(const FrameParams &p, Staged &staged, const Rows &rows, u32 total) {
    if (p.sample_format <= I8 && p.colour == GREY) {
        put_bytes_by_table(p, staged.bytes);
        map_vectors<uint4, uint4>(rows, total / 16, GreyOfBytes{staged.bytes});
        return total / 16 * 16;
    }
    if (p.sample_format <= I8) {
        put_bytes_by_table(p, staged.words);
        map_vectors<u32, Three>(rows, total / 4, ColourOfBytes{staged.words});
        return total / 4 * 4;
    }
    if (p.steps != 0 && p.curve == RATIO) {
        put_steps(p, staged, rows, total / 8);
        return total / 8 * 8;
    }
    if (p.curve != TABLE || p.table_first < -(1 << 30) || p.table_first > 1 << 30 || p.table_length > 1 << 24) return 0;
    put_words_by_table(p, staged, rows, total / 4);
    return total / 4 * 4;
}

BOTH u32 put_rows(const FrameParams &p, Staged &staged, u32 total, u32 thread, u32 threads) {
    if (p.region_width != p.columns || p.width != p.region_width || p.height != p.region_height) return 0;
    if (p.samples == 3 && p.planar) return 0;
    const u64 above = static_cast<u64>(p.region_y) * p.columns * p.samples * sample_bytes(p);
    const Rows rows = {p.source + above, p.output, thread, threads};
    if (rows.from % 16 != 0 || rows.to % 16 != 0) return 0;
    if (p.stage == STORED) return put_stored_rows(p, rows, total);
    if (p.stage != DISPLAY) return 0;
    if (p.samples == 3) return put_colour_rows(p, rows, total);
    return p.sample_format <= I16 ? put_grey_or_palette_rows(p, staged, rows, total) : 0;
}

// ---- render_batch

// Three blocks on a multiprocessor: with four, ptxas spills for the newest architectures.
extern "C" __global__ void __launch_bounds__(256, 3) render_batch(const FrameParams *frames, int count) {
    __shared__ Staged staged;
    __shared__ FrameParams p;  // not in registers: a thread needs few of its fields at a time
    const u32 thread = blockIdx.x * blockDim.x + threadIdx.x, threads = gridDim.x * blockDim.x;
    for (int f = static_cast<int>(blockIdx.y); f < count; f += static_cast<int>(gridDim.y)) {
        __syncthreads();
        for (u32 i = threadIdx.x; i < sizeof(FrameParams) / 8; i += blockDim.x)
            reinterpret_cast<u64 *>(&p)[i] = reinterpret_cast<const u64 *>(frames + f)[i];
        __syncthreads();
        const u32 total = static_cast<u32>(p.width) * static_cast<u32>(p.height);
        const u32 done = put_rows(p, staged, total, thread, threads);
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

// ---- extent_batch

// Unsigned integers in the order of the numbers they stand for.
BOTH u64 ordered(double value) {
    const u64 bits = to_bits(value);
    return bits >> 63 ? ~bits : bits | 1ull << 63;
}

struct Extent {
    u64 least, complement;  // of ordered(): the lowest number's, and the complement of the highest number's
};

BOTH Extent extent_of_any(const FrameParams &p, u64 total, u32 thread, u32 threads) {
    Extent extent = {~0ull, ~0ull};
    for (u64 i = thread; i < total; i += threads) {
        const double stored = stored_value(p, i);
        if (is_nan(stored) || (p.pad_low <= stored && stored <= p.pad_high)) continue;
        const u64 key = ordered(stored);
        extent.least = key < extent.least ? key : extent.least;
        extent.complement = ~key < extent.complement ? ~key : extent.complement;
    }
    return extent;
}

struct Bounds {
    int low, high;
    __device__ __forceinline__ void add(int value) {
        low = value < low ? value : low;
        high = value > high ? value : high;
    }
};

BOTH void add_two(const FrameParams &p, const Padding &padding, u32 word, Bounds &bounds) {
    const int a = static_cast<int>(field(p, word & 65535)), b = static_cast<int>(field(p, word >> 16));
    if (!padding.holds(a)) bounds.add(a);
    if (!padding.holds(b)) bounds.add(b);
}

// 16-bit containers, by integers.
BOTH Extent extent_of_words(const FrameParams &p, u64 total, u32 thread, u32 threads) {
    const Padding padding(p);
    Bounds bounds = {0x7fffffff, -0x7fffffff};
    const u64 vectors = p.source % 16 == 0 ? total / 8 : 0;
    for (u64 i = thread; i < vectors; i += threads) {
        const uint4 in = load(reinterpret_cast<const uint4 *>(p.source) + i);
        add_two(p, padding, in.x, bounds);
        add_two(p, padding, in.y, bounds);
        add_two(p, padding, in.z, bounds);
        add_two(p, padding, in.w, bounds);
    }
    for (u64 i = 8 * vectors + thread; i < total; i += threads) {
        const int stored = static_cast<int>(field(p, container(p, i)));
        if (!padding.holds(stored)) bounds.add(stored);
    }
    if (bounds.low > bounds.high) return {~0ull, ~0ull};
    return {ordered(bounds.low), ~ordered(bounds.high)};
}

// Lowest and highest stored value of each frame, padding and NaN left out. result: two words a frame, all ones before:
// the least ordered(value), and the least of its complement; all ones after where nothing is left.
extern "C" __global__ void __launch_bounds__(256) extent_batch(const FrameParams *frames, int count, u64 *result) {
    __shared__ u64 least, complement;  // of the block; set and reported by its first thread
    const u32 thread = blockIdx.x * blockDim.x + threadIdx.x, threads = gridDim.x * blockDim.x;
    for (int f = static_cast<int>(blockIdx.y); f < count; f += static_cast<int>(gridDim.y)) {
        const FrameParams p = frames[f];
        const u64 total = static_cast<u64>(p.rows) * p.columns * p.samples;
        const bool words = p.sample_format == U16 || p.sample_format == I16;
        if (threadIdx.x == 0) least = complement = ~0ull;
        __syncthreads();
        const Extent own = words ? extent_of_words(p, total, thread, threads) : extent_of_any(p, total, thread, threads);
        if (own.least < least) atomicMin(&least, own.least);
        if (own.complement < complement) atomicMin(&complement, own.complement);
        __syncthreads();
        if (threadIdx.x == 0) {
            atomicMin(result + 2 * f, least);
            atomicMin(result + 2 * f + 1, complement);
        }
    }
}

// ---- unpack_batch

BOTH u64 bytes_at(const u8 *bytes, u64 first, u64 step, int count) {
    u64 value = 0;
    for (int k = 0; k < count; ++k) value |= static_cast<u64>(bytes[first + step * k]) << 8 * k;
    return value;
}

// Sample number i, of pixel `pixel` and of place c in it, in its lowest bytes.
BOTH u64 packed_sample(const UnpackParams &p, u64 i, u64 pixel, int c) {
    const u8 *bytes = reinterpret_cast<const u8 *>(p.source);
    const u64 size = static_cast<u64>(p.itemsize), pixels = static_cast<u64>(p.rows) * p.columns;
    if (p.packing == PACKED_BITS) return bytes[i / 8] >> (i % 8) & 1;
    if (p.packing == PACKED_BYTE_PLANES)  // from the plane of the lowest byte back
        return bytes_at(bytes, ((c + 1) * size - 1) * pixels + pixel, 0 - pixels, p.itemsize);
    if (p.packing == PACKED_BIG_ENDIAN) return bytes_at(bytes, (i + 1) * size - 1, ~0ull, p.itemsize);
    if (p.packing == PACKED_PLANES) return bytes_at(bytes, (c * pixels + pixel) * size, 1, p.itemsize);
    const u64 place = pixel / 2 * 4 + (c == 0 ? pixel % 2 : c + 1);
    return bytes_at(bytes, place * size, 1, p.itemsize);
}

extern "C" __global__ void __launch_bounds__(256) unpack_batch(const UnpackParams *records, int count) {
    const u64 thread = blockIdx.x * blockDim.x + threadIdx.x, threads = gridDim.x * blockDim.x;
    for (int r = static_cast<int>(blockIdx.y); r < count; r += static_cast<int>(gridDim.y)) {
        const UnpackParams p = records[r];
        const u64 total = static_cast<u64>(p.rows) * p.columns * p.samples;
        for (u64 i = thread; i < total; i += threads) {
            const u64 pixel = p.samples == 1 ? i : i / 3;
            const u64 value = packed_sample(p, i, pixel, p.samples == 1 ? 0 : static_cast<int>(i - 3 * pixel));
            if (p.itemsize == 1) reinterpret_cast<u8 *>(p.output)[i] = static_cast<u8>(value);
            else if (p.itemsize == 2) reinterpret_cast<u16 *>(p.output)[i] = static_cast<u16>(value);
            else if (p.itemsize == 4) reinterpret_cast<u32 *>(p.output)[i] = static_cast<u32>(value);
            else reinterpret_cast<u64 *>(p.output)[i] = value;
        }
    }
}

// ---- adopt_batch

// The lowest 8 or 16 bits, as the format says.
BOTH int as_format(int format, int value) {
    if (format == U8) return value & 0xff;
    if (format == U16) return value & 0xffff;
    return format == I8 ? static_cast<signed char>(value) : static_cast<short>(value);
}

BOTH int narrow_sample(u64 source, int format, u64 i) {
    const int raw = format <= I8 ? reinterpret_cast<const u8 *>(source)[i] : reinterpret_cast<const u16 *>(source)[i];
    return as_format(format, raw);
}

BOTH int adopted(const AdoptParams &p, int value) {
    if (p.sign_bits > 0) {
        const u32 bits = static_cast<u32>(value) & (0xffffffffu >> (32 - p.sign_bits));
        const u32 sign = p.output_format == I8 || p.output_format == I16 ? 1u << (p.sign_bits - 1) : 0u;
        value = static_cast<int>((bits ^ sign) - sign);
    }
    return as_format(p.output_format, value);
}

struct Adopted {
    Bounds values, samples;
    u64 difference;  // least index of a sample that differs from the reference's

    __device__ __forceinline__ void take(const AdoptParams &p, u64 row, u32 x, u64 i) {
        const int value = narrow_sample(p.source + row * p.row_stride, p.source_format, x) + p.offset;
        const int sample = adopted(p, value);
        values.add(value);
        samples.add(sample);
        if (p.output != 0 && p.output_format <= I8) reinterpret_cast<u8 *>(p.output)[i] = static_cast<u8>(sample);
        else if (p.output != 0) reinterpret_cast<u16 *>(p.output)[i] = static_cast<u16>(sample);
        if (p.reference != 0 && i < difference && narrow_sample(p.reference, p.output_format, i) != sample)
            difference = i;
    }
};

// A block without rows has bounds that change nothing.
BOTH void report(u64 *stats, const Bounds &values, const Bounds &samples) {
    atomicMin(stats, ordered(values.low));
    atomicMin(stats + 1, ~ordered(values.high));
    atomicMin(stats + 3, ordered(samples.low));
    atomicMin(stats + 4, ~ordered(samples.high));
}

// See adopt.py. Blocks take rows.
extern "C" __global__ void __launch_bounds__(256) adopt_batch(const AdoptParams *records, int count) {
    __shared__ Bounds values, samples;  // of the block; set and reported by its first thread
    for (int r = static_cast<int>(blockIdx.y); r < count; r += static_cast<int>(gridDim.y)) {
        const AdoptParams p = records[r];
        const u32 length = static_cast<u32>(p.columns) * static_cast<u32>(p.samples);
        u64 *stats = reinterpret_cast<u64 *>(p.stats);
        if (threadIdx.x == 0) values = samples = {0x7fffffff, -0x7fffffff};
        __syncthreads();
        Adopted own = {{0x7fffffff, -0x7fffffff}, {0x7fffffff, -0x7fffffff}, ~0ull};
        for (u64 row = blockIdx.x; row < static_cast<u64>(p.rows); row += gridDim.x)
            for (u32 x = threadIdx.x; x < length; x += blockDim.x) own.take(p, row, x, row * length + x);
        atomicMin(&values.low, own.values.low);
        atomicMax(&values.high, own.values.high);
        atomicMin(&samples.low, own.samples.low);
        atomicMax(&samples.high, own.samples.high);
        if (own.difference != ~0ull) atomicMin(stats + 2, own.difference);
        __syncthreads();
        if (threadIdx.x == 0) report(stats, values, samples);
    }
}
