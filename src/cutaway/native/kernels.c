/* The forward of a decoder on a processor, as a list of operations that all threads walk through together.

   Shapes: M rows (tokens read at once, of one text or of many), N rows and K columns of a matrix, H heads, G key-value
   heads, E head width, S slots of a cache. A panel is 16 rows of a matrix, or 16 keys.

   Every thread runs the whole list; inside an operation the threads share the work, after it they wait for each other.
   Nothing is allocated while it runs but what a thread keeps for itself the first time. No header of PyTorch is needed:
   Python hands over addresses (native/program.py mirrors the structs below). */

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define EACH(n) _Pragma("GCC unroll 32") for (int64_t n
#define AHEAD 4096 /* bytes: what is read next, and lies in order, is sent for */
#define PANEL 16
#define GROUP 32   /* weights, or inputs, that share a scale */
#define TILE 6     /* rows of a tile: inputs that meet weights together */
#define ROWS8 (2 * PANEL + PANEL * GROUP)     /* bytes of a panel's group: 16 half-precision scales, then 8-bit weights */
#define ROWS4 (2 * PANEL + PANEL * GROUP / 2) /* the same with two weights in a byte */

/* LANES: numbers of a vector, which is what one register holds: arrays of wider ones gcc keeps in memory.
   SIDE: vectors of inputs, lying side by side, that meet STREAMS rows of a float matrix together. */
#if defined(__AVX512BW__)
enum { LANES = 16, REGISTERS = 32, SIDE = 3, STREAMS = 8 };
#elif defined(__AVX2__)
enum { LANES = 8, REGISTERS = 16, SIDE = 3, STREAMS = 4 };
#elif defined(__aarch64__)
enum { LANES = 4, REGISTERS = 32, SIDE = 4, STREAMS = 4 };
#else
enum { LANES = 4, REGISTERS = 16, SIDE = 4, STREAMS = 2 };
#endif
/* MANY: rows of a float matrix, of KEPT bytes at most, that meet inputs across. BESIDE: inputs that meet ABOVE rows of it at
   a time along them, in parts of which the inputs take NEAR bytes; SOME rows are one piece of work.
   SUMS: of a tile, beside as many that were found before. QUERIES: that meet keys and values together. */
enum { ABREAST = SIDE * LANES, MANY = 64, KEPT = 1 << 19, BESIDE = 8, ABOVE = 3, SOME = 24, NEAR = 3 << 13 };
enum { SUMS = 12, QUERIES = REGISTERS == 32 ? 6 : 4 };

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t bits __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int16_t words __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef uint16_t shorts __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef int8_t codes __attribute__((vector_size(LANES), aligned(1), may_alias));
#if defined(__AVX512BW__) /* a register of whole numbers, and what is done with it */
typedef __m512i raw;
#define OF(name) _mm512_##name
#elif defined(__AVX2__)
typedef __m256i raw;
#define OF(name) _mm256_##name
#endif

/* ------------------------------------------------------------------ what Python fills in */

enum { FLOAT32, BFLOAT16, INT8, INT4 };
enum { NO_NORM, LAYER_NORM, RMS_NORM };
enum { IDENTITY, GELU, GELU_TANH, RELU, SILU, TANH };
enum { EMBED, NORM, LINEAR, ATTEND };
enum { FLOATS, HALVES, CODES };

typedef struct {
    const void *data;  /* float matrices (N, K) as they lie; the others in panels */
    const float *bias; /* (N,), or null */
    float *out;        /* (M, N) */
    int64_t kind, rows, columns;
} Matrix;

typedef struct {
    const float *weight, *bias;
    int64_t kind;
    double eps;
} Norm;

typedef struct {
    float *q, *k, *v, *z;    /* (M, H E), (M, G E) twice, (M, H E) */
    void *keys, *values;     /* caches: sequences x G x (S / 16, E, 16), and x (S, E), as `cache` says */
    float *key_scales, *value_scales; /* of CODES: sequences x G x S */
    const float *cos, *sin;  /* (positions, rotated / 2) */
    const float *relative;   /* (H, S): what a distance adds to a score, or null */
    const int32_t *lengths;  /* cross-attention: how many keys each memory has; else null */
    Norm q_norm, k_norm;
    int64_t heads, kv_heads, width, rotated, slots, window, whole_norm;
    int64_t memories;        /* of cross-attention: one for each sequence, or one for all */
    int64_t cache;           /* FLOATS; HALVES, in float16; CODES, in 8 bits with a scale for each key, each value */
    double scale, softcap;
} Attention;

typedef struct {
    int64_t code;
    const float *in; /* (M, width) */
    int64_t width;
    Norm norm;       /* LINEAR: its inputs are normalised first; NORM: the thing itself */
    Matrix matrix[3];
    int64_t matrices, activation, gated, add, picked;
    int64_t exact;   /* inputs of quantised matrices stay as they are */
    double scale, softcap;
    const float *table; /* EMBED: vectors of positions (positions, width), or null */
    int64_t offset;
    Attention attention;
} Op;

typedef struct {
    int64_t rows, wanted, prompts;              /* the first rows are prompts' */
    const int32_t *ids, *positions, *sequences; /* (M,) */
    const int32_t *picked;                      /* (wanted,): the rows that a picking operation reads */
    float *floats;                              /* shared by the threads: (M, K) */
    int8_t *bytes;                              /* (M, K) */
    float *scales;                              /* (M, K / 32) */
    int32_t *sums;                              /* (M, K / 32) */
    int64_t scratch;                            /* bytes each thread needs for itself */
} Batch;

/* ------------------------------------------------------------------ threads */

/* How much of a thread's share of an operation is begun; a cache line for each. */
typedef struct {
    atomic_int begun;
    char apart[60];
} Share;

typedef struct {
    int threads;
    pthread_t *others;
    atomic_int run, arrived, crossed, asleep;
    Share *shares[2]; /* of each thread: in use while the other waits at nought */
    const Op *ops;
    int64_t count;
    const Batch *batch;
    char **scratch;
    int64_t *room;
} Pool;

/* Wait until `*at` is no longer `old`: a moment awake, then giving way to whoever else wants this core (the one waited
   for, where others keep the other cores busy), then asleep. */
static void wait(Pool *pool, atomic_int *at, int old) {
    for (int turns = 0; turns < 2000; turns++) {
        if (atomic_load_explicit(at, memory_order_acquire) != old) return;
        if (turns >= 200 && turns % 20 == 0) sched_yield();
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
    atomic_fetch_add(&pool->asleep, 1);
    while (atomic_load(at) == old) {
#if defined(__linux__)
        syscall(SYS_futex, at, FUTEX_WAIT_PRIVATE, old, (void *)0, (void *)0, 0);
#else
        nanosleep(&(struct timespec){0, 50000}, 0);
#endif
    }
    atomic_fetch_sub(&pool->asleep, 1);
}

static void change(Pool *pool, atomic_int *at) {
    atomic_fetch_add(at, 1);
#if defined(__linux__)
    if (atomic_load(&pool->asleep)) syscall(SYS_futex, at, FUTEX_WAKE_PRIVATE, INT32_MAX, (void *)0, (void *)0, 0);
#else
    (void)pool;
#endif
}

typedef struct {
    Pool *pool;
    const Batch *batch;
    int thread, side, helped; /* helped: threads whose shares of this work are all begun */
    char *scratch;
} Thread;

/* Everybody has arrived. */
static void meet(Thread *me) {
    Pool *pool = me->pool;
    int crossed = atomic_load_explicit(&pool->crossed, memory_order_acquire);
    if (atomic_fetch_add_explicit(&pool->arrived, 1, memory_order_acq_rel) == pool->threads - 1) {
        atomic_store_explicit(&pool->arrived, 0, memory_order_relaxed);
        change(pool, &pool->crossed);
    } else
        wait(pool, &pool->crossed, crossed);
    atomic_store_explicit(&pool->shares[me->side][me->thread].begun, 0, memory_order_relaxed);
    me->side ^= 1, me->helped = 0;
}

/* The next of `all` pieces of work, or `all` when each is begun: of the thread's own share, whose pieces lie one after
   the other as memory is read the fastest, then of the shares of those that are late. */
INLINE int64_t take(Thread *me, int64_t all) {
    int threads = me->pool->threads;
    for (; me->helped < threads; me->helped++) {
        int whose = (me->thread + me->helped) % threads;
        atomic_int *begun = &me->pool->shares[me->side][whose].begun;
        int64_t first = all * whose / threads, count = all * (whose + 1) / threads - first;
        if (atomic_load_explicit(begun, memory_order_relaxed) >= count) continue;
        int64_t piece = atomic_fetch_add_explicit(begun, 1, memory_order_relaxed);
        if (piece < count) return first + piece;
    }
    return all;
}

/* ------------------------------------------------------------------ vectors */

INLINE vec load(const float *x) { return *(const vec *)x; }
INLINE void store(float *x, vec v) { *(vec *)x = v; }
INLINE vec splat(float x) { return x - (vec){0}; }
INLINE vec choose(ints mask, vec a, vec b) { return (vec)((mask & (ints)a) | (~mask & (ints)b)); }
/* Where one of them is NaN, it is b. */
INLINE vec most(vec a, vec b) {
#if defined(__AVX512BW__)
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return choose(a > b, a, b);
#endif
}

INLINE float total(vec v) {
#if defined(__AVX512BW__)
    return _mm512_reduce_add_ps((__m512)v);
#else
    float x[LANES];
    store(x, v);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) x[i] += x[i + half];
    return x[0];
#endif
}

INLINE float maximum(vec v) {
#if defined(__AVX512BW__)
    return _mm512_reduce_max_ps((__m512)v);
#else
    float x[LANES];
    store(x, v);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) x[i] = x[i] > x[i + half] ? x[i] : x[i + half];
    return x[0];
#endif
}

