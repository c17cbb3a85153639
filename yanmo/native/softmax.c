/* The cross entropy of rows of scores, and its gradient in their place. */
#include <math.h>
#include <stdlib.h>

#include "vector.h"

/* The highest of a row; what is no number may be passed over. */
static float highest(const bf16 *x, int64_t width) {
    __m512 even = _mm512_set1_ps(-INFINITY), odd = even, more_even = even, more_odd = even;
    int64_t i = 0;
    for (; i + 64 <= width; i += 64) {
        __m512i first = _mm512_loadu_si512(x + i), second = _mm512_loadu_si512(x + i + 32);
        even = _mm512_max_ps(even, low_halves(first)), odd = _mm512_max_ps(odd, high_halves(first));
        more_even = _mm512_max_ps(more_even, low_halves(second)), more_odd = _mm512_max_ps(more_odd, high_halves(second));
    }
    for (; i < width; i += 16) {
        __mmask16 part = inside(i, width);
        even = _mm512_mask_max_ps(even, part, even, load_part(x + i, part));
    }
    return _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(even, odd), _mm512_max_ps(more_even, more_odd)));
}

/* exp(x - best) of a row, and their sum. */
static float exponentials(const bf16 *x, int64_t width, float best, float *out) {
    __m512 shift = _mm512_set1_ps(best), sum = _mm512_setzero_ps(), other = sum;
    int64_t i = 0;
    for (; i + 32 <= width; i += 32) {
        __m512 first = exp16(_mm512_sub_ps(load16(x + i), shift)), second = exp16(_mm512_sub_ps(load16(x + i + 16), shift));
        _mm512_store_ps(out + i, first), _mm512_store_ps(out + i + 16, second);
        sum = _mm512_add_ps(sum, first), other = _mm512_add_ps(other, second);
    }
    for (; i < width; i += 16) {
        __mmask16 part = inside(i, width);
        __m512 last = _mm512_maskz_mov_ps(part, exp16(_mm512_sub_ps(load_part(x + i, part), shift)));
        _mm512_store_ps(out + i, last);
        sum = _mm512_add_ps(sum, last);
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(sum, other));
}

/* x * factor, less `taken` in the first `upto` columns. */
static void scaled(const float *x, int64_t width, float factor, float taken, int64_t upto, bf16 *out) {
    __m512 by = _mm512_set1_ps(factor), less = _mm512_set1_ps(taken);
    int64_t i = 0;
    for (; i + 16 <= upto; i += 16) store16(out + i, _mm512_fmsub_ps(_mm512_load_ps(x + i), by, less));
    for (; i < width; i += 16) {
        __m512 rest = i < upto ? _mm512_maskz_mov_ps(inside(i, upto), less) : _mm512_setzero_ps();
        store_part(out + i, inside(i, width), _mm512_fmsub_ps(_mm512_load_ps(x + i), by, rest));
    }
}

static float sum_of(const bf16 *x, int64_t width) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < width; i += 16) sum = _mm512_add_ps(sum, load_part(x + i, inside(i, width)));
    return _mm512_reduce_add_ps(sum);
}

static int appears_before(const bf16 *x, int64_t end, float value) {
    for (int64_t i = 0; i < end; i += 16) {
        __mmask16 part = inside(i, end);
        if (_mm512_mask_cmp_ps_mask(part, load_part(x + i, part), _mm512_set1_ps(value), _CMP_EQ_OQ)) return 1;
    }
    return 0;
}

/* scores: (rows, width) in bf16, answers: (rows) columns. To totals[0] the cross entropies in nats are added, to totals[1]
   the number of rows whose first highest score is the answer's. With `learns` a row becomes its softmax less one at the
   answer, rounded once. smoothing: of the one at the answer so much goes to the first `tokens` columns, to all the same.
   losses, right: (rows), room to work in. Gives -1 and does nothing where an answer is not one of those columns. */
EXPORT int cross_entropy(bf16 *scores, const int64_t *answers, double *totals, float *losses, float *right,
                         int64_t rows, int64_t width, int64_t tokens, double smoothing, int learns, int threads) {
    const float rest = (float)(1 - smoothing), each = (float)(smoothing / tokens);
    for (int64_t row = 0; row < rows; row++)
        if (answers[row] < 0 || answers[row] >= tokens) return -1;
#pragma omp parallel num_threads(threads)
    {
        float *chances = aligned_alloc(64, (size_t)(width + 31) / 16 * 64);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; row++) {
            bf16 *x = scores + row * width;
            float best = highest(x, width), sum = exponentials(x, width, best, chances), given = to_float(x[answers[row]]);
            losses[row] = logf(sum) + (best - given);
            if (smoothing > 0) losses[row] += (float)smoothing * (given - sum_of(x, tokens) / tokens);
            right[row] = given == best && sum == sum && !appears_before(x, answers[row], best);
            if (!learns) continue;
            scaled(chances, width, 1.0f / sum, each, tokens, x);
            x[answers[row]] = to_bf16(chances[answers[row]] / sum - each - rest);
        }
        free(chances);
    }
    for (int64_t row = 0; row < rows; row++) totals[0] += losses[row], totals[1] += right[row];
    return 0;
}
