/* LayerNorm (Ba et al. 2016, arXiv:1607.06450) and RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467), which takes the
   mean to be zero: float32 inside, sums over rows included. */
#include <math.h>

#include "vector.h"

enum { BLOCK = 64 }; /* rows whose sums are added up together, whatever the number of threads */

#define INLINE static inline __attribute__((always_inline))
/* Loops over 16 columns at a time. Compiled twice: `even` is known, and a width that 32 divides needs no masks. */
#define COLUMNS(i, part, width) \
    for (int64_t i = 0; i < (width); i += 16) \
        for (__mmask16 part = even ? 0xffff : inside(i, width), once = 1; once; once = 0)

INLINE float mean_of(int even, const bf16 *x, int64_t width) {
    __m512 sum = _mm512_setzero_ps(), other = sum;
    for (int64_t i = 0; even && i < width; i += 32) {
        __m512i pair = _mm512_loadu_si512(x + i);
        sum = _mm512_add_ps(sum, low_halves(pair)), other = _mm512_add_ps(other, high_halves(pair));
    }
    if (!even) COLUMNS(i, part, width) sum = _mm512_add_ps(sum, load_part(x + i, part));
    return _mm512_reduce_add_ps(_mm512_add_ps(sum, other)) / width;
}

INLINE float variance_around(int even, float mean, const bf16 *x, int64_t width) {
    __m512 centre = _mm512_set1_ps(mean), sum = _mm512_setzero_ps(), other = sum;
    for (int64_t i = 0; even && i < width; i += 32) {
        __m512i pair = _mm512_loadu_si512(x + i);
        __m512 low = _mm512_sub_ps(low_halves(pair), centre), high = _mm512_sub_ps(high_halves(pair), centre);
        sum = _mm512_fmadd_ps(low, low, sum), other = _mm512_fmadd_ps(high, high, other);
    }
    if (!even) COLUMNS(i, part, width) {
        __m512 distance = _mm512_maskz_sub_ps(part, load_part(x + i, part), centre);
        sum = _mm512_fmadd_ps(distance, distance, sum);
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(sum, other)) / width;
}

INLINE __m512 centred(const bf16 *x, __mmask16 part, __m512 mean, __m512 scale) {
    return _mm512_maskz_mul_ps(part, _mm512_sub_ps(load_part(x, part), mean), scale);
}

INLINE void row_forward(int even, const bf16 *x, const bf16 *weight, const bf16 *bias, bf16 *y, float *mean_kept, float *scale_kept,
                        int64_t width, float eps, int centres) {
    float mean = centres ? mean_of(even, x, width) : 0.0f;
    float scale = 1.0f / sqrtf(variance_around(even, mean, x, width) + eps);
    __m512 mean16 = _mm512_set1_ps(mean), scale16 = _mm512_set1_ps(scale);
    COLUMNS(i, part, width) {
        __m512 shift = bias ? load_part(bias + i, part) : _mm512_setzero_ps();
        store_part(y + i, part, _mm512_fmadd_ps(centred(x + i, part, mean16, scale16), load_part(weight + i, part), shift));
    }
    *mean_kept = mean, *scale_kept = scale;
}

/* y = (x - mean) scale weight + bias, all of them (rows, width) or (width), bias may be null. means, scales: (rows), kept
   for the way back; a scale is 1 / sqrt(variance + eps). With `centres` 0 the means are taken to be zero. */
EXPORT void norm(const bf16 *x, const bf16 *weight, const bf16 *bias, bf16 *y, float *means, float *scales, int64_t rows,
                 int64_t width, float eps, int centres, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const bf16 *from = x + row * width;
        bf16 *to = y + row * width;
        if (width % 32 == 0) row_forward(1, from, weight, bias, to, means + row, scales + row, width, eps, centres);
        else row_forward(0, from, weight, bias, to, means + row, scales + row, width, eps, centres);
    }
}

/* Adds a row's part of the gradients of weight and bias to `sums` (2, width), and its gradient g of the normed numbers n
   gives dx = scale (g - mean(g) - n mean(g n)). */
INLINE void row_backward(int even, const bf16 *x, const bf16 *weight, const bf16 *dy, bf16 *dx, float *sums, int64_t width, float mean,
                         float scale, int centres) {
    __m512 mean16 = _mm512_set1_ps(mean), scale16 = _mm512_set1_ps(scale);
    __m512 of_g = _mm512_setzero_ps(), of_gn = of_g;
    COLUMNS(i, part, width) {
        __m512 normed = centred(x + i, part, mean16, scale16), given = load_part(dy + i, part);
        __m512 g = _mm512_mul_ps(given, load_part(weight + i, part));
        float *of_weight = sums + i, *of_bias = sums + width + i;
        _mm512_mask_storeu_ps(of_weight, part, _mm512_fmadd_ps(given, normed, _mm512_maskz_loadu_ps(part, of_weight)));
        _mm512_mask_storeu_ps(of_bias, part, _mm512_add_ps(given, _mm512_maskz_loadu_ps(part, of_bias)));
        of_g = _mm512_add_ps(of_g, g), of_gn = _mm512_fmadd_ps(g, normed, of_gn);
    }
    __m512 mean_g = _mm512_set1_ps(centres ? _mm512_reduce_add_ps(of_g) / width : 0.0f);
    __m512 mean_gn = _mm512_set1_ps(_mm512_reduce_add_ps(of_gn) / width);
    COLUMNS(i, part, width) {
        __m512 normed = centred(x + i, part, mean16, scale16);
        __m512 g = _mm512_fmsub_ps(load_part(dy + i, part), load_part(weight + i, part), mean_g);
        store_part(dx + i, part, _mm512_mul_ps(scale16, _mm512_fnmadd_ps(normed, mean_gn, g)));
    }
}

/* dx (rows, width) from dy and what `norm` was given and kept. dweight, dbias: (width), rounded once. room:
   (ceil(rows / 64), 2, width) in float32, to work in. */
EXPORT void norm_backward(const bf16 *x, const bf16 *weight, const bf16 *dy, const float *means, const float *scales, bf16 *dx,
                          bf16 *dweight, bf16 *dbias, float *room, int64_t rows, int64_t width, int centres, int threads) {
    int64_t blocks = (rows + BLOCK - 1) / BLOCK;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t block = 0; block < blocks; block++) {
        float *sums = room + block * 2 * width;
        memset(sums, 0, sizeof(float) * 2 * width);
        for (int64_t row = block * BLOCK; row < rows && row < (block + 1) * BLOCK; row++) {
            const bf16 *from = x + row * width, *given = dy + row * width;
            bf16 *to = dx + row * width;
            if (width % 32 == 0) row_backward(1, from, weight, given, to, sums, width, means[row], scales[row], centres);
            else row_backward(0, from, weight, given, to, sums, width, means[row], scales[row], centres);
        }
    }
    const int even = width % 32 == 0;
    COLUMNS(i, part, width) {
        __m512 of_weight = _mm512_setzero_ps(), of_bias = of_weight;
        for (int64_t block = 0; block < blocks; block++) {
            of_weight = _mm512_add_ps(of_weight, _mm512_maskz_loadu_ps(part, room + block * 2 * width + i));
            of_bias = _mm512_add_ps(of_bias, _mm512_maskz_loadu_ps(part, room + (block * 2 + 1) * width + i));
        }
        store_part(dweight + i, part, of_weight);
        if (dbias) store_part(dbias + i, part, of_bias);
    }
}