/* The numbers of two vectors in turn, of their lower halves or their upper. */
INLINE vec interleaved(vec a, vec b, int upper) {
#if defined(__AVX512BW__)
    const ints from = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
    return (vec)_mm512_permutex2var_ps((__m512)a, (__m512i)(from + (upper ? LANES / 2 : 0)), (__m512)b);
#elif defined(__AVX2__)
    __m256 low = _mm256_unpacklo_ps((__m256)a, (__m256)b), high = _mm256_unpackhi_ps((__m256)a, (__m256)b);
    return (vec)(upper ? _mm256_permute2f128_ps(low, high, 0x31) : _mm256_permute2f128_ps(low, high, 0x20));
#else
    vec v;
    EACH(i) = 0; i < LANES; i++) v[i] = (i % 2 ? b : a)[i / 2 + upper * LANES / 2];
    return v;
#endif
}

INLINE int32_t sum_of(ints v) {
#if defined(__AVX512BW__)
    return _mm512_reduce_add_epi32((__m512i)v);
#else
    int32_t sum = 0;
    for (int i = 0; i < LANES; i++) sum += v[i];
    return sum;
#endif
}

/* e^x: 2^n by the exponent's bits, the rest by a polynomial (Cephes' expf); 0 far below, NaN stays NaN. */
INLINE vec exponential(vec x) {
    const vec magic = splat(12582912.f); /* 1.5 * 2^23: adding it rounds to a whole number */
#if defined(__AVX512BW__)
    __mmask16 near = _mm512_cmp_ps_mask((__m512)x, (__m512)splat(-87.f), _CMP_NLT_UQ); /* or it is NaN, and stays that */
    vec y = (vec)_mm512_min_ps((__m512)splat(88.f), (__m512)x);
#else
    vec y = choose(x > 88.f, splat(88.f), x);
#endif
    vec n = y * 1.44269504088896341f + magic;
#if !defined(__AVX512BW__)
    ints whole = (ints)n - (ints)magic;
#endif
    n = n - magic;
    vec r = y - n * 0.693359375f + n * 2.12194440e-4f;
    vec p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.f;
#if defined(__AVX512BW__)
    return (vec)_mm512_maskz_scalef_ps(near, (__m512)p, (__m512)n); /* too small a number takes Intel's a hundred steps */
#else
    vec found = choose(x < -87.f, splat(0), (vec)((ints)p + (whole << 23)));
    return choose(x == x, found, x);
#endif
}

INLINE vec tangent(vec x) {
    vec y = choose(x < 0, -x, x);
    vec square = x * x;
    vec far = 1.f - 2.f / (exponential(2.f * y) + 1.f);
    /* Near nought the difference of two ones would leave nothing (Cephes' tanhf). */
    vec near = splat(-5.70498872745e-3f);
    near = near * square + 2.06390887954e-2f;
    near = near * square - 5.37397155531e-2f;
    near = near * square + 1.33314422036e-1f;
    near = near * square - 3.33332819422e-1f;
    near = near * square * y + y;
    vec both = choose(y < 0.625f, near, far);
    return choose(x < 0, -both, both);
}

/* The error function as a quotient of polynomials on [-4, 4] (Eigen's). */
INLINE vec error_function(vec x) {
    x = choose(x > 4.f, splat(4.f), choose(x < -4.f, splat(-4.f), x));
    vec s = x * x;
    vec p = splat(-2.72614225801306e-10f);
    p = p * s + 2.77068142495902e-08f;
    p = p * s - 2.10102402082508e-06f;
    p = p * s - 5.69250639462346e-05f;
    p = p * s - 7.34990630326855e-04f;
    p = p * s - 2.95459980854025e-03f;
    p = p * s - 1.60960333262415e-02f;
    vec q = splat(-1.45660718464996e-05f);
    q = q * s - 2.13374055278905e-04f;
    q = q * s - 1.68282697438203e-03f;
    q = q * s - 7.37332916720468e-03f;
    q = q * s - 1.42647390514189e-02f;
    return x * p / q;
}

INLINE vec activate(int64_t activation, vec x) {
    switch (activation) {
    case GELU: return 0.5f * x * (1.f + error_function(x * 0.70710678118654752f));
    case GELU_TANH: /* (1 + tanh u) / 2 is 1 / (1 + e^-2u) */
        return x / (1.f + exponential(-1.59576912160573071f * (x + 0.044715f * x * x * x)));
    case RELU: return choose(x > 0, x, choose(x == x, splat(0), x));
    case SILU: return x / (1.f + exponential(-x));
    case TANH: return tangent(x);
    default: return x;
    }
}

/* ------------------------------------------------------------------ rows of numbers */

static void normalise(const Norm *norm, const float *x, float *y, int64_t width) {
    double mean = 0, square = 0;
    int64_t full = width / LANES * LANES;
    if (norm->kind == LAYER_NORM) {
        vec sum = {0};
        for (int64_t i = 0; i < full; i += LANES) sum += load(x + i);
        mean = total(sum);
        for (int64_t i = full; i < width; i++) mean += x[i];
        mean /= width;
    }
    float middle = mean;
    vec squares = {0};
    for (int64_t i = 0; i < full; i += LANES) {
        vec d = load(x + i) - middle;
        squares += d * d;
    }
    square = total(squares);
    for (int64_t i = full; i < width; i++) square += (x[i] - middle) * (x[i] - middle);
    float by = 1.0 / sqrt(square / width + norm->eps);
    for (int64_t i = 0; i < width; i++) y[i] = (x[i] - middle) * by * norm->weight[i];
    if (norm->bias)
        for (int64_t i = 0; i < width; i++) y[i] += norm->bias[i];
}

/* float16 is the upper bits of a float whose exponent is 112 less: gcc before 12 has no name for it on every machine. */
INLINE vec load_half(const uint16_t *at) {
#if defined(__AVX512BW__)
    return (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)at));
#elif defined(__AVX2__) && defined(__F16C__)
    return (vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)at));
#else
    bits held = __builtin_convertvector(*(const shorts *)at, bits), size = held & 0x7fffu;
    bits v = (bits)((vec)(size << 13u) * 0x1p112f) | ((bits)(size >= 0x7c00u) & 0x7f800000u); /* infinite, and NaN */
    return (vec)(v | (held & 0x8000u) << 16u);
#endif
}

INLINE float half_at(const uint16_t *at) {
    uint16_t alone[LANES] = {*at};
    return load_half(alone)[0];
}

/* What float16 cannot hold becomes the largest that it can. */
INLINE void store_half(uint16_t *at, vec v) {
    v = choose(v > 65504.f, splat(65504.f), choose(v < -65504.f, splat(-65504.f), v));
#if defined(__AVX512BW__)
    _mm256_storeu_si256((__m256i *)at, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__AVX2__) && defined(__F16C__)
    _mm_storeu_si128((__m128i *)at, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
    bits held = (bits)v, size = held & 0x7fffffffu;
    bits large = (size - (112u << 23) + 0xfffu + (size >> 13u & 1u)) >> 13u; /* to the nearest, of two to the even one */
    bits small = (bits)((vec)size + 0.5f) - 0x3f000000u;                     /* its lowest bit counts as float16's */
    bits found = (bits)choose((ints)(size < 113u << 23), (vec)small, (vec)large);
    found = (bits)choose((ints)(size > 0x7f800000u), (vec)((bits){0} + 0x7e00u), (vec)found);
    *(shorts *)at = __builtin_convertvector(found | (held >> 16u & 0x8000u), shorts);
#endif
}

INLINE vec load_codes(const int8_t *at) {
#if defined(__AVX512BW__)
    return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)at)));
#elif defined(__AVX2__)
    return (vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)at)));
#else /* step by step, or gcc does it number by number */
    return __builtin_convertvector(__builtin_convertvector(__builtin_convertvector(*(const codes *)at, words), ints), vec);
#endif
}

/* Whole numbers of at most 8 bits. */
INLINE void store_codes(int8_t *at, ints v) {
#if defined(__AVX512BW__)
    _mm_storeu_si128((__m128i *)at, _mm512_cvtsepi32_epi8((__m512i)v));
#elif defined(__AVX2__)
    __m256i both = (__m256i)v;
    __m128i half = _mm_packs_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
    _mm_storel_epi64((__m128i *)at, _mm_packs_epi16(half, half));
#else
    *(codes *)at = __builtin_convertvector(__builtin_convertvector(v, words), codes);
#endif
}

/* To whole numbers: adding 1.5 * 2^23 rounds, and leaves them in the lowest bits. */
INLINE ints rounded(vec v) {
    const vec magic = splat(12582912.f);
    return (ints)(v + magic) - (ints)magic;
}

/* A row in 8 bits, each 32 numbers with a scale of their own; and what to add for weights that are kept `off` by that
   much, to be unsigned: as many times less the sum of the inputs. */
static void quantise(const float *x, int64_t width, int32_t off, int8_t *q, float *scales, int32_t *sums) {
    for (int64_t g = 0; g * GROUP < width; g++, x += GROUP, q += GROUP) {
        float padded[GROUP] = {0};
        const float *from = x;
        if ((g + 1) * GROUP > width) {
            memcpy(padded, x, sizeof(float) * (width - g * GROUP));
            from = padded;
        }
        vec v[GROUP / LANES], top = splat(0), nothing = splat(0);
        EACH(i) = 0; i < GROUP / LANES; i++) {
            v[i] = load(from + i * LANES);
            top = most(most(v[i], -v[i]), top);
            nothing += v[i] - v[i]; /* NaN where one of them is, or is infinite: it must not get lost */
        }
        float largest = maximum(top);
        vec by = splat(largest > 0 ? 127.f / largest : 0);
        ints sum = {0};
        EACH(i) = 0; i < GROUP / LANES; i++) {
            ints whole = rounded(v[i] * by);
            store_codes(q + i * LANES, whole);
            sum += whole;
        }
        scales[g] = largest / 127.f + total(nothing);
        sums[g] = -off * sum_of(sum);
    }
}

