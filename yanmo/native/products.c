/* The weight gradient of a linear layer: dY^T X, whose sum runs over the rows of both.

The matrix unit wants 16 rows of 32 numbers along the sum (A) times 16 rows of 32 numbers, two of the sum beside each other
(B). So dY is transposed and the rows of X are interleaved in twos. A block of the result stays in a core's L2, and so does
its part of X; a panel of dY is laid out just before its use and stays in L1.
A panel is 32 columns of either matrix, a step 32 rows. Up to SINGLE steps are one pass over the rows; more are passes of up to
PASS steps each, so that a panel of dY leaves room in L1, and the sums wait in memory between passes. */
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "tile.h"

enum { PANEL = 32, PASS = 8, SINGLE = 16, SIDE = 512, PANELS = SIDE / PANEL, HUGE_PAGE = 2 << 20 };
enum { STEP = PANEL * PANEL, CORNER = 16 * 16, SQUARE = PANEL * PANEL };
enum { SPAN = SINGLE * STEP + 64 }; /* between panels of X: not all of them in the same sets of L1 */
enum { WRITE, ADD, ADD_WIDE };

typedef struct {
    const bf16 *dy, *x;
    void *out;
    float *sums;
    long rows, outputs, inputs, dy_stride, x_stride, out_stride;
    int mode;
} Product;

typedef struct { /* of one thread */
    _Alignas(64) bf16 a[SINGLE * STEP];
    _Alignas(64) bf16 b[PANELS * SPAN];
    _Alignas(64) float c[PANELS * PANELS * SQUARE]; /* between passes, in the order of the tiles */
    _Alignas(64) bf16 staged[STEP];
    _Alignas(64) float square[SQUARE];
} Workspace;

static pthread_key_t workspaces;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void prepare(void) {
    allow_tiles();
    pthread_key_create(&workspaces, free);
}

