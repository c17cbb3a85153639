/* Activations of feed-forward layers, alone or as a gate, and their derivatives: float32 inside, one rounding at the end. */
#include "vector.h"

enum { GELU, GELU_TANH, SILU, RELU };

typedef struct {
    __m512 value, slope;
} Curve;

/* x Phi(x), and Phi(x) + x phi(x). Phi(-u) = exp(-u^2 / 2) times a polynomial in 1 / (1 + 0.36 u), fitted to a relative
   error of 1e-6 for u up to 14, so that the tail of negative x is as exact as the rest. */
static inline __attribute__((always_inline)) Curve gelu(__m512 x) {
    const __m512 one = _mm512_set1_ps(1.0f);
    __m512 u = _mm512_min_ps(_mm512_set1_ps(20.0f), _mm512_abs_ps(x)); /* the second operand is kept where one is no number */
    __m512 bell = two_to16(_mm512_mul_ps(_mm512_mul_ps(u, u), _mm512_set1_ps(-0.721347520f)));
    __m512 t = inverse16(_mm512_fmadd_ps(u, _mm512_set1_ps(0.36f), one));
    __m512 p = _mm512_set1_ps(0.0474350303f);
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-0.180967852f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(0.182457164f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(0.0256108865f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(0.140025899f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(0.141722992f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(0.143716112f));
    __m512 tail = _mm512_mul_ps(_mm512_mul_ps(p, t), bell);
    __mmask16 positive = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GT_OQ);
    __m512 phi = _mm512_mask_sub_ps(tail, positive, one, tail);
    return (Curve){_mm512_mul_ps(x, phi), _mm512_fmadd_ps(_mm512_mul_ps(x, _mm512_set1_ps(0.398942280f)), bell, phi)};
}

/* x s(z) and its derivative s + x s (1 - s) dz, where s(z) = 1 / (1 + exp(-z)). */
static inline __attribute__((always_inline)) Curve gated_by(__m512 x, __m512 z, __m512 dz) {
    const __m512 one = _mm512_set1_ps(1.0f);
    __m512 e = exp16(_mm512_sub_ps(_mm512_setzero_ps(), _mm512_abs_ps(z)));
    __m512 high = inverse16(_mm512_add_ps(one, e)), low = _mm512_mul_ps(e, high); /* s(|z|) and s(-|z|) */
    __mmask16 positive = _mm512_cmp_ps_mask(z, _mm512_setzero_ps(), _CMP_GE_OQ);
    __m512 s = _mm512_mask_mov_ps(low, positive, high);
    return (Curve){_mm512_mul_ps(x, s), _mm512_fmadd_ps(_mm512_mul_ps(_mm512_mul_ps(x, dz), high), low, s)};
}

/* (1 + tanh(k (x + 0.044715 x^3))) / 2 = s(2 k (x + 0.044715 x^3)), k = sqrt(2 / pi). */
static inline __attribute__((always_inline)) Curve gelu_tanh(__m512 x) {
    const __m512 k = _mm512_set1_ps(1.59576912f), cubic = _mm512_set1_ps(0.0713548163f);
    __m512 square = _mm512_mul_ps(x, x);
    __m512 z = _mm512_mul_ps(x, _mm512_fmadd_ps(square, cubic, k));
    return gated_by(x, z, _mm512_fmadd_ps(square, _mm512_set1_ps(0.214064449f), k));
}

static inline __attribute__((always_inline)) Curve curve(int kind, __m512 x) {
    if (kind == GELU) return gelu(x);
    if (kind == GELU_TANH) return gelu_tanh(x);
    if (kind == SILU) return gated_by(x, x, _mm512_set1_ps(1.0f));
    const __m512 zero = _mm512_setzero_ps(); /* max keeps the second operand where one is no number */
    return (Curve){_mm512_max_ps(zero, x), _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, zero, _CMP_GT_OQ), _mm512_set1_ps(1.0f))};
}

#define INLINE static inline __attribute__((always_inline))

INLINE void activate16(int kind, const bf16 *x, const bf16 *factor, bf16 *y, __mmask16 part) {
    __m512 value = curve(kind, load_part(x, part)).value;
    if (factor) value = _mm512_mul_ps(value, load_part(factor, part));
    store_part(y, part, value);
}

INLINE void activate_row(int kind, const bf16 *x, const bf16 *factor, bf16 *y, int64_t width) {
    int64_t i = 0;
    for (; i + 16 <= width; i += 16) activate16(kind, x + i, factor ? factor + i : NULL, y + i, 0xffff);
    if (i < width) activate16(kind, x + i, factor ? factor + i : NULL, y + i, inside(i, width));
}

INLINE void slope16(int kind, const bf16 *x, const bf16 *factor, const bf16 *dy, bf16 *dx, bf16 *dfactor, __mmask16 part) {
    Curve at = curve(kind, load_part(x, part));
    __m512 given = load_part(dy, part);
    if (factor) {
        store_part(dfactor, part, _mm512_mul_ps(given, at.value));
        given = _mm512_mul_ps(given, load_part(factor, part));
    }
    store_part(dx, part, _mm512_mul_ps(given, at.slope));
}

INLINE void slope_row(int kind, const bf16 *x, const bf16 *factor, const bf16 *dy, bf16 *dx, bf16 *dfactor, int64_t width) {
    int64_t i = 0;
    for (; i + 16 <= width; i += 16) slope16(kind, x + i, factor ? factor + i : NULL, dy + i, dx + i, dfactor + i, 0xffff);
    if (i < width) slope16(kind, x + i, factor ? factor + i : NULL, dy + i, dx + i, dfactor + i, inside(i, width));
}

/* y (rows, width) from x: act(x), x (rows, width), or with `gated` act(x[:, :width]) * x[:, width:], x (rows, 2 width). */
EXPORT void activate(int kind, int gated, const bf16 *x, bf16 *y, int64_t rows, int64_t width, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const bf16 *from = x + row * width * (gated ? 2 : 1), *factor = gated ? from + width : NULL;
        bf16 *to = y + row * width;
        if (kind == GELU) activate_row(GELU, from, factor, to, width);
        else if (kind == GELU_TANH) activate_row(GELU_TANH, from, factor, to, width);
        else if (kind == SILU) activate_row(SILU, from, factor, to, width);
        else activate_row(RELU, from, factor, to, width);
    }
}

/* dx, as large as x, from x and dy (rows, width): the gradient of `activate`. */
EXPORT void activate_backward(int kind, int gated, const bf16 *x, const bf16 *dy, bf16 *dx, int64_t rows, int64_t width, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        int64_t start = row * width * (gated ? 2 : 1);
        const bf16 *from = x + start, *factor = gated ? from + width : NULL, *given = dy + row * width;
        bf16 *to = dx + start, *other = to + width;
        if (kind == GELU) slope_row(GELU, from, factor, given, to, other, width);
        else if (kind == GELU_TANH) slope_row(GELU_TANH, from, factor, given, to, other, width);
        else if (kind == SILU) slope_row(SILU, from, factor, given, to, other, width);
        else slope_row(RELU, from, factor, given, to, other, width);
    }
}

/* y (count) in float32 grows by x (count). */
EXPORT void add_to_wide(const bf16 *x, float *y, int64_t count, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < count / 16; i++) {
        float *to = y + 16 * i;
        _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), load_part(x + 16 * i, 0xffff)));
    }
    __mmask16 part = inside(count / 16 * 16, count);
    float *to = y + count / 16 * 16;
    _mm512_mask_storeu_ps(to, part, _mm512_add_ps(_mm512_maskz_loadu_ps(part, to), load_part(x + count / 16 * 16, part)));
}