/* A vector from `i` on of a cache, and one number: those in 8 bits without their scales. */
INLINE vec kept(int cache, const void *at, int64_t i) {
    if (cache == CODES) return load_codes((const int8_t *)at + i);
    return cache == HALVES ? load_half((const uint16_t *)at + i) : load((const float *)at + i);
}

INLINE void send_for(const void *at, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char *)at + i);
}

INLINE int64_t kept_bytes(int cache) { return cache == FLOATS ? 4 : cache == HALVES ? 2 : 1; }

INLINE float kept_one(int cache, const void *at, int64_t i) {
    if (cache == CODES) return ((const int8_t *)at)[i];
    return cache == HALVES ? half_at((const uint16_t *)at + i) : ((const float *)at)[i];
}

/* Numbers in 8 bits, by the largest of them: the scale, NaN where one of them is, or is infinite. Nought follows them
   up to a whole vector. `quantise` is not made of it: to sum what has been stored costs 5 % of reading a prompt. */
static float encode(const float *x, int64_t width, int8_t *to) {
    vec top = splat(0), nothing = splat(0);
    for (int64_t i = 0; i < width; i += LANES) {
        vec v = load(x + i);
        top = most(most(v, -v), top);
        nothing += v - v;
    }
    float largest = maximum(top), by = largest > 0 ? 127.f / largest : 0;
    for (int64_t i = 0; i < width; i += LANES) store_codes(to + i, rounded(load(x + i) * by));
    return largest / 127.f + total(nothing);
}

/* A vector of a row, and one number of it; bfloat16 is the upper half of a float. */
INLINE vec weights_at(int kind, const char *row, int64_t k) {
    if (kind == FLOAT32) return load((const float *)row + k);
    return (vec)(__builtin_convertvector(*(const shorts *)((const uint16_t *)row + k), bits) << 16u);
}

INLINE float weight_at(int kind, const char *row, int64_t k) {
    if (kind == FLOAT32) return ((const float *)row)[k];
    union { uint32_t i; float f; } u = {(uint32_t)((const uint16_t *)row)[k] << 16};
    return u.f;
}

/* Where the processor multiplies bfloat16 itself, what of a prompt meets a matrix of it is rounded to it too, to even; what
   is found stays float32. AMD's do, since Zen 4, twice as fast as floats. Intel's can, but take twice as long for it. */
INLINE int halved(void) {
#if !defined(__AVX512BF16__) || !defined(__AVX512BW__)
    return 0;
#elif defined(HALVED) /* as the compiler is told */
    return HALVED;
#else
    __builtin_cpu_init();
    return __builtin_cpu_is("amd");
#endif
}

void cutaway_halve(const float *x, float *out, int64_t width) {
    for (int64_t k = 0; k < width; k++) {
        union { float f; uint32_t i; } u = {x[k]};
        u.i = x[k] == x[k] ? (u.i + 0x7fffu + (u.i >> 16 & 1)) & 0xffff0000u : 0x7fc00000u;
        out[k] = u.f;
    }
}

/* Of a panel's group of a quantised matrix. */
INLINE int64_t group_bytes(int64_t kind) { return kind == INT8 ? ROWS8 : ROWS4; }

/* Row `row` of a matrix as floats, whatever it is kept in. */
static void dequantise(const Matrix *matrix, int64_t row, float *out) {
    int64_t width = matrix->columns, groups = (width + GROUP - 1) / GROUP, lane = row % PANEL;
    if (matrix->kind == FLOAT32) {
        memcpy(out, (const float *)matrix->data + row * width, width * sizeof(float));
        return;
    }
    if (matrix->kind == BFLOAT16) {
        const char *from = (const char *)matrix->data + row * width * 2;
        int64_t k = 0;
        for (; k + LANES <= width; k += LANES) store(out + k, weights_at(BFLOAT16, from, k));
        for (; k < width; k++) out[k] = weight_at(BFLOAT16, from, k);
        return;
    }
    int64_t bytes = group_bytes(matrix->kind);
    const uint8_t *group = (const uint8_t *)matrix->data + row / PANEL * groups * bytes;
    for (int64_t g = 0; g < groups; g++, group += bytes) {
        float scale = half_at((const uint16_t *)group + lane);
        const uint8_t *from = group + 2 * PANEL;
        for (int64_t i = 0; i < GROUP && g * GROUP + i < width; i++) {
            if (matrix->kind == INT8) out[g * GROUP + i] = scale * (from[i / 4 * 64 + lane * 4 + i % 4] - 128);
            else {
                uint8_t two = from[i / 8 * 64 + lane * 4 + i % 4];
                out[g * GROUP + i] = scale * ((i % 8 < 4 ? two & 15 : two >> 4) - 8);
            }
        }
    }
}

/* ------------------------------------------------------------------ products */

/* Four weights of each row (unsigned bytes; SIGNED ones where they are off by nought) with the same four inputs (signed
   bytes), added to a sum of 32 bits. Where no instruction does that the sums are PAIRS of 16 bits: those of weights in 4
   bits hold a group (32 products of 15 and 127 in two sums), and weights in 8 bits are two times 4 bits. */
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
enum { PAIRS = 0, SIGNED = 0 };
INLINE ints dot(ints sum, ints weights, int32_t inputs) {
    return (ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)weights, _mm512_set1_epi32(inputs));
}
#elif defined(__AVXVNNI__) && !defined(__AVX512BW__)
enum { PAIRS = 0, SIGNED = 0 };
INLINE ints dot(ints sum, ints weights, int32_t inputs) {
    return (ints)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)weights, _mm256_set1_epi32(inputs));
}
#elif defined(__AVX2__)
enum { PAIRS = 1, SIGNED = 0 };
INLINE ints dot(ints sum, ints weights, int32_t inputs) {
    raw found = OF(add_epi16)((raw)sum, OF(maddubs_epi16)((raw)weights, OF(set1_epi32)(inputs)));
    __asm__("" : "+v"(found)); /* or gcc sums in another order, in more registers than there are */
    return (ints)found;
}
#elif defined(__ARM_FEATURE_DOTPROD)
enum { PAIRS = 0, SIGNED = 1 };
INLINE ints dot(ints sum, ints weights, int32_t inputs) {
    return (ints)vdotq_s32((int32x4_t)sum, (int8x16_t)weights, vreinterpretq_s8_s32(vdupq_n_s32(inputs)));
}
#else
enum { PAIRS = 0, SIGNED = 0 };
INLINE ints dot(ints sum, ints weights, int32_t inputs) {
    EACH(i) = 0; i < 4; i++) sum += (ints)((bits)weights >> (uint32_t)(8 * i) & 255u) * (int32_t)(int8_t)(inputs >> (8 * i));
    return sum;
}
#endif

/* Pairs as sums of 32 bits, times `by`. */
INLINE ints paired(ints sum, int16_t by) {
#if defined(__AVX2__)
    return (ints)OF(madd_epi16)((raw)sum, OF(set1_epi16)(by));
#else
    return sum * by;
#endif
}

INLINE int32_t four(const int8_t *x) {
    int32_t inputs;
    memcpy(&inputs, x, 4);
    return inputs;
}

/* `rows` quantised inputs with the rows of a matrix that one vector holds, or two, from row `lane` of a panel on: out
   (rows, vecs). Both counts are constants where it is called. Where a vector holds a panel, the next is `stride` away. */
INLINE void tile(int rows, int vecs, int kind, const uint8_t *panel, int64_t stride, int64_t lane, int64_t groups,
                 const int8_t *x, const float *scales, const int32_t *sums, int64_t x_stride, float *out, int64_t out_stride) {
    if (LANES == PANEL) lane = 0;
    const int64_t next = LANES == PANEL ? stride : 4 * LANES, next_scales = LANES == PANEL ? stride : 2 * LANES;
    const int lines = kind == INT8 ? GROUP / 4 : GROUP / 8; /* of four bytes for each row */
    const int parts = kind == INT8 && !PAIRS ? 1 : 2;       /* of a line: its bytes, or their lower and their upper bits */
    const int apart = kind == INT8 && PAIRS, count = rows * vecs; /* parts have sums of their own */
    vec found[12]; /* of a fixed size, or the compiler does not keep them in registers */
    EACH(i) = 0; i < count; i++) found[i] = splat(0);
    for (int64_t g = 0; g < groups; g++) {
        ints sum[24];
        const uint8_t *w = panel + g * group_bytes(kind) + 2 * PANEL + 4 * lane;
        const int8_t *its = x + g * GROUP;
        EACH(m) = 0; m < rows; m++) EACH(v) = 0; v < vecs; v++) sum[m * vecs + v] = (ints){0} + (PAIRS ? 0 : sums[m * groups + g]);
        if (apart) EACH(i) = 0; i < count; i++) sum[count + i] = (ints){0};
        EACH(c) = 0; c < lines; c++) {
            ints part[2][2];
            if (vecs * LANES <= PANEL) __builtin_prefetch(w + 64 * c + 2 * AHEAD);
            EACH(v) = 0; v < vecs; v++) {
                bits line = *(const bits *)(w + v * next + 64 * c);
                if (parts == 2) part[0][v] = (ints)(line & 0x0f0f0f0fu), part[1][v] = (ints)(line >> 4u & 0x0f0f0f0fu);
                else part[0][v] = (ints)(line ^ (SIGNED ? 0x80808080u : 0u));
            }
            EACH(i) = 0; i < parts * count; i++) { /* sum after sum in pairs, else part after part: the fewest registers */
                const int64_t h = PAIRS ? i % parts : i / count, at = PAIRS ? i / parts : i % count;
                ints *to = &sum[(apart ? h * count : 0) + at];
                *to = dot(*to, part[h][at % vecs], four(its + at / vecs * x_stride + (kind == INT8 ? 4 * c : 8 * c + 4 * h)));
            }
        }
        EACH(v) = 0; v < vecs; v++) {
            vec scale = load_half((const uint16_t *)(w - 2 * PANEL - 2 * lane + v * next_scales));
            EACH(m) = 0; m < rows; m++) {
                ints whole = sum[m * vecs + v];
                if (PAIRS) whole = paired(whole, 1) + sums[m * groups + g];
                if (apart) whole += paired(sum[count + m * vecs + v], 16);
                found[m * vecs + v] += __builtin_convertvector(whole, vec) * (scale * scales[m * groups + g]);
            }
        }
    }
    EACH(m) = 0; m < rows; m++) EACH(v) = 0; v < vecs; v++) store(out + m * out_stride + v * LANES, found[m * vecs + v]);
}

