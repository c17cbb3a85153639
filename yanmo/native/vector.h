/* Sixteen numbers at once: the end of a row, and the exponential. */
#pragma once
#include "tile.h"

/* Which of the 16 numbers from `column` on lie in a row of `width`. */
static inline __mmask16 inside(int64_t column, int64_t width) {
    return width - column >= 16 ? 0xffff : (__mmask16)((1u << (width - column)) - 1);
}

static inline __m512 load_part(const bf16 *x, __mmask16 part) { /* zero elsewhere */
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(part, x)), 16));
}

static inline void store_part(bf16 *x, __mmask16 part, __m512 v) {
    _mm256_mask_storeu_epi16(x, part, (__m256i)_mm512_cvtneps_pbh(v));
}

/* Of 32 numbers those at even and at odd places, where their order does not matter. */
static inline __m512 low_halves(__m512i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)); }
static inline __m512 high_halves(__m512i x) {
    return _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32((int)0xffff0000u)));
}

/* 2^x = 2^floor(x) 2^f: a polynomial in f, 1 at 0, fitted to the least relative error, 2e-7 with its roundings. Minus infinity gives
   zero; what is no number stays so. */
static inline __m512 two_to16(__m512 x) {
    __m512 f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    __m512 p = _mm512_set1_ps(0.00186713017f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.00901702978f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.0557999127f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.240164444f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.693151295f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, x);
}

/* exp(x), to a relative error of 2e-7 + 6e-8 |x|. */
static inline __m512 exp16(__m512 x) { return two_to16(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f))); }

/* 1 / x to a relative error of 1e-7, for x whose inverse is a normal number. */
static inline __m512 inverse16(__m512 x) {
    __m512 y = _mm512_rcp14_ps(x);
    return _mm512_mul_ps(y, _mm512_fnmadd_ps(x, y, _mm512_set1_ps(2.0f)));
}
