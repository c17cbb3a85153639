/* Blocks of 32 for attention: who may see whom, how rows are laid into tiles, and products of 32 x 32. */
#pragma once
#include <limits.h>
#include <stdlib.h>

#include "vector.h"

enum {
    BLOCK = 32,
    CHUNK = 8, /* blocks that are worked on at once */
    SPAN = BLOCK * CHUNK,
    TILE = 512, /* bf16 numbers of a tile */
    SCORE_LINE = SPAN + 16, /* not a power of two: its lines would fall on each other in the cache */
    WEIGHT_LINE = SPAN + 32,
};

/* Strides in numbers. */
typedef struct {
    int64_t row, token, head;
} Strides;

/* window: the largest distance seen, to either side, or -1. angle_row: from one row's rotary angles to the next's. scale: what
   scores are multiplied by, greater than 0. */
typedef struct {
    int64_t rows, queries, keys, heads, kv_heads, width, causal, window, angle_row;
    double scale;
    Strides q, k, v, dq, dk, dv;
} Shape;

static inline int least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t padded(int64_t n) { return (n + BLOCK - 1) / BLOCK * BLOCK; }

/* ---- memory of one thread ---- */

typedef struct {
    char *start, *next;
} Scratch;

static inline int64_t rounded(int64_t bytes) { return (bytes + 127) / 128 *
    128; } /* pieces begin at a cache line of their own */

static inline Scratch open_scratch(int64_t bytes) {
    char *start = aligned_alloc(4096, (bytes + 64 * 128 + 4095) / 4096 * 4096);
    if (!start) abort();
    return (Scratch){start, start};
}

static inline void *take(Scratch *scratch, int64_t bytes) {
    void *taken = scratch->next;
    scratch->next += rounded(bytes);
    return taken;
}

/* ---- who may see whom ---- */

/* documents: padded to whole blocks; low, high: the least and the greatest number of each block. */
typedef struct {
    int queries, keys, ahead, behind; /* how far a query sees */
    int *query_document, *query_low, *query_high, *key_document, *key_low, *key_high;
} Reach;

static inline int64_t reach_bytes(int64_t T, int64_t S) { return 12 * (padded(T) + padded(S)); }

static inline Reach take_reach(Scratch *scratch, const Shape *shape) {
    const int64_t T = padded(shape->queries), S = padded(shape->keys), far = shape->window < 0 ? INT_MAX / 2 : shape->window;
    Reach reach = {.queries = shape->queries, .keys = shape->keys, .ahead = shape->causal ? 0 : far, .behind = far};
    reach.query_document = take(scratch, 4 * T), reach.key_document = take(scratch, 4 * S);
    reach.query_low = take(scratch, T / 8), reach.query_high = take(scratch, T / 8);
    reach.key_low = take(scratch, S / 8), reach.key_high = take(scratch, S / 8);
    return reach;
}

/* Padding, number 0, stands behind all documents and is counted as the last, so that numbers grow along a row. */
static inline void fill_side(const int64_t *documents, int length, int beyond, int *document, int *low, int *high) {
    for (int start = 0; start < length; start += BLOCK) {
        int least_of = INT_MAX, greatest = INT_MIN;
        for (int i = start; i < start + BLOCK; i++) {
            document[i] = i >= length ? beyond : !documents ? 1 : documents[i] ? (int)documents[i] : INT_MAX;
            if (i < length) {
                least_of = document[i] < least_of ? document[i] : least_of;
                greatest = document[i] > greatest ? document[i] : greatest;
            }
        }
        low[start / BLOCK] = least_of, high[start / BLOCK] = greatest;
    }
}

/* The keys beyond the last are of a document that no query has; queries beyond the last may see what they like. */
static inline void fill_reach(Reach *reach, const int64_t *query_documents, const int64_t *key_documents) {
    fill_side(query_documents, reach->queries, 1, reach->query_document, reach->query_low, reach->query_high);
    fill_side(key_documents, reach->keys, INT_MIN, reach->key_document, reach->key_low, reach->key_high);
}

/* Whether any query of the block may see any key of the block; may err on the side of yes. */
static inline int touches(const Reach *reach, int query_block, int key_block) {
    const int behind = (query_block - key_block) * BLOCK - (BLOCK - 1), ahead = (key_block - query_block) * BLOCK - (BLOCK - 1);
    return behind <= reach->behind && ahead <= reach->ahead && reach->query_low[query_block] <= reach->key_high[key_block] &&
           reach->key_low[key_block] <= reach->query_high[query_block];
}