/* `rows` inputs as they are with a panel of quantised weights: out (rows, 16). */
INLINE void exact_tile(int rows, int kind, const uint8_t *panel, int64_t groups, const float *inputs, int64_t x_stride,
                       float *out, int64_t out_stride) {
    for (int64_t lane = 0; lane < PANEL; lane += LANES) {
        const uint8_t *w = panel;
        const float *x = inputs;
        vec found[12];
        EACH(m) = 0; m < rows; m++) found[m] = splat(0);
        for (int64_t g = 0; g < groups; g++, w += group_bytes(kind), x += GROUP) {
            vec sum[12], scale = load_half((const uint16_t *)w + lane);
            EACH(m) = 0; m < rows; m++) sum[m] = splat(0);
            for (int64_t k = 0; k < GROUP; k++) { /* four columns, or eight, lie together: 64 bytes */
                bits line = *(const bits *)(w + 2 * PANEL + 64 * (kind == INT8 ? k / 4 : k / 8) + 4 * lane);
                ints code = (ints)(line >> (uint32_t)(8 * (k % 4) + (kind == INT8 || k % 8 < 4 ? 0 : 4)));
                code = kind == INT8 ? (code & 255) - 128 : (code & 15) - 8;
                vec weight = __builtin_convertvector(code, vec);
                EACH(m) = 0; m < rows; m++) sum[m] += weight * x[m * x_stride + k];
            }
            EACH(m) = 0; m < rows; m++) found[m] += sum[m] * scale;
        }
        EACH(m) = 0; m < rows; m++) store(out + m * out_stride + lane, found[m]);
    }
}

static void exact(int64_t rows, int kind, const uint8_t *w, int64_t groups, const float *x, int64_t x_stride, float *out,
                  int64_t out_stride) {
#define EXACT(r)                                                                                                       \
    case r:                                                                                                            \
        if (kind == INT8) exact_tile(r, INT8, w, groups, x, x_stride, out, out_stride);                                \
        else exact_tile(r, INT4, w, groups, x, x_stride, out, out_stride);                                             \
        break;
    switch (rows) { EXACT(1) EXACT(4) EXACT(12) }
}

/* Two panels of 4-bit weights as 8-bit ones, for many inputs to come: off by 128 then. */
static void widen(const uint8_t *w, uint8_t *wide, int64_t groups) {
    for (int64_t g = 0; g < groups; g++, w += ROWS4, wide += ROWS8) {
        memcpy(wide, w, 2 * PANEL);
        for (int c = 0; c < GROUP / 8; c++)
            EACH(lane) = 0; lane < PANEL; lane += LANES) {
                bits two = *(const bits *)(w + 2 * PANEL + 64 * c + 4 * lane);
                *(bits *)(wide + 2 * PANEL + 128 * c + 4 * lane) = (two & 0x0f0f0f0fu) + 0x78787878u;
                *(bits *)(wide + 2 * PANEL + 128 * c + 64 + 4 * lane) = (two >> 4u & 0x0f0f0f0fu) + 0x78787878u;
            }
    }
}

/* Columns [from, to) of a few inputs with `count` rows of a float matrix, along the rows: out (rows, count), to which is
   added where `from` is not nought. What comes later is sent for: whole rows in the order in which they lie from `next` on,
   of parts of rows those that lie as these do. */
INLINE void along(int rows, int count, int kind, const char *w, const char *next, int64_t columns, int64_t from, int64_t to,
                  const float *x, int64_t x_stride, float *out, int64_t out_stride) {
    vec sum[ABOVE * BESIDE];
    int64_t size = kind == FLOAT32 ? 4 : 2, bytes = columns * size, full = from + (to - from) / LANES * LANES;
    EACH(i) = 0; i < rows * count; i++) sum[i] = splat(0);
    for (int64_t k = from; k < full; k += LANES) {
        vec weights[ABOVE];
        EACH(n) = 0; n < count; n++) {
            int64_t at = to - from == columns ? k * count * size + n * 64 : n * bytes + k * size;
            if (k * size % 64 == 0) __builtin_prefetch(next + at);
            weights[n] = weights_at(kind, w + n * bytes, k);
        }
        EACH(m) = 0; m < rows; m++) {
            vec inputs = load(x + m * x_stride + k);
#if defined(__AVX2__)
            if (count > 1) __asm__("" : "+v"(inputs)); /* as in `across` */
#endif
            EACH(n) = 0; n < count; n++) sum[m * count + n] += weights[n] * inputs;
        }
    }
    EACH(m) = 0; m < rows; m++) EACH(n) = 0; n < count; n++) {
        float found = total(sum[m * count + n]);
        for (int64_t k = full; k < to; k++) found += weight_at(kind, w + n * bytes, k) * x[m * x_stride + k];
        out[m * out_stride + n] = from ? out[m * out_stride + n] + found : found;
    }
}

/* One input with `count` rows of a float matrix, row after row: memory is read the fastest in its order. */
INLINE void along_one(int kind, const char *w, int64_t columns, const float *x, int64_t count, float *out) {
    int64_t size = kind == FLOAT32 ? 4 : 2, bytes = columns * size, vectors = columns / LANES * LANES;
    int64_t full = columns / (8 * LANES) * 8 * LANES;
    for (int64_t n = 0; n < count; n++, w += bytes) {
        vec sum[8];
        EACH(i) = 0; i < 8; i++) sum[i] = splat(0);
        for (int64_t k = 0; k < full; k += 8 * LANES) {
            EACH(i) = 0; i < 8; i++) {
                if (i * LANES * size % 64 == 0) __builtin_prefetch(w + (k + i * LANES) * size + AHEAD);
                sum[i] += weights_at(kind, w, k + i * LANES) * load(x + k + i * LANES);
            }
        }
        for (int64_t k = full; k < vectors; k += LANES) sum[0] += weights_at(kind, w, k) * load(x + k);
        float found = total(((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7])));
        for (int64_t k = vectors; k < columns; k++) found += weight_at(kind, w, k) * x[k];
        out[n] = found;
    }
}

/* `parts` vectors of inputs, laid side by side (K, ABREAST), with `count` rows of a float matrix: out (count, ABREAST). */
INLINE void across(int parts, int count, const float *w, int64_t columns, const float *x, float *out) {
    vec sum[SIDE * STREAMS];
    EACH(i) = 0; i < count * parts; i++) sum[i] = splat(0);
    for (int64_t k = 0; k < columns; k++, x += ABREAST) {
        vec inputs[SIDE];
        EACH(i) = 0; i < parts; i++) {
            inputs[i] = load(x + i * LANES);
#if defined(__AVX2__)
            __asm__("" : "+v"(inputs[i])); /* or gcc loads it anew for each product, more than is loaded in that time */
#endif
        }
        EACH(n) = 0; n < count; n++) {
            vec weight = splat(w[n * columns + k]);
            EACH(i) = 0; i < parts; i++) sum[n * parts + i] += inputs[i] * weight;
        }
    }
    EACH(n) = 0; n < count; n++) EACH(i) = 0; i < parts; i++) store(out + n * ABREAST + LANES * i, sum[n * parts + i]);
}

/* The same of bfloat16: two numbers of each input lie together (K / 2, ABREAST), as two weights of a row do. */
INLINE void across_pairs(int parts, int count, const char *w, int64_t columns, const uint32_t *x, float *out) {
#if defined(__AVX512BF16__) && defined(__AVX512BW__)
    __m512 sum[SIDE * STREAMS];
    EACH(i) = 0; i < count * parts; i++) sum[i] = _mm512_setzero_ps();
    for (int64_t k = 0; k < columns; k += 2, x += ABREAST) {
        __m512i inputs[SIDE];
        EACH(i) = 0; i < parts; i++) inputs[i] = _mm512_loadu_si512(x + i * LANES);
        EACH(n) = 0; n < count; n++) {
            __m512i weights = _mm512_set1_epi32(four((const int8_t *)w + 2 * (n * columns + k)));
            EACH(i) = 0; i < parts; i++)
                sum[n * parts + i] = _mm512_dpbf16_ps(sum[n * parts + i], (__m512bh)inputs[i], (__m512bh)weights);
        }
    }
    EACH(n) = 0; n < count; n++) EACH(i) = 0; i < parts; i++) _mm512_storeu_ps(out + n * ABREAST + LANES * i, sum[n * parts + i]);
#endif
}

/* ------------------------------------------------------------------ a matrix, its bias and what follows */