static Workspace *workspace(void) { /* kept until the thread ends: fresh memory would cost more than a small product */
    Workspace *w = pthread_getspecific(workspaces);
    if (w) return w;
    size_t size = (sizeof *w + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    w = aligned_alloc(HUGE_PAGE, size);
    if (!w) abort();
    madvise(w, size, MADV_HUGEPAGE);
    pthread_setspecific(workspaces, w);
    return w;
}

static inline long smaller(long a, long b) { return a < b ? a : b; }
static inline uint32_t mask32(long count) { return count >= 32 ? 0xffffffffu : (1u << count) - 1; }

/* 32 rows of up to 32 columns, beside each other in memory; zeros where there is nothing. */
static void stage(bf16 *staged, const bf16 *from, long stride, long rows, long columns) {
    __mmask32 mask = mask32(columns);
    for (int n = 0; n < PANEL; n++) {
        __m512i row = n < rows ? _mm512_maskz_loadu_epi16(mask, from + n * stride) : _mm512_setzero_si512();
        _mm512_store_si512(staged + n * PANEL, row);
        if (n < rows) _mm_prefetch((const char *)(from + n * stride + PANEL), _MM_HINT_T1); /* the next panel's */
    }
}

/* 8 columns of 32 staged rows to 8 rows of 32; adds the columns' sums, 4 of them four times over in each of two registers. */
static inline void transpose8(bf16 *to, const bf16 *from, __m512 *sums) {
    __m512i r[8], s[8];
    for (int j = 0; j < 8; j++) {
        __m512i row = _mm512_castsi128_si512(_mm_load_si128((const __m128i *)(from + j * PANEL)));
        row = _mm512_mask_broadcast_i32x4(row, 0x00f0, _mm_load_si128((const __m128i *)(from + (8 + j) * PANEL)));
        row = _mm512_mask_broadcast_i32x4(row, 0x0f00, _mm_load_si128((const __m128i *)(from + (16 + j) * PANEL)));
        r[j] = _mm512_mask_broadcast_i32x4(row, 0xf000, _mm_load_si128((const __m128i *)(from + (24 + j) * PANEL)));
    }
    for (int j = 0; j < 4; j++) {
        s[j] = _mm512_unpacklo_epi16(r[2 * j], r[2 * j + 1]); /* columns 0 to 3 */
        s[4 + j] = _mm512_unpackhi_epi16(r[2 * j], r[2 * j + 1]);
    }
    if (sums) {
        const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
        for (int j = 0; j < 8; j++) sums[j / 4] = _mm512_dpbf16_ps(sums[j / 4], (__m512bh)s[j], ones);
    }
    for (int h = 0; h < 2; h++) {
        __m512i *q = s + 4 * h;
        __m512i t0 = _mm512_unpacklo_epi32(q[0], q[1]), t1 = _mm512_unpackhi_epi32(q[0], q[1]);
        __m512i t2 = _mm512_unpacklo_epi32(q[2], q[3]), t3 = _mm512_unpackhi_epi32(q[2], q[3]);
        bf16 *row = to + 4 * h * PANEL;
        _mm512_store_si512(row, _mm512_unpacklo_epi64(t0, t2));
        _mm512_store_si512(row + PANEL, _mm512_unpackhi_epi64(t0, t2));
        _mm512_store_si512(row + 2 * PANEL, _mm512_unpacklo_epi64(t1, t3));
        _mm512_store_si512(row + 3 * PANEL, _mm512_unpackhi_epi64(t1, t3));
    }
}

static void add_lanes(float *sums, __m512 v, long count) { /* the four lanes hold the same 4 columns */
    __m128 low = _mm_add_ps(_mm512_castps512_ps128(v), _mm512_extractf32x4_ps(v, 1));
    __m128 high = _mm_add_ps(_mm512_extractf32x4_ps(v, 2), _mm512_extractf32x4_ps(v, 3));
    float four[4];
    _mm_storeu_ps(four, _mm_add_ps(low, high));
    for (long i = 0; i < count && i < 4; i++) sums[i] += four[i];
}

/* A panel of dY, transposed: for each step two tiles of 16 columns. */
static void transpose_panel(const Product *p, Workspace *w, long first, long steps, long column, float *sums) {
    long columns = smaller(PANEL, p->outputs - column);
    __m512 partial[8];
    for (int j = 0; j < 8; j++) partial[j] = _mm512_setzero_ps();
    for (long k = 0; k < steps; k++) {
        long row = first + k * PANEL;
        stage(w->staged, p->dy + row * p->dy_stride + column, p->dy_stride, smaller(PANEL, p->rows - row), columns);
        for (int g = 0; g < 4; g++) transpose8(w->a + k * STEP + g * 8 * PANEL, w->staged + g * 8, sums ? partial + 2 * g : NULL);
    }
    if (sums)
        for (int j = 0; j < 8; j++) add_lanes(sums + column + 4 * j, partial[j], columns - 4 * j);
}

/* Columns of X by panels: rows in twos. A step's first tile takes the first four of every eight columns. */
static void interleave(const Product *p, bf16 *to, long first, long steps, long column, long end) {
    for (long k = 0; k < steps * 16; k++) {
        long row = first + 2 * k;
        bf16 *at = to + k / 16 * STEP + k % 16 * PANEL;
        for (long i = column; i < end; i += PANEL, at += SPAN) {
            __mmask32 mask = mask32(p->inputs - i);
            const bf16 *from = p->x + row * p->x_stride + i;
            __m512i even = row < p->rows ? _mm512_maskz_loadu_epi16(mask, from) : _mm512_setzero_si512();
            __m512i odd = row + 1 < p->rows ? _mm512_maskz_loadu_epi16(mask, from + p->x_stride) : _mm512_setzero_si512();
            _mm512_store_si512(at, _mm512_unpacklo_epi16(even, odd));
            _mm512_store_si512(at + STEP / 2, _mm512_unpackhi_epi16(even, odd));
        }
    }
}

/* 32 x 32 sums, to or from four tiles in memory. */
static inline void multiply(const bf16 *a, const bf16 *b, long steps, const float *before, float *after) {
    finish_stores();
    if (before) {
        _tile_loadd(0, before, 64); _tile_loadd(1, before + CORNER, 64);
        _tile_loadd(2, before + 2 * CORNER, 64); _tile_loadd(3, before + 3 * CORNER, 64);
    } else {
        _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
    }
    for (long k = 0; k < steps; k++, a += STEP, b += STEP) {
        _tile_loadd(6, b, 64);
        _tile_loadd(4, a, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b + STEP / 2, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a + STEP / 2, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, after, 64); _tile_stored(1, after + CORNER, 64);
    _tile_stored(2, after + 2 * CORNER, 64); _tile_stored(3, after + 3 * CORNER, 64);
}

/* One row of 32 sums in the order of the tiles, to the result. */
static inline void finish_row(const Product *p, const float *first, const float *second, long at, long columns) {
    const __m512i low = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512i high = _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
    __m512 a = _mm512_load_ps(first), b = _mm512_load_ps(second);
    __m512 left = _mm512_permutex2var_ps(a, low, b), right = _mm512_permutex2var_ps(a, high, b);
    uint32_t mask = mask32(columns);
    if (p->mode == ADD_WIDE) {
        float *to = (float *)p->out + at;
        left = _mm512_add_ps(left, _mm512_maskz_loadu_ps((__mmask16)mask, to));
        right = _mm512_add_ps(right, _mm512_maskz_loadu_ps((__mmask16)(mask >> 16), to + 16));
        _mm512_mask_storeu_ps(to, (__mmask16)mask, left);
        _mm512_mask_storeu_ps(to + 16, (__mmask16)(mask >> 16), right);
        return;
    }
    bf16 *to = (bf16 *)p->out + at;
    if (p->mode == ADD) {
        __m512i old = _mm512_maskz_loadu_epi16(mask, to);
        left = _mm512_add_ps(left, (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(old)), 16));
        right = _mm512_add_ps(right, (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(old, 1)), 16));
    }
    _mm512_mask_storeu_epi16(to, mask, (__m512i)_mm512_cvtne2ps_pbh(right, left));
}