/* Whether every query of the block sees every key of the block. */
static inline int covers(const Reach *reach, int query_block, int key_block) {
    const int behind = (query_block - key_block) * BLOCK + (BLOCK - 1), ahead = (key_block - query_block) * BLOCK + (BLOCK - 1);
    return behind <= reach->behind && ahead <= reach->ahead && (key_block + 1) * BLOCK <= reach->keys &&
           reach->query_low[query_block] == reach->key_high[key_block] &&
               reach->key_low[key_block] == reach->query_high[query_block];
}

static inline __m512i counted_from(int first) {
    return _mm512_add_epi32(_mm512_set1_epi32(first), _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}

/* Which of 16 keys a query sees. */
static inline __mmask16 seen_keys(const Reach *reach, int query, int key) {
    const __m512i ahead = _mm512_sub_epi32(counted_from(key), _mm512_set1_epi32(query));
    __mmask16 seen = _mm512_cmpeq_epi32_mask(_mm512_loadu_si512(reach->key_document + key),
        _mm512_set1_epi32(reach->query_document[query]));
    seen = _mm512_mask_cmple_epi32_mask(seen, ahead, _mm512_set1_epi32(reach->ahead));
    return _mm512_mask_cmpge_epi32_mask(seen, ahead, _mm512_set1_epi32(-reach->behind));
}

/* Which of 16 queries see a key. */
static inline __mmask16 seen_queries(const Reach *reach, int key, int query) {
    const __m512i behind = _mm512_sub_epi32(counted_from(query), _mm512_set1_epi32(key));
    __mmask16 seen = _mm512_cmpeq_epi32_mask(_mm512_loadu_si512(reach->query_document + query),
        _mm512_set1_epi32(reach->key_document[key]));
    seen = _mm512_mask_cmple_epi32_mask(seen, behind, _mm512_set1_epi32(reach->behind));
    return _mm512_mask_cmpge_epi32_mask(seen, behind, _mm512_set1_epi32(-reach->ahead));
}

/* ---- what a head adds to its scores for each distance key - query, from 1 - T to S - 1 ---- */

/* All distances of whole blocks. */
static inline int64_t line_bytes(int64_t T, int64_t S) { return 4 * (padded(T) + padded(S)); }

/* The numbers, by which scores are raised before they are scaled: at result[distance], or at result[-distance] if turned. */
static inline const float *lay_line(float *room, const float *line, const Shape *shape, int turned) {
    const int T = shape->queries, S = shape->keys, step = turned ? -1 : 1;
    float *zero = room + padded(turned ? S : T);
    const float share = 1 / shape->scale;
    memset(room, 0, line_bytes(T, S));
    for (int distance = 1 - T; distance < S; distance++) zero[step * distance] = line[distance + T - 1] * share;
    return zero;
}

/* Sums along the diagonals of a square that is taken line by line: in the end that of j - i at place j - i + 31. */
static inline void add_to_diagonals(__m512 sums[4], const __m512 line[2]) {
    for (int part = 3; part > 0; part--)
        sums[part] = (__m512)_mm512_alignr_epi32((__m512i)sums[part], (__m512i)sums[part - 1], 15);
    sums[0] = (__m512)_mm512_alignr_epi32((__m512i)sums[0], _mm512_setzero_si512(), 15);
    sums[0] = _mm512_add_ps(sums[0], line[0]), sums[1] = _mm512_add_ps(sums[1], line[1]);
}

/* ---- numbers ---- */

static inline void store32(bf16 *x, __m512 low, __m512 high) { _mm512_storeu_si512(x, (__m512i)_mm512_cvtne2ps_pbh(high,
    low)); }

/* Two lines of 32 to pairs, one number of each: the first 16 pairs, and the last. */
static inline __m512i first_pairs(void) {
    const __m512i k = counted_from(0);
    return _mm512_or_si512(k, _mm512_slli_epi32(_mm512_add_epi32(k, _mm512_set1_epi32(32)), 16));
}
static inline __m512i last_pairs(void) { return _mm512_add_epi16(first_pairs(), _mm512_set1_epi16(16)); }

static inline void turn16(__m512i r[16]) { /* 16 x 16 numbers of 32 bits */
    __m512i s[16];
    for (int i = 0; i < 16; i += 2) s[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]), s[i + 1] = _mm512_unpackhi_epi32(r[i],
        r[i + 1]);
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            r[i + 2 * j] = _mm512_unpacklo_epi64(s[i + j], s[i + j + 2]);
            r[i + 2 * j + 1] = _mm512_unpackhi_epi64(s[i + j], s[i + j + 2]);
        }
    for (int i = 0; i < 4; i++) {
        s[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88), s[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        s[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88), s[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(s[i], s[i + 8], 0x88), r[i + 8] = _mm512_shuffle_i32x4(s[i], s[i + 8], 0xdd);
        r[i + 4] = _mm512_shuffle_i32x4(s[i + 4], s[i + 12], 0x88), r[i + 12] = _mm512_shuffle_i32x4(s[i + 4], s[i + 12], 0xdd);
    }
}

/* ---- 32 lines of W numbers, of which `live` are there and the others count as zeros, laid into tiles ---- */

typedef struct {
    const bf16 *x;
    int64_t line;
} Lines;

static inline __m512i line_or_zeros(Lines from, int w, int i, int64_t live) {
    return i < live ? _mm512_loadu_si512(from.x + i * from.line + w) : _mm512_setzero_si512();
}

/* Of the tokens of one row, (T, W / 2) each; null where nothing is rotated. */
typedef struct {
    const bf16 *cos, *sin;
} Angles;

static inline Angles angles_at(const bf16 *cos, const bf16 *sin, int64_t from) {
    return cos ? (Angles){cos + from, sin + from} : (Angles){0, 0};
}

/* Rotates the pairs (w, w + W / 2) of lines by their angles, or back; rounds once. */
static inline void rotate_lines(bf16 *to, int64_t to_line, Lines from, int64_t live, Angles angles, int back, int W) {
    const int half = W / 2;
    for (int64_t i = 0; i < live; i++)
        for (int w = 0; w < half; w += 16) {
            const __m512 a = load16(from.x + i * from.line + w), b = load16(from.x + i * from.line + half + w);
            const __m512 cos = load16(angles.cos + i * half + w), turn = load16(angles.sin + i * half + w);
            const __m512 sin = back ? _mm512_sub_ps(_mm512_setzero_ps(), turn) : turn;
            store16(to + i * to_line + w, _mm512_fmsub_ps(a, cos, _mm512_mul_ps(b, sin)));
            store16(to + i * to_line + half + w, _mm512_fmadd_ps(b, cos, _mm512_mul_ps(a, sin)));
        }
}

/* At most 32 lines, rotated in `room` (32, W) where there are angles; `token` is the first one's. */
static inline Lines rotated(Lines from, bf16 *room, int64_t live, Angles angles, int64_t token, int W) {
    if (!angles.cos) return from;
    rotate_lines(room, W, from, least(BLOCK, live), angles_at(angles.cos, angles.sin, token * W / 2), 0, W);
    return (Lines){room, W};
}

/* As a left operand of products over W: tile (line / 16, w / 32). */
static inline void pack_plain(bf16 *to, Lines from, int64_t live, int W) {
    for (int i = 0; i < BLOCK; i++)
        for (int w = 0; w < W; w += 32)
            _mm512_store_si512(to + (i / 16 * (W / 32) + w / 32) * TILE + i % 16 * 32, line_or_zeros(from, w, i, live));
}

/* As a right operand of products over W: tile (line / 16, w / 32), pairs along W by line. */
static inline void pack_turned(bf16 *to, Lines from, int64_t live, int W) {
    for (int start = 0; start < BLOCK; start += 16)
        for (int w = 0; w < W; w += 32, to += TILE) {
            __m512i r[16];
            for (int i = 0; i < 16; i++) r[i] = line_or_zeros(from, w, start + i, live);
            turn16(r);
            for (int i = 0; i < 16; i++) _mm512_store_si512(to + i * 32, r[i]);
        }
}

/* As a right operand of products over the lines: tile w / 16, pairs of lines by W. */
static inline void pack_pairs(bf16 *to, Lines from, int64_t live, int W) {
    const __m512i first = first_pairs(), last = last_pairs();
    for (int w = 0; w < W; w += 32, to += 2 * TILE)
        for (int i = 0; i < BLOCK; i += 2) {
            const __m512i even = line_or_zeros(from, w, i, live), odd = line_or_zeros(from, w, i + 1, live);
            _mm512_store_si512(to + i * 16, _mm512_permutex2var_epi16(even, first, odd));
            _mm512_store_si512(to + TILE + i * 16, _mm512_permutex2var_epi16(even, last, odd));
        }
}

/* As a left operand of products over the lines: tile w / 16, W by lines. */
static inline void pack_across(bf16 *to, Lines from, int64_t live, int W) {
    pack_pairs(to, from, live, W);
    for (int w = 0; w < W; w += 16, to += TILE) {
        __m512i r[16];
        for (int i = 0; i < 16; i++) r[i] = _mm512_load_si512(to + i * 32);
        turn16(r);
        for (int i = 0; i < 16; i++) _mm512_store_si512(to + i * 32, r[i]);
    }
}

/* sums (live, W) * scale. */
static inline void write_plain(bf16 *to, int64_t line, const float *sums, float scale, int64_t live, int W) {
    const __m512 scales = _mm512_set1_ps(scale);
    for (int64_t i = 0; i < live; i++)
        for (int w = 0; w < W; w += 32)
            store32(to + i * line + w, _mm512_mul_ps(_mm512_load_ps(sums + i * W + w), scales),
                    _mm512_mul_ps(_mm512_load_ps(sums + i * W + w + 16), scales));
}

/* sums (W, 32) * scale, turned to `live` lines of W, at most 32. */
static inline void write_turned(bf16 *to, int64_t line, const float *sums, float scale, int64_t live, int W) {
    const __m512 scales = _mm512_set1_ps(scale);
    const __m512i k = counted_from(0), pairs = _mm512_or_si512(k, _mm512_slli_epi32(_mm512_add_epi32(k,
        _mm512_set1_epi32(16)), 16));
    for (int start = 0; start < least(BLOCK, live); start += 16)
        for (int w = 0; w < W; w += 32) {
            __m512i r[16];
            for (int i = 0; i < 16; i++) {
                const float *from = sums + (w + 2 * i) * BLOCK + start;
                const __m512 even = _mm512_mul_ps(_mm512_load_ps(from), scales),
                    odd = _mm512_mul_ps(_mm512_load_ps(from + BLOCK), scales);
                r[i] = _mm512_permutexvar_epi16(pairs, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
            }
            turn16(r);
            for (int i = 0; i < least(16, live - start); i++) _mm512_storeu_si512(to + (start + i) * line + w, r[i]);
        }
}

/* Gradients of rotated lines, of at most 32 tokens from `token` on, rotated back. */
static inline void write_back(bf16 *to, int64_t line, const bf16 *room, int64_t live, Angles angles, int64_t token, int W) {
    rotate_lines(to, line, (Lines){room, W}, least(BLOCK, live), angles_at(angles.cos, angles.sin, token * W / 2), 1, W);
}

/* ---- products of 32 x 32: sums in tiles 0 to 3, operands in 4 to 7 ---- */

static inline void zero_square(void) {
    finish_stores();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

static inline void load_square(const float *x, int64_t line) {
    finish_stores();
    _tile_loadd(0, x, line * 4);
    _tile_loadd(1, x + 16, line * 4);
    _tile_loadd(2, x + 16 * line, line * 4);
    _tile_loadd(3, x + 16 * line + 16, line * 4);
}

static inline void store_square(float *x, int64_t line) {
    _tile_stored(0, x, line * 4);
    _tile_stored(1, x + 16, line * 4);
    _tile_stored(2, x + 16 * line, line * 4);
    _tile_stored(3, x + 16 * line + 16, line * 4);
}

/* Sums that begin with at[j - i] in line i and column j, or with zeros: a tile may be read backwards, line after line. */
static inline void start_square(const float *at) {
    if (!at) return zero_square();
    finish_stores();
    _tile_loadd(0, at, -4);
    _tile_loadd(1, at + 16, -4);
    _tile_loadd(2, at - 16, -4);
    _tile_loadd(3, at, -4);
}

/* a: two tiles of 16 lines each, lines `bytes` apart; b: two tiles of 16 pairs. */
static inline void multiply_square(const bf16 *a0, const bf16 *a1, int64_t bytes, const bf16 *b0, const bf16 *b1) {
    _tile_loadd(4, a0, bytes);
    _tile_loadd(6, b0, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b1, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, a1, bytes);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
}