/* `found` (rows, panels * 16) and, where a gate is, `second`: bias, activation, gate, scale; then to the output. The
   activation is a constant where it is called, and so is whether there is a gate. */
INLINE void finish_as(int activation, int gated, const Op *op, const Matrix *matrix, int64_t row, int64_t rows,
                      int64_t first, int64_t count, const float *found, const float *second, int64_t stride) {
    const float *bias = matrix->bias, *other_bias = gated ? matrix[1].bias : 0;
    const float scale = op->scale, softcap = op->softcap;
    const int add = op->add != 0, scaled = scale != 1, capped = softcap != 0;
    count = matrix->rows - first < count ? matrix->rows - first : count;
    for (int64_t m = 0; m < rows; m++) {
        float *out = matrix->out + (row + m) * matrix->rows + first;
        for (int64_t n = 0; n < count; n += LANES) {
            int part = count - n < LANES;
            int64_t bytes = (part ? count - n : LANES) * sizeof(float);
            float own[3][LANES] = {{0}}; /* what there is of a part of a vector */
            const float *b = bias ? bias + first + n : 0, *other = other_bias ? other_bias + first + n : 0, *before = out + n;
            if (part) {
                if (b) b = memcpy(own[0], b, bytes);
                if (other) other = memcpy(own[1], other, bytes);
                if (add) before = memcpy(own[2], before, bytes);
            }
            vec v = load(found + m * stride + n);
            if (scaled) v *= scale;
            if (b) v += load(b);
            v = activate(activation, v);
            if (gated) {
                vec up = load(second + m * stride + n);
                if (other) up += load(other);
                v *= up;
            }
            if (capped) v = tangent(v / softcap) * softcap;
            if (add) v += load(before);
            if (part) {
                store(own[0], v);
                memcpy(out + n, own[0], bytes);
            } else
                store(out + n, v);
        }
    }
}

static void finish(const Op *op, const Matrix *matrix, int64_t row, int64_t rows, int64_t first, int64_t count,
                   const float *found, const float *second, int64_t stride) {
#define FINISH(a, g) case (a) * 2 + (g): finish_as(a, g, op, matrix, row, rows, first, count, found, second, stride); break;
    switch (op->activation * 2 + (op->gated != 0)) {
        FINISH(IDENTITY, 0) FINISH(GELU, 0) FINISH(GELU_TANH, 0) FINISH(RELU, 0) FINISH(SILU, 0) FINISH(TANH, 0)
        FINISH(IDENTITY, 1) FINISH(GELU, 1) FINISH(GELU_TANH, 1) FINISH(RELU, 1) FINISH(SILU, 1) FINISH(TANH, 1)
    }
}

INLINE const float *input(const Op *op, const Batch *batch, int64_t m) {
    return op->in + (op->picked ? batch->picked[m] : m) * op->width;
}

/* The tile for so many rows, vectors and bits. Not inlined: it needs all registers. */
static __attribute__((noinline)) void tile_of(int64_t rows, int vecs, int kind, const uint8_t *panel, int64_t stride,
                                              int64_t lane, int64_t groups, const int8_t *x, const float *scales,
                                              const int32_t *sums, float *out, int64_t out_stride) {
#define CASE(r, n, k)                                                                                                  \
    case (r) * 100 + (n) * 10 + (k):                                                                                   \
        tile(r, n, k, panel, stride, lane, groups, x, scales, sums, groups * GROUP, out, out_stride);                  \
        break;
#define CASES(r) CASE(r, 1, INT8) CASE(r, 2, INT8) CASE(r, 1, INT4) CASE(r, 2, INT4)
    switch (rows * 100 + vecs * 10 + kind) {
        CASES(1) CASES(2) CASES(3) CASES(4) CASES(5) CASES(6)
        CASE(8, 1, INT8) CASE(12, 1, INT8) CASE(8, 1, INT4) CASE(12, 1, INT4)
    }
}

/* Quantised inputs with panels of a matrix from `panel` on: out (rows, panels * 16). */
static void product(const Matrix *matrix, int64_t panel, int panels, int64_t m, int64_t rows, const int8_t *x,
                    const float *scales, const int32_t *sums, const uint8_t *wide, float *out) {
    int64_t groups = (matrix->columns + GROUP - 1) / GROUP;
    int kind = wide ? INT8 : matrix->kind, widest = rows * (PAIRS && kind == INT8 ? 4 : 2) <= SUMS ? 2 : 1;
    int64_t stride = groups * group_bytes(kind);
    const uint8_t *w = wide ? wide : (const uint8_t *)matrix->data + panel * stride;
    for (int row = 0, vecs; row < panels * PANEL; row += vecs * LANES) {
        vecs = row + LANES < panels * PANEL ? widest : 1;
        tile_of(rows, vecs, kind, w + row / PANEL * stride, stride, row % PANEL, groups, x + m * groups * GROUP,
                scales + m * groups, sums + m * groups, out + row, panels * PANEL);
    }
}

/* As many vectors of inputs as `inputs` of them take, laid side by side, with rows of a float matrix, or of a matrix in
   `pairs`: out (rows, ABREAST). Not inlined: it needs all registers. */
static __attribute__((noinline)) void abreast(int64_t inputs, int pairs, const char *w, int64_t rows, int64_t width,
                                              const float *x, float *out) {
    const int64_t bytes = width * (pairs ? 2 : 4);
    int64_t n = 0;
#define ACROSS(i, c)                                                                                                   \
    do {                                                                                                               \
        if (pairs) across_pairs(i, c, w + n * bytes, width, (const uint32_t *)x, out + n * ABREAST);                   \
        else across(i, c, (const float *)(w + n * bytes), width, x, out + n * ABREAST);                                \
    } while (0)
#define ACROSS_SIDES(c)                                                                                                \
    do {                                                                                                               \
        if (inputs * 3 > 2 * ABREAST) ACROSS(SIDE, c);                                                                 \
        else if (inputs * 3 > ABREAST) ACROSS((2 * SIDE + 2) / 3, c);                                                  \
        else ACROSS((SIDE + 2) / 3, c);                                                                                \
    } while (0)
    for (; n + STREAMS <= rows; n += STREAMS) ACROSS_SIDES(STREAMS);
    for (; n < rows; n++) ACROSS_SIDES(1);
}

/* 8, 4, 2 inputs or one with some rows of a float matrix, from `first` on: out (inputs, SOME). Neither is it inlined. */
static __attribute__((noinline)) void beside(int64_t inputs, const Matrix *matrix, int64_t first, int64_t rows,
                                             const float *x, float *out) {
    int64_t width = matrix->columns, size = matrix->kind == FLOAT32 ? 4 : 2, bytes = width * size;
    int64_t parts = (inputs * width * 4 + NEAR - 1) / NEAR, part = (width + parts * LANES - 1) / (parts * LANES) * LANES;
    const char *w = (const char *)matrix->data + first * bytes;
    if (inputs == 1) {
        if (matrix->kind == FLOAT32) along_one(FLOAT32, w, width, x, rows, out);
        else along_one(BFLOAT16, w, width, x, rows, out);
        return;
    }
    for (int64_t k = 0; k < width; k += part) {
        int64_t end = k + part < width ? k + part : width, n = 0;
#define ALONG(r, c)                                                                                                    \
    if (inputs == (r))                                                                                                 \
        for (; n + (c) <= rows; n += (c)) {                                                                            \
            const char *here = w + n * bytes, *next = here + (c) * bytes;                                              \
            if (part >= width) next = next - here < 2 * AHEAD ? here + 2 * AHEAD : next;                               \
            else if (n + (c) >= rows) next = end < width ? w + part * size : w + rows * bytes - k * size;              \
            if (matrix->kind == FLOAT32) along(r, c, FLOAT32, here, next, width, k, end, x, width, out + n, SOME);     \
            else along(r, c, BFLOAT16, here, next, width, k, end, x, width, out + n, SOME);                            \
        }
        ALONG(BESIDE, REGISTERS == 32 ? ABOVE : 1) ALONG(BESIDE, 1)
        ALONG(4, ABOVE) ALONG(4, 1) ALONG(2, ABOVE) ALONG(2, 1)
    }
}

/* Rows of numbers, or of noughts where there is no row, as columns: to (width, stride). */
INLINE void turn(int rows, const float *const *x, int64_t width, float *to, int64_t stride) {
    int64_t full = rows == LANES ? width / LANES * LANES : 0;
    for (int64_t k = 0; k < full; k += LANES) {
        vec v[LANES], next[LANES];
        EACH(m) = 0; m < LANES; m++) v[m] = x[m] ? load(x[m] + k) : splat(0);
        EACH(once) = 1; once < LANES; once *= 2) { /* all numbers are shuffled perfectly, log2(LANES) times */
            EACH(m) = 0; m < LANES / 2; m++) {
                next[2 * m] = interleaved(v[m], v[m + LANES / 2], 0);
                next[2 * m + 1] = interleaved(v[m], v[m + LANES / 2], 1);
            }
            EACH(m) = 0; m < LANES; m++) v[m] = next[m];
        }
        EACH(m) = 0; m < LANES; m++) store(to + (k + m) * stride, v[m]);
    }
    for (int m = 0; m < rows; m++)
        for (int64_t k = full; k < width; k++) to[k * stride + m] = x[m] ? x[m][k] : 0;
}

/* A row of numbers in bfloat16, of which two take the place of one. */
static void pair(float *x, int64_t width) {
    for (int64_t k = 0; k < width; k += 2) {
        uint32_t each[2];
        memcpy(each, x + k, sizeof each);
        each[0] = each[0] >> 16 | (each[1] & 0xffff0000u);
        memcpy(x + k / 2, each, sizeof *each);
    }
}