static void finish(const Product *p, const float *square, long o, long i) {
    long rows = smaller(PANEL, p->outputs - o), columns = smaller(PANEL, p->inputs - i);
    for (long r = 0; r < rows; r++) {
        const float *first = square + r / 16 * 2 * CORNER + r % 16 * 16;
        finish_row(p, first, first + CORNER, (o + r) * p->out_stride + i, columns);
    }
}

/* The result's outputs from o to o_end and inputs from i to i_end, at most SIDE of each. */
static void block(const Product *p, Workspace *w, long o, long o_end, long i, long i_end) {
    long steps = (p->rows + PANEL - 1) / PANEL, passes = steps > SINGLE ? (steps + PASS - 1) / PASS : 1;
    float *sums = i == 0 ? p->sums : NULL;
    if (sums) memset(sums + o, 0, (size_t)(o_end - o) * sizeof(float));
    for (long pass = 0; pass < passes; pass++) {
        long step = steps * pass / passes, count = steps * (pass + 1) / passes - step;
        long wide = (i_end - i + PANEL - 1) / PANEL;
        interleave(p, w->b, step * PANEL, count, i, i_end);
        for (long at = o; at < o_end; at += PANEL) {
            transpose_panel(p, w, step * PANEL, count, at, sums);
            for (long q = 0; q < wide; q++) {
                float *c = w->c + ((at - o) / PANEL * PANELS + q) * SQUARE;
                float *after = pass == passes - 1 ? w->square : c;
                multiply(w->a, w->b + q * SPAN, count, pass ? c : NULL, after);
                if (pass == passes - 1) finish(p, after, at, i + q * PANEL);
            }
        }
    }
}

/* out (outputs, inputs) from dy (rows, outputs) and x (rows, inputs), all with strides in numbers from row to row: the product
of dy transposed and x, summed in fp32, is written to bf16 numbers (mode 0), added to bf16 numbers (1) or to floats (2).
The sums of dy's columns go to sums (outputs), unless that is null. */
EXPORT void weight_gradient(const bf16 *dy, const bf16 *x, void *out, float *sums, long rows, long outputs, long inputs,
                            long dy_stride, long x_stride, long out_stride, int mode, int threads) {
    Product p = {dy, x, out, sums, rows, outputs, inputs, dy_stride, x_stride, out_stride, mode};
    long across = (inputs + SIDE - 1) / SIDE, down = (outputs + SIDE - 1) / SIDE;
    while (across * down % threads && down * PANEL < outputs && across * down < 4 * threads) down++;
    pthread_once(&once, prepare);
#pragma omp parallel num_threads(threads)
    {
        configure_tiles();
        Workspace *w = workspace();
#pragma omp for schedule(static)
        for (long n = 0; n < across * down; n++) {
            long panels = (outputs + PANEL - 1) / PANEL, row = n / across, column = n % across;
            long o = panels * row / down * PANEL, o_end = smaller(panels * (row + 1) / down * PANEL, outputs);
            long wide = (inputs + PANEL - 1) / PANEL;
            block(&p, w, o, o_end, wide * column / across * PANEL, smaller(wide * (column + 1) / across * PANEL, inputs));
        }
        _tile_release();
    }
}