/* How many rows of a float matrix are one piece of work for many inputs: the more, the less often these come from further
   than a core's own cache; but no more than stay in it beside ABREAST of them, and so few that there is work for all. */
INLINE int64_t rows_of_many(const Op *op, int pairs, int threads) {
    int64_t rows = MANY, all = 0, bytes = op->width * (pairs ? 2 : 4);
    if (op->matrix[0].kind != FLOAT32 && !pairs) return PANEL; /* so many are widened at a time */
    for (int64_t i = 0; i < op->matrices; i++) all += op->matrix[i].rows;
    while (rows > PANEL && (rows * bytes > KEPT || rows * threads * 8 > all)) rows -= PANEL;
    return rows;
}

/* The share of a thread in: out = activation(norm(in) W^T + bias), for up to three matrices that read the same, of some
   rows, which may be multiplied as `pairs` of bfloat16. */
static void some_rows(Thread *me, const Op *op, int64_t from, int64_t rows, int pairs) {
    const Batch *batch = me->batch;
    int64_t width = op->width;
    int64_t groups = (width + GROUP - 1) / GROUP, padded = groups * GROUP;
    int kept = op->matrix[0].kind >= INT8, quantised = kept && !op->exact, alone = rows == 1 && !pairs;
    int many = pairs || (!kept && rows > BESIDE);
    int few = rows <= (REGISTERS == 32 ? 2 * TILE : TILE);
    int wider = op->matrix[0].kind == INT4 && !few && !PAIRS;
    int32_t off = op->matrix[0].kind == INT4 && !wider ? 8 : SIGNED ? 0 : 128;
    float *floats = batch->floats, *scales = batch->scales;
    int8_t *bytes = batch->bytes;
    int32_t *sums = batch->sums;
    char *scratch = me->scratch;
    float *found = (float *)scratch;
    scratch += 2 * 64 * 64 * sizeof(float);
    if (alone) { /* Each thread makes the one row ready for itself: sooner than waiting for another that does. */
        floats = (float *)scratch;
        bytes = (int8_t *)(floats + padded + PANEL);
        scales = (float *)(bytes + padded);
        sums = (int32_t *)(scales + groups);
        scratch = (char *)(sums + groups);
        scratch += -(uintptr_t)scratch % 64;
    }
    int64_t share = many ? ABREAST : 1; /* rows that lie side by side are one thread's */
    int64_t size = pairs ? width / 2 : width;
    const float *lying[LANES];
    int64_t shares = (rows + share - 1) / share;
    for (int64_t some = alone ? 0 : take(me, shares); some < shares; some = alone ? shares : take(me, shares))
        for (int64_t m = some * share; m < (some + 1) * share && (many || m < rows); m++) {
            const float *x = m < rows ? input(op, batch, from + m) : 0;
            float *y = alone ? floats : many ? (float *)scratch + m % LANES * width : floats + m * (kept ? padded : width);
            if (x && op->norm.kind) normalise(&op->norm, x, y, width), x = y;
            if (x && pairs) cutaway_halve(x, y, width), pair(y, width), x = y;
            if (quantised) quantise(x, width, off, bytes + m * padded, scales + m * groups, sums + m * groups);
            else if (many) {
                lying[m % LANES] = x;
                if (m % LANES == LANES - 1)
                    turn(LANES, lying, size, floats + (m / ABREAST * size * ABREAST + m % ABREAST - LANES + 1), ABREAST);
            } else if (x != y) memcpy(y, x, width * sizeof(float));
            if (kept && !quantised) memset(y + width, 0, (padded - width) * sizeof(float));
        }
    if (!alone) meet(me);

    int64_t step = quantised ? (few ? 4 : 2) * PANEL : many ? rows_of_many(op, pairs, me->pool->threads) : kept ? 32 : SOME;
    int64_t units[3], all = 0, count = op->gated ? 1 : op->matrices;
    for (int64_t i = 0; i < count; i++) all += units[i] = (op->matrix[i].rows + step - 1) / step;
    for (int64_t unit = take(me, all); unit < all; unit = take(me, all)) {
        int64_t i = 0, u = unit;
        while (u >= units[i]) u -= units[i++];
        const Matrix *matrix = &op->matrix[i];
        int64_t first = u * step, left = matrix->rows - first < step ? matrix->rows - first : step;
        int both = op->gated ? 2 : 1;
        if (quantised) {
            int64_t panels = (left + PANEL - 1) / PANEL;
            if (few) { /* panel after panel, each with all inputs: memory is read once, and the fastest in its order */
                int64_t all_rows = rows <= TILE ? rows : rows <= 8 ? 8 : 12; /* those beyond the last are nobody's */
                for (int64_t n = 0; n < left; n += PANEL) {
                    for (int b = 0; b < both; b++) {
                        float *to = found + b * 64 * 4 + (alone ? n : 0);
                        product(matrix + b, (first + n) / PANEL, 1, 0, all_rows, bytes, scales, sums, 0, to);
                    }
                    if (!alone)
                        finish(op, matrix, from, rows, first + n, left - n < PANEL ? left - n : PANEL, found, found + 64 * 4, PANEL);
                }
                if (alone) finish(op, matrix, from, 1, first, left, found, found + 64 * 4, 0);
                continue;
            }
            const uint8_t *wide[2] = {0, 0};
            if (wider)
                for (int b = 0; b < both; b++) {
                    uint8_t *to = (uint8_t *)scratch + b * 2 * groups * ROWS8;
                    wide[b] = to;
                    for (int64_t p = 0; p < panels; p++)
                        widen((const uint8_t *)matrix[b].data + (first / PANEL + p) * groups * ROWS4, to + p * groups * ROWS8,
                              groups);
                }
            int64_t tiles = (rows + TILE - 1) / TILE, even = (rows + tiles - 1) / tiles;
            int64_t stride = groups * group_bytes(matrix->kind), part = panels * stride / tiles + 64;
            for (int64_t m = 0; m < rows; m += even) {
                int64_t some = rows - m < even ? rows - m : even;
                for (int b = 0; b < both; b++) { /* of the panels that come next a part is sent for with each tile */
                    const char *next = (const char *)matrix[b].data + (first / PANEL + panels) * stride + m / even * part;
                    send_for(next, part);
                }
                for (int b = 0; b < both; b++)
                    product(matrix + b, first / PANEL, panels, m, some, bytes, scales, sums, wide[b], found + b * 64 * TILE);
                finish(op, matrix, from + m, some, first, left, found, found + 64 * TILE, panels * PANEL);
            }
        } else if (kept) {
            int64_t stride = groups * group_bytes(matrix->kind);
            for (int64_t m = 0; m < rows;) {
                int64_t some = rows - m >= 12 ? 12 : rows - m >= 4 ? 4 : 1;
                for (int64_t n = 0; n < left; n += PANEL)
                    exact(some, matrix->kind, (const uint8_t *)matrix->data + (first + n) / PANEL * stride, groups,
                          floats + m * padded, padded, found + n, 2 * PANEL);
                finish(op, matrix, from + m, some, first, left, found, 0, 2 * PANEL);
                m += some;
            }
        } else if (many) {
            const char *weights[2] = {0, 0};
            for (int b = 0; b < both; b++) {
                weights[b] = (const char *)matrix[b].data + first * width * (matrix->kind == FLOAT32 ? 4 : 2);
                if (matrix[b].kind == FLOAT32 || pairs) continue;
                float *widened = (float *)scratch + b * PANEL * width; /* for many inputs to come */
                for (int64_t n = 0; n < left; n++) dequantise(&matrix[b], first + n, widened + n * width);
                weights[b] = (const char *)widened;
            }
            for (int64_t m = 0; m < rows; m += ABREAST) {
                int64_t some = rows - m < ABREAST ? rows - m : ABREAST;
                float turned[2 * ABREAST][MANY];
                for (int b = 0; b < both; b++) {
                    float *to = found + b * MANY * ABREAST;
                    abreast(some, pairs, weights[b], left, width, floats + m * size, to);
                    for (int64_t i = 0; i < left; i += LANES) {
                        const float *rows_of[LANES];
                        for (int64_t l = 0; l < LANES; l++) rows_of[l] = to + (i + l) * ABREAST;
                        turn(left - i < LANES ? left - i : LANES, rows_of, some, turned[b * ABREAST] + i, MANY);
                    }
                }
                finish(op, matrix, from + m, some, first, left, turned[0], turned[ABREAST], MANY);
            }
        } else {
            int64_t all_rows = rows > 4 ? BESIDE : rows > 2 ? 4 : rows; /* those beyond the last are nobody's */
            for (int b = 0; b < both; b++) beside(all_rows, &matrix[b], first, left, floats, found + b * SOME * BESIDE);
            finish(op, matrix, from, rows, first, left, found, found + SOME * BESIDE, SOME);
        }
    }
}

/* The rows of prompts in bfloat16, where the processor multiplies that itself; then those that are read as they are. */
static void linear(Thread *me, const Op *op) {
    int64_t rows = op->picked ? me->batch->wanted : me->batch->rows;
    int pairs = halved() && op->matrix[0].kind == BFLOAT16 && op->width % 2 == 0 && !op->picked;
    int64_t prompts = pairs ? me->batch->prompts : 0;
    if (prompts) some_rows(me, op, 0, prompts, 1);
    if (prompts && prompts < rows) meet(me);
    if (prompts < rows) some_rows(me, op, prompts, rows - prompts, 0);
}

/* ------------------------------------------------------------------ attention */

static void rotate(float *x, const float *cos, const float *sin, int64_t half) {
    for (int64_t i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cos[i] - b * sin[i];
        x[i + half] = b * cos[i] + a * sin[i];
    }
}

/* Head `head` of a row: normalised if the model does, and turned by its position. */
static void place(const Attention *attn, const Norm *norm, float *row, int64_t head, int64_t heads, int32_t position,
                  float *out) {
    int64_t width = attn->width, half = attn->rotated / 2;
    float *x = row + head * width;
    if (norm->kind && attn->whole_norm) { /* over all heads: none may change before all have been read */
        float whole[heads * width];
        normalise(norm, row, whole, heads * width);
        memcpy(out, whole + head * width, width * sizeof(float));
    } else if (norm->kind)
        normalise(norm, x, out, width);
    else if (out != x)
        memcpy(out, x, width * sizeof(float));
    if (half) rotate(out, attn->cos + position * half, attn->sin + position * half, half);
}

/* A key or a value goes to its cache: number after number from `at` on, each `step` from the one before. */
static void keep(const Attention *attn, const float *x, void *cache, int64_t at, int64_t step, float *scales,
                 int64_t slot) {
    int64_t E = attn->width;
    if (attn->cache == FLOATS) {
        for (int64_t e = 0; e < E; e++) ((float *)cache)[at + e * step] = x[e];
        return;
    }
    float whole[E + PANEL];
    memcpy(whole, x, E * sizeof(float));
    memset(whole + E, 0, PANEL * sizeof(float));
    if (attn->cache == HALVES) {
        uint16_t less[E + PANEL];
        for (int64_t e = 0; e < E; e += LANES) store_half(less + e, load(whole + e));
        for (int64_t e = 0; e < E; e++) ((uint16_t *)cache)[at + e * step] = less[e];
    } else {
        int8_t less[E + PANEL];
        scales[slot] = encode(whole, E, less);
        for (int64_t e = 0; e < E; e++) ((int8_t *)cache)[at + e * step] = less[e];
    }
}

/* A whole panel of keys (16, E) at once, turned; `own` has room for it once more. */
static void keep_panel(const Attention *attn, const float *x, void *cache, int64_t at, float *own) {
    const float *rows[PANEL];
    float *to = attn->cache == FLOATS ? (float *)cache + at : own;
    for (int m = 0; m < PANEL; m++) rows[m] = x + m * attn->width;
    for (int m = 0; m < PANEL; m += LANES) turn(LANES, rows + m, attn->width, to + m, PANEL);
    for (int64_t i = 0; i < attn->width * PANEL && to == own; i += LANES) store_half((uint16_t *)cache + at + i, load(own + i));
}

/* The first slot of the panel that a row's key goes to, in the cache of all texts. */
INLINE int64_t panel_of(const Attention *attn, const Batch *batch, int64_t m, int64_t head) {
    return (batch->sequences[m] * attn->kv_heads + head) * attn->slots + batch->positions[m] / PANEL * PANEL;
}

/* How many rows from `m` on follow each other in a panel of one text's keys. */
INLINE int64_t in_panel(const Batch *batch, int64_t m) {
    int64_t rows = 1, most = PANEL - batch->positions[m] % PANEL;
    while (rows < most && m + rows < batch->rows && batch->sequences[m + rows] == batch->sequences[m] &&
           batch->positions[m + rows] == batch->positions[m] + rows)
        rows++;
    return rows;
}

/* The scores of a vector of keys from slot `s` on, as softmax takes them: of slots beyond the query's last none is left. */
INLINE vec seen(const Attention *attn, int64_t head, vec v, int64_t s, int64_t last) {
    static const float lane[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    vec slot = load(lane) + (float)s;
    int64_t least_slot = attn->window ? last - attn->window + 1 : 0;
    if (attn->softcap != 0) v = tangent(v / (float)attn->softcap) * (float)attn->softcap;
    if (attn->relative)
        for (int i = 0; i < LANES; i++)
            if (s + i <= last) v[i] += attn->relative[head * attn->slots + last - s - i];
    return choose((slot <= (float)last) & (slot >= (float)least_slot), v, splat(-INFINITY));
}

/* `rows` queries with the keys [from, to) of their head, whose scales lie from `begin` on: weighted sums of values to z.
   What one query reads is new to the caches: values are sent for while it meets the keys, and then the keys of who comes
   `next`. Eight texts beside each other wait a third less for their attention. */
INLINE void attend_tile(int rows, int cache, const Attention *attn, int64_t head, const float *const *q, float *const *z,
                        const int32_t *positions, const void *keys, const void *values, int64_t begin, int64_t from,
                        int64_t to, float *p, int64_t p_stride, const void *next) {
    int64_t width = attn->width, first = from / PANEL * PANEL, size = kept_bytes(cache);
    const float *key_scales = cache == CODES ? attn->key_scales + begin : 0;
    const float *value_scales = cache == CODES ? attn->value_scales + begin : 0;
    vec largest[QUERIES];
    EACH(m) = 0; m < rows; m++) largest[m] = splat(-INFINITY);
    /* Slots before `plain` are seen by every query, and their scores are nothing but products. */
    int64_t plain = attn->window || attn->softcap != 0 || attn->relative ? 0 : attn->lengths ? to : positions[0] + 1;
    const float scale = attn->scale;
    for (int64_t s = first; s < to;) {
#define SCORES(c)                                                                                                      \
    do {                                                                                                               \
        vec score[12];                                                                                                 \
        int64_t at[c];                                                                                                 \
        EACH(j) = 0; j < (c); j++) at[j] = (s + j * LANES) / PANEL * PANEL * width + (s + j * LANES) % PANEL;          \
        EACH(i) = 0; i < rows * (c); i++) score[i] = splat(0);                                                         \
        for (int64_t e = 0; e < width; e++) {                                                                          \
            vec k[c];                                                                                                  \
            if (rows == 1)                                                                                             \
                send_for((const char *)values + (s * width + e * (c) * LANES) * size, (c) * LANES * size);             \
            EACH(j) = 0; j < (c); j++) k[j] = kept(cache, keys, at[j] + e * PANEL);                                    \
            EACH(m) = 0; m < rows; m++) EACH(j) = 0; j < (c); j++) score[m * (c) + j] += k[j] * q[m][e];               \
        }                                                                                                              \
        EACH(m) = 0; m < rows; m++) EACH(j) = 0; j < (c); j++) {                                                       \
            vec v = score[m * (c) + j] * scale;                                                                        \
            if (cache == CODES) v *= load(key_scales + s + j * LANES);                                                 \
            if (s + LANES * (j + 1) > plain)                                                                           \
                v = seen(attn, head, v, s + j * LANES, attn->lengths ? to - 1 : positions[m]);                         \
            store(p + m * p_stride + s + j * LANES - first, v);                                                        \
            largest[m] = most(v, largest[m]); /* NaN is met again below */                                             \
        }                                                                                                              \
        s += LANES * (c);                                                                                              \
    } while (0)
        /* A sum waits for itself: of one query there must be several under way. */
        const int64_t left = (to - s + LANES - 1) / LANES;
        if (rows == 1 && left > 7) SCORES(8);
        else if (rows == 1 && left > 6) SCORES(7);
        else if (rows == 1 && left > 5) SCORES(6);
        else if (rows == 1 && left > 4) SCORES(5);
        else if (rows <= 2 && left > 3) SCORES(4);
        else if (rows == 1 && left > 2) SCORES(3);
        else if (left > 1) SCORES(2);
        else SCORES(1);
    }
    float by[QUERIES];
    EACH(m) = 0; m < rows; m++) {
        float top = maximum(largest[m]);
        vec sum = splat(0);
        for (int64_t s = 0; s < to - first; s += LANES) {
            vec v = exponential(load(p + m * p_stride + s) - top);
            sum += v;
            if (cache == CODES) v *= load(value_scales + first + s);
            store(p + m * p_stride + s, v);
        }
        by[m] = 1.f / total(sum);
    }
    for (int64_t e = 0; e < width;) {
#define VALUES(c) /* key after key, however many rows: a row's sums are the same alone and among others */            \
    do {                                                                                                               \
        vec sum[12];                                                                                                   \
        EACH(i) = 0; i < rows * (c); i++) sum[i] = splat(0);                                                           \
        for (int64_t s = first; s < to; s++) {                                                                         \
            if (rows == 1) send_for((const char *)next + (s * width + e) * size, (c) * LANES * size);                  \
            EACH(j) = 0; j < (c); j++) {                                                                               \
                vec one = kept(cache, values, s * width + e + j * LANES);                                              \
                EACH(m) = 0; m < rows; m++) sum[m * (c) + j] += one * p[m * p_stride + s - first];                     \
            }                                                                                                          \
        }                                                                                                              \
        EACH(m) = 0; m < rows; m++) EACH(j) = 0; j < (c); j++) store(z[m] + e + j * LANES, sum[m * (c) + j] * by[m]);  \
        e += LANES * (c);                                                                                              \
    } while (0)
        if (rows <= 3 && width - e >= 4 * LANES) VALUES(4);
        else if (width - e >= 2 * LANES) VALUES(2);
        else if (width - e >= LANES) VALUES(1);
        else {
            for (; e < width; e++)
                EACH(m) = 0; m < rows; m++) {
                    float sum = 0;
                    for (int64_t s = first; s < to; s++)
                        sum += kept_one(cache, values, s * width + e) * p[m * p_stride + s - first];
                    z[m][e] = sum * by[m];
                }
        }
    }
}

/* The tile for so many queries and what keys are kept in. Not inlined: it needs all registers. */
static __attribute__((noinline)) void tile_of_queries(int64_t rows, const Attention *attn, int64_t head,
                                                      const float *const *q, float *const *z, const int32_t *positions,
                                                      const void *keys, const void *values, int64_t begin, int64_t from,
                                                      int64_t to, float *p, int64_t p_stride, const void *next) {
#define ATTEND(r, cache)                                                                                               \
    case (r) * 10 + (cache):                                                                                           \
        attend_tile(r, cache, attn, head, q, z, positions, keys, values, begin, from, to, p, p_stride, next);          \
        break;
#define ATTEND_ROWS(r) ATTEND(r, FLOATS) ATTEND(r, HALVES) ATTEND(r, CODES)
    switch (rows * 10 + attn->cache) {
        ATTEND_ROWS(1) ATTEND_ROWS(2) ATTEND_ROWS(3) ATTEND_ROWS(QUERIES)
    }
}

/* Whose keys and values a row reads. */
INLINE int64_t memory_of(const Attention *attn, const Batch *batch, int64_t m) {
    return attn->lengths ? batch->sequences[m] % attn->memories : batch->sequences[m];
}

/* How many rows from `m` on, of a tile at most, meet the same keys. */
INLINE int64_t together(const Attention *attn, const Batch *batch, int64_t m) {
    int64_t rows = 1, memory = memory_of(attn, batch, m);
    while (rows < QUERIES && m + rows < batch->rows && memory_of(attn, batch, m + rows) == memory &&
           (attn->lengths || batch->positions[m + rows] == batch->positions[m] + rows))
        rows++;
    return rows == QUERIES ? QUERIES : rows > 3 ? 3 : rows; /* so many kinds of tiles there are */
}

static void attend(Thread *me, const Op *op) {
    const Attention *attn = &op->attention;
    const Batch *batch = me->batch;
    int64_t H = attn->heads, G = attn->kv_heads, E = attn->width, S = attn->slots, each = attn->lengths ? H : H + 2 * G;
    int32_t *begins = (int32_t *)me->scratch;
    float *first = (float *)(begins + (batch->rows + PANEL) / PANEL * PANEL);
    /* Queries and keys are placed, keys and values go to their slots: panel by panel, a few heads at a time. */
    int64_t runs = 0;
    for (int64_t m = 0; m < batch->rows; m += in_panel(batch, m)) begins[runs++] = m;
    begins[runs] = batch->rows;
    int64_t share = runs * each / (8 * me->pool->threads);
    if (share < 4) share = 4;
    int64_t shares = (runs * each + share - 1) / share;
    int64_t size = kept_bytes(attn->cache);
    for (int64_t some = take(me, shares); some < shares; some = take(me, shares)) {
        int64_t last = (some + 1) * share < runs * each ? (some + 1) * share : runs * each;
        for (int64_t i = some * share; i < last; i++) { /* each number of a key goes to a line that is new to the caches */
            int64_t head = i % each - H, bytes = E * size;
            if (head < 0 || head >= G) continue;
            send_for((char *)attn->keys + panel_of(attn, batch, begins[i / each], head) * bytes, PANEL * bytes);
        }
        for (int64_t i = some * share; i < last; i++) {
            int64_t begin = begins[i / each], end = begins[i / each + 1], j = i % each;
            int64_t slot = batch->positions[begin], text = batch->sequences[begin] * G * S;
            int64_t whole = end - begin == PANEL && attn->cache != CODES;
            for (int64_t m = begin; m < end; m++, slot++) {
                if (j < H) {
                    float *to = attn->q_norm.kind && attn->whole_norm ? attn->z : attn->q;
                    place(attn, &attn->q_norm, attn->q + m * H * E, j, H, slot, to + (m * H + j) * E);
                } else if (j < H + G) {
                    int64_t panel = panel_of(attn, batch, begin, j - H), lane = slot % PANEL;
                    float *key = first + (whole ? lane : 0) * E;
                    place(attn, &attn->k_norm, attn->k + m * G * E, j - H, G, slot, key);
                    if (!whole) keep(attn, key, attn->keys, panel * E + lane, PANEL, attn->key_scales, panel + lane);
                    else if (m == end - 1) keep_panel(attn, first, attn->keys, panel * E, first + PANEL * E);
                } else {
                    int64_t at = text + (j - H - G) * S + slot;
                    keep(attn, attn->v + (m * G + j - H - G) * E, attn->values, at * E, 1, attn->value_scales, at);
                }
            }
        }
    }
    meet(me);

    /* Queries of one text that follow each other go together; of cross-attention all that read one memory. Head by head,
       so that its keys and values stay near. */
    int64_t tiles = 0;
    for (int64_t m = 0; m < batch->rows; m += together(attn, batch, m)) begins[tiles++] = m;
    float *p = (float *)(begins + (batch->rows + PANEL - 1) / PANEL * PANEL);
    for (int64_t item = take(me, tiles * H); item < tiles * H; item = take(me, tiles * H)) {
        int64_t head = item / tiles, m = begins[item % tiles], rows = together(attn, batch, m);
#define HELD(item) (memory_of(attn, batch, begins[(item) % tiles]) * G + (item) / tiles / (H / G)) /* whose keys it meets */
        int64_t held = HELD(item), from = 0;
        int64_t slots = S * E * size, begin = held * slots, after = item + 1 < tiles * H ? item + 1 : item;
        const char *keys = (const char *)attn->keys + begin, *values = (const char *)attn->values + begin;
        const char *next = (const char *)attn->keys + HELD(after) * slots;
        int64_t to = attn->lengths ? attn->lengths[memory_of(attn, batch, m)] : batch->positions[m + rows - 1] + 1;
        if (attn->window && batch->positions[m] >= attn->window) from = batch->positions[m] - attn->window + 1;
        const float *q[QUERIES];
        float *z[QUERIES];
        for (int64_t r = 0; r < rows; r++) {
            z[r] = attn->z + ((m + r) * H + head) * E;
            q[r] = attn->q_norm.kind && attn->whole_norm ? z[r] : attn->q + ((m + r) * H + head) * E;
        }
        tile_of_queries(rows, attn, head, q, z, batch->positions + m, keys, values, held * S, from, to, p, S + PANEL, next);
    }
}

/* ------------------------------------------------------------------ the list */

static void embed(Thread *me, const Op *op) {
    const Batch *batch = me->batch;
    float *out = op->matrix[0].out;
    for (int64_t m = take(me, batch->rows); m < batch->rows; m = take(me, batch->rows)) {
        float *row = out + m * op->width;
        dequantise(&op->matrix[0], batch->ids[m], row);
        for (int64_t i = 0; i < op->width; i++) row[i] *= (float)op->scale;
        if (op->table) {
            const float *position = op->table + (batch->positions[m] + op->offset) * op->width;
            for (int64_t i = 0; i < op->width; i++) row[i] += position[i];
        }
    }
}

static void norm(Thread *me, const Op *op) {
    float *own = (float *)me->scratch;
    for (int64_t m = take(me, me->batch->rows); m < me->batch->rows; m = take(me, me->batch->rows)) {
        float *out = op->matrix[0].out + m * op->width;
        normalise(&op->norm, op->in + m * op->width, op->add ? own : out, op->width);
        if (op->add)
            for (int64_t i = 0; i < op->width; i++) out[i] += own[i];
    }
}

static void walk(Pool *pool, int thread) {
    const Batch *batch = pool->batch;
    if (pool->room[thread] < batch->scratch) {
        free(pool->scratch[thread]);
        pool->scratch[thread] = aligned_alloc(64, (batch->scratch + 63) / 64 * 64);
        pool->room[thread] = pool->scratch[thread] ? batch->scratch : 0;
        if (!pool->scratch[thread]) abort();
    }
    Thread me = {pool, batch, thread, 0, 0, pool->scratch[thread]};
    const Op *ops = pool->ops, *end = ops + pool->count; /* the next run may change what the pool says of them */
    for (const Op *op = ops; op < end; op++) {
        switch (op->code) {
        case EMBED: embed(&me, op); break;
        case NORM: norm(&me, op); break;
        case LINEAR: linear(&me, op); break;
        case ATTEND: attend(&me, op); break;
        }
        meet(&me);
    }
    if (me.side) meet(&me); /* the next run begins on the same side */
}

static void *worker(void *given) {
    Pool *pool = ((void **)given)[0];
    int thread = (int)(intptr_t)((void **)given)[1], done = 0;
    free(given);
    for (;; done++) {
        wait(pool, &pool->run, done);
        walk(pool, thread);
    }
    return 0;
}

Pool *cutaway_pool(int threads) {
    Pool *pool = calloc(1, sizeof(Pool));
    if (!pool) return 0;
    pool->threads = threads;
    pool->others = calloc(threads, sizeof(pthread_t));
    pool->scratch = calloc(threads, sizeof(char *));
    pool->room = calloc(threads, sizeof(int64_t));
    for (int side = 0; side < 2; side++) pool->shares[side] = calloc(threads, sizeof(Share));
    for (int i = 1; i < threads; i++) {
        void **given = malloc(2 * sizeof(void *));
        given[0] = pool, given[1] = (void *)(intptr_t)i;
        if (pthread_create(&pool->others[i], 0, worker, given)) {
            free(given);
            pool->threads = i;
            break;
        }
    }
    return pool;
}

/* All operations on one batch, by all threads of the pool, the calling one among them. */
void cutaway_run(Pool *pool, const Op *ops, int64_t count, const Batch *batch) {
    pool->ops = ops, pool->count = count, pool->batch = batch;
    change(pool, &pool->run);
    walk(pool, 0);
}

/* Are prompts rounded where they meet matrices in bfloat16? */
int cutaway_halves(void) { return halved(); }

/* The sizes of the structs, for Python to compare with its own. */
void cutaway_sizes(int64_t *sizes) {
    sizes[0] = sizeof(Matrix), sizes[1] = sizeof(Norm), sizes[2] = sizeof(Attention), sizes[3] = sizeof(Op), sizes[4] = sizeof(Batch);
}
