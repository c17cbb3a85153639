/* Attention over packed rows, forward and backward, without scores in memory (Dao 2023, arXiv:2307.08691, section 3).

   Queries and keys are taken in blocks of 32. What no query of a block may see is neither computed nor read: rows of
   many documents and causal rows pay for what they see. Sums, the softmax and its gradient are in fp32.
   Letters: R rows, T queries, S keys, H heads, K key-value heads, W width of a head. */
#include <math.h>
#include <stdlib.h>

#include "attention_blocks.h"

/* ---- forward ---- */

typedef struct {
    bf16 *keys, *values;   /* of the item: (S, W) as pairs along W by key, and as pairs of keys by W */
    bf16 *queries, *room;  /* (32, W) */
    float *scores;         /* (32, SPAN), then weights in bf16 */
    bf16 *weights;
    float *mixed;          /* (32, W) */
    float top[BLOCK], total[BLOCK];
    float *line_room;
    const float *line; /* of the head, by distance, or null */
} Forward;

/* The scores of 32 queries with the listed blocks of keys. */
static void score(const Forward *f, int block, const int *list, int count, int W) {
    const int chunks = W / 32;
    for (int b = 0; b < count; b++) {
        const bf16 *keys = f->keys + (int64_t)list[b] * BLOCK * W;
        start_square(f->line ? f->line + (list[b] - block) * BLOCK : 0);
        for (int c = 0; c < chunks; c++)
            multiply_square(f->queries + c * TILE, f->queries + (chunks + c) * TILE, 64, keys + c * TILE,
                keys + (chunks + c) * TILE);
        store_square(f->scores + b * BLOCK, SCORE_LINE);
    }
}

/* Hides what query `query` may not see in the blocks that it sees in part; gives the greatest score. list: 2 * block +
    whole. */
static inline float hide_and_find_top(const Reach *reach, int query, const int *list, int count, float *line) {
    const __m512 hidden = _mm512_set1_ps(-INFINITY);
    __m512 top[2] = {hidden, hidden};
    for (int b = 0; b < count; b++)
        for (int half = 0; half < 2; half++) {
            float *at = line + b * BLOCK + half * 16;
            __m512 s = _mm512_load_ps(at);
            if (!(list[b] & 1)) {
                s = _mm512_mask_mov_ps(hidden, seen_keys(reach, query, (list[b] >> 1) * BLOCK + half * 16), s);
                _mm512_store_ps(at, s);
            }
            top[half] = _mm512_max_ps(top[half], s);
        }
    return _mm512_reduce_max_ps(_mm512_max_ps(top[0], top[1]));
}

/* What was mixed so far, less the share that greater scores have taken from it. */
static void shrink(Forward *f, int i, float by, int W) {
    f->total[i] *= by;
    for (int w = 0; w < W; w += 16)
        _mm512_store_ps(f->mixed + i * W + w, _mm512_mul_ps(_mm512_load_ps(f->mixed + i * W + w), _mm512_set1_ps(by)));
}

/* Weights from the scores of 32 queries. */
static void soften(Forward *f, const Reach *reach, int block, const int *list, int count, float scale, int started, int W) {
    float base[BLOCK];
    for (int i = 0; i < BLOCK; i++) {
        const float before = f->top[i], top = hide_and_find_top(reach, block * BLOCK + i, list, count,
            f->scores + i * SCORE_LINE) * scale;
        f->top[i] = before > top ? before : top;
        base[i] = f->top[i] == -INFINITY ? 0 : f->top[i];
        if (started && before != f->top[i]) shrink(f, i, exp2f(before - base[i]), W);
    }
    const __m512 scales = _mm512_set1_ps(scale);
    for (int i = 0; i < BLOCK; i++) {
        const float *line = f->scores + i * SCORE_LINE;
        const __m512 bases = _mm512_set1_ps(base[i]);
        __m512 total[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
        for (int b = 0; b < count; b++) {
            __m512 low = two_to16(_mm512_fmsub_ps(_mm512_load_ps(line + b * BLOCK), scales, bases));
            __m512 high = two_to16(_mm512_fmsub_ps(_mm512_load_ps(line + b * BLOCK + 16), scales, bases));
            total[0] = _mm512_add_ps(total[0], low), total[1] = _mm512_add_ps(total[1], high);
            store32(f->weights + i * WEIGHT_LINE + b * BLOCK, low, high);
        }
        f->total[i] += _mm512_reduce_add_ps(_mm512_add_ps(total[0], total[1]));
    }
}

static void mix(const Forward *f, const int *list, int count, int started, int W) {
    for (int w = 0; w < W; w += 32) {
        if (started) load_square(f->mixed + w, W);
        else zero_square();
        for (int b = 0; b < count; b++) {
            const bf16 *values = f->values + (int64_t)(list[b] >> 1) * BLOCK * W + w * BLOCK;
            multiply_square(f->weights + b * BLOCK, f->weights + 16 * WEIGHT_LINE + b * BLOCK, WEIGHT_LINE * 2, values,
                values + TILE);
        }
        store_square(f->mixed + w, W);
    }
}

/* Fetch what will be written, while there is time. */
static void expect_writes(const bf16 *to, int64_t line, int64_t live, int W) {
    for (int i = 0; i < live; i++)
        for (int w = 0; w < W; w += 32) __builtin_prefetch(to + i * line + w, 1);
}

/* 32 queries of one head: out (.., W) with lines `line` apart, lse (T). */
static void forward_block(Forward *f, const Reach *reach, int block, float scale, int W, bf16 *out, int64_t line, float *lse) {
    int started = 0, list[CHUNK], blocks[CHUNK];
    const int key_blocks = (reach->keys + BLOCK - 1) / BLOCK, live = least(BLOCK, reach->queries - block * BLOCK);
    for (int i = 0; i < BLOCK; i++) f->top[i] = -INFINITY, f->total[i] = 0;
    for (int next = 0; next < key_blocks;) {
        int count = 0;
        for (; next < key_blocks && count < CHUNK; next++)
            if (touches(reach, block, next)) blocks[count] = next, list[count++] = 2 * next + covers(reach, block, next);
        if (!count) break;
        score(f, block, blocks, count, W);
        soften(f, reach, block, list, count, scale, started, W);
        mix(f, list, count, started, W);
        started = 1;
    }
    if (!started) memset(f->mixed, 0, sizeof(float) * BLOCK * W);
    for (int i = 0; i < live; i++) {
        const __m512 share = _mm512_set1_ps(f->total[i] == 0 ? 0 : 1 / f->total[i]);
        for (int w = 0; w < W; w += 32)
            store32(out + i * line + w, _mm512_mul_ps(_mm512_load_ps(f->mixed + i * W + w), share),
                    _mm512_mul_ps(_mm512_load_ps(f->mixed + i * W + w + 16), share));
        lse[i] = f->total[i] == 0 ? 0 : f->top[i] + log2f(f->total[i]);
    }
}

/* q (R, T, H, W), k and v (R, S, K, W), by the strides in `shape`, W contiguous, to out (R, T, H, W) and lse (R, H, T),
   both contiguous; lse is to the base of 2 and is what the backward pass needs. query_documents (R, T), key_documents
   (R, S): a query sees the keys with its own number; null where everything is one document. cos, sin (R or 1, T, W / 2):
   queries and keys are rotated by these first, or null; then S = T. bias: (H, T + S - 1), what is added to the scores of each
   distance key - query, the least first, or null. A query that sees nothing gives zeros. */
EXPORT void attention_forward(const bf16 *q, const bf16 *k, const bf16 *v, const int64_t *query_documents,
                              const int64_t *key_documents, const bf16 *cos, const bf16 *sin, const float *bias, bf16 *out,
                              float *lse, const Shape *shape, int threads) {
    const int T = shape->queries, S = shape->keys, H = shape->heads, K = shape->kv_heads, W = shape->width, group = H / K;
    const int64_t keys = padded(S);
    const float scale = M_LOG2E * shape->scale;
    allow_tiles();
#pragma omp parallel num_threads(threads)
    {
        Scratch scratch = open_scratch(4 * keys * W + 4 * BLOCK * W + 4 * BLOCK * SCORE_LINE + 2 * BLOCK * WEIGHT_LINE +
                                       4 * BLOCK * W + line_bytes(T, S) + reach_bytes(T, S));
        Forward f = {.keys = take(&scratch, 2 * keys * W), .values = take(&scratch, 2 * keys * W)};
        f.queries = take(&scratch, 2 * BLOCK * W), f.room = take(&scratch, 2 * BLOCK * W), f.scores = take(&scratch,
            4 * BLOCK * SCORE_LINE);
        f.weights = take(&scratch, 2 * BLOCK * WEIGHT_LINE), f.mixed = take(&scratch, 4 * BLOCK * W);
        f.line_room = take(&scratch, line_bytes(T, S)), f.line = 0;
        Reach reach = take_reach(&scratch, shape);
        configure_tiles();
#pragma omp for schedule(dynamic)
        for (int64_t item = 0; item < shape->rows * K; item++) {
            const int64_t row = item / K, head = item % K;
            const bf16 *key = k + row * shape->k.row + head * shape->k.head,
                *value = v + row * shape->v.row + head * shape->v.head;
            fill_reach(&reach, query_documents ? query_documents + row * T : 0, key_documents ? key_documents + row * S : 0);
            const Angles angles = angles_at(cos, sin, row * shape->angle_row);
            for (int64_t s = 0; s < S; s += BLOCK) {
                const Lines keys = {key + s * shape->k.token, shape->k.token}, values = {value + s * shape->v.token,
                    shape->v.token};
                pack_turned(f.keys + s * W, rotated(keys, f.room, S - s, angles, s, W), S - s, W);
                pack_pairs(f.values + s * W, values, S - s, W);
            }
            for (int64_t h = head * group; h < (head + 1) * group; h++) {
                if (bias) f.line = lay_line(f.line_room, bias + h * (T + S - 1), shape, 0);
                for (int64_t t = 0; t < T; t += BLOCK) {
                    bf16 *result = out + ((row * T + t) * H + h) * W;
                    expect_writes(result, (int64_t)H * W, least(BLOCK, T - t), W);
                    const Lines queries = {q + row * shape->q.row + t * shape->q.token + h * shape->q.head, shape->q.token};
                    pack_plain(f.queries, rotated(queries, f.room, T - t, angles, t, W), T - t, W);
                    forward_block(&f, &reach, t / BLOCK, scale, W, result, (int64_t)H * W, lse + (row * H + h) * T + t);
                }
            }
        }
        _tile_release();
        free(scratch.start);
    }
}

/* ---- backward: everything is turned, keys by queries, so that weights come out as the operand that they are used as ---- */

typedef struct {
    bf16 *keys, *values, *turned_keys;                 /* of the item: (S, W), (S, W), (W, S) */
    bf16 *query_pairs, *queries, *dout_pairs, *douts;  /* of SPAN queries: pairs along W, pairs of queries; likewise dout */
    float *lse, *delta;                                /* of SPAN queries */
    bf16 *room;                                        /* (32, W) */
    float *scores, *dweights;                          /* (32, 32) */
    bf16 *weights, *dscores;                           /* (32 keys, SPAN) */
    bf16 *dscore_pairs;                                /* (SPAN keys, SPAN queries) as pairs of keys */
    float *dkeys, *dvalues, *dqueries;                 /* (S, W), (S, W), (W, SPAN) in blocks of 32 queries */
    float *line_room, *dline;                          /* by distance query - key; dline begins at 1 - padded(S) */
    const float *line;                                 /* or null */
} Backward;

/* The 32 x 32 products over W of two packed blocks, and what `line` adds. */
static inline void square_over_width(const bf16 *a, const bf16 *b, const float *line, int W, float *result) {
    const int chunks = W / 32;
    start_square(line);
    for (int c = 0; c < chunks; c++)
        multiply_square(a + c * TILE, a + (chunks + c) * TILE, 64, b + c * TILE, b + (chunks + c) * TILE);
    store_square(result, BLOCK);
}

/* Weights and the gradient of scores of one block, 32 keys x 32 queries; `at` is the block's place among the SPAN queries. */
static void weigh(const Backward *g, const Reach *reach, int key_block, int query_block, int at, int column, float scale,
    bf16 *pairs) {
    const int whole = covers(reach, query_block, key_block);
    const __m512 scales = _mm512_set1_ps(scale);
    float *dline = g->dline + (query_block - key_block) * BLOCK + padded(reach->keys) - BLOCK;
    __m512 lse[2], delta[2], p[2][2], d[2][2], diagonals[4];
    for (int part = 0; part < 4; part++) diagonals[part] = _mm512_setzero_ps();
    for (int half = 0; half < 2; half++) {
        lse[half] = _mm512_load_ps(g->lse + at * BLOCK + half * 16);
        delta[half] = _mm512_load_ps(g->delta + at * BLOCK + half * 16);
    }
    for (int i = 0; i < BLOCK; i += 2) {
        for (int odd = 0; odd < 2; odd++)
            for (int half = 0; half < 2; half++) {
                const int from = (i + odd) * BLOCK + half * 16;
                __m512 weight = two_to16(_mm512_fmsub_ps(_mm512_load_ps(g->scores + from), scales, lse[half]));
                if (!whole)
                    weight = _mm512_maskz_mov_ps(seen_queries(reach, key_block * BLOCK + i + odd,
                        query_block * BLOCK + half * 16), weight);
                p[odd][half] = weight;
                d[odd][half] = _mm512_mul_ps(weight, _mm512_sub_ps(_mm512_load_ps(g->dweights + from), delta[half]));
            }
        if (g->line) add_to_diagonals(diagonals, d[0]), add_to_diagonals(diagonals, d[1]);
        bf16 *weights = g->weights + i * WEIGHT_LINE + column * BLOCK, *dscores = g->dscores + i * WEIGHT_LINE + column * BLOCK;
        store32(weights, p[0][0], p[0][1]);
        store32(weights + WEIGHT_LINE, p[1][0], p[1][1]);
        const __m512i even = (__m512i)_mm512_cvtne2ps_pbh(d[0][1], d[0][0]), odd = (__m512i)_mm512_cvtne2ps_pbh(d[1][1],
            d[1][0]);
        _mm512_storeu_si512(dscores, even);
        _mm512_storeu_si512(dscores + WEIGHT_LINE, odd);
        _mm512_store_si512(pairs + i * 16, _mm512_permutex2var_epi16(even, first_pairs(), odd));
        _mm512_store_si512(pairs + TILE + i * 16, _mm512_permutex2var_epi16(even, last_pairs(), odd));
    }
    for (int part = 0; g->line && part < 4; part++)
        _mm512_store_ps(dline + part * 16, _mm512_add_ps(_mm512_load_ps(dline + part * 16), diagonals[part]));
}

/* sums (32, W) += a (32, 32 for each listed block) x b (32 for each listed block, W). */
static void add_products(const bf16 *a, const bf16 *b, const int *list, int count, float *sums, int W) {
    for (int w = 0; w < W; w += 32) {
        load_square(sums + w, W);
        for (int i = 0; i < count; i++) {
            const bf16 *right = b + (int64_t)list[i] * BLOCK * W + w * BLOCK;
            multiply_square(a + i * BLOCK, a + 16 * WEIGHT_LINE + i * BLOCK, WEIGHT_LINE * 2, right, right + TILE);
        }
        store_square(sums + w, W);
    }
}

/* All that `queries` blocks from `first_query` on and `keys` blocks from `first_key` on give each other; at most CHUNK each. */
static void backward_chunk(const Backward *g, const Reach *reach, int first_query, int queries, int first_key, int keys,
    float scale, int W) {
    int list[CHUNK];
    for (int b = 0; b < keys; b++) {
        const int key = first_key + b;
        int count = 0;
        for (int a = 0; a < queries; a++) {
            if (!touches(reach, first_query + a, key)) continue;
            square_over_width(g->keys + (int64_t)key * BLOCK * W, g->query_pairs + a * BLOCK * W,
                g->line ? g->line + (first_query + a - key) * BLOCK : 0, W, g->scores);
            square_over_width(g->values + (int64_t)key * BLOCK * W, g->dout_pairs + a * BLOCK * W, 0, W, g->dweights);
            weigh(g, reach, key, first_query + a, a, count, scale, g->dscore_pairs + (a * CHUNK + b) * 2 * TILE);
            list[count++] = a;
        }
        if (!count) continue;
        add_products(g->weights, g->douts, list, count, g->dvalues + (int64_t)key * BLOCK * W, W);
        add_products(g->dscores, g->queries, list, count, g->dkeys + (int64_t)key * BLOCK * W, W);
    }
    for (int a = 0; a < queries; a++)
        for (int w = 0; w < W; w += 32) {
            float *sums = g->dqueries + (a * W + w) * BLOCK;
            load_square(sums, BLOCK);
            for (int b = 0; b < keys; b++) {
                if (!touches(reach, first_query + a, first_key + b)) continue;
                const bf16 *left = g->turned_keys + (int64_t)(first_key + b) * BLOCK * W + w * BLOCK;
                const bf16 *right = g->dscore_pairs + (a * CHUNK + b) * 2 * TILE;
                multiply_square(left, left + TILE, 64, right, right + TILE);
            }
            store_square(sums, BLOCK);
        }
}

/* Pack the queries of a span and what their outputs are asked for; delta is the sum over W of out * dout. */
static void open_span(const Backward *g, Lines q, Angles angles, int64_t token, const bf16 *out, const bf16 *dout, int64_t line,
                      const float *lse, int live, int W) {
    for (int t = 0; t < live; t += BLOCK) {
        const Lines queries = rotated((Lines){q.x + t * q.line, q.line}, g->room, live - t, angles, token + t, W);
        const Lines douts = {dout + t * line, line};
        pack_turned(g->query_pairs + t * W, queries, live - t, W);
        pack_pairs(g->queries + t * W, queries, live - t, W);
        pack_turned(g->dout_pairs + t * W, douts, live - t, W);
        pack_pairs(g->douts + t * W, douts, live - t, W);
    }
    for (int t = 0; t < live; t++) {
        __m512 sum = _mm512_setzero_ps();
        for (int w = 0; w < W; w += 16) sum = _mm512_fmadd_ps(load16(out + t * line + w), load16(dout + t * line + w), sum);
        g->lse[t] = lse[t], g->delta[t] = _mm512_reduce_add_ps(sum);
    }
    for (int t = live; t < padded(live); t++) g->lse[t] = INFINITY, g->delta[t] = 0; /* no weight, whatever the score */
    memset(g->dqueries, 0, 4 * padded(live) * W);
}

static Backward take_backward(Scratch *scratch, int64_t keys, int64_t line, int W) {
    Backward g;
    g.keys = take(scratch, 2 * keys * W), g.values = take(scratch, 2 * keys * W), g.turned_keys = take(scratch, 2 * keys * W);
    g.query_pairs = take(scratch, 2 * SPAN * W), g.queries = take(scratch, 2 * SPAN * W);
    g.dout_pairs = take(scratch, 2 * SPAN * W), g.douts = take(scratch, 2 * SPAN * W);
    g.lse = take(scratch, 4 * SPAN), g.delta = take(scratch, 4 * SPAN);
    g.room = take(scratch, 2 * BLOCK * W);
    g.scores = take(scratch, 4 * BLOCK * BLOCK), g.dweights = take(scratch, 4 * BLOCK * BLOCK);
    g.weights = take(scratch, 2 * BLOCK * WEIGHT_LINE), g.dscores = take(scratch, 2 * BLOCK * WEIGHT_LINE);
    g.dscore_pairs = take(scratch, 2 * SPAN * SPAN);
    g.dkeys = take(scratch, 4 * keys * W), g.dvalues = take(scratch, 4 * keys * W), g.dqueries = take(scratch, 4 * SPAN * W);
    g.line_room = take(scratch, line), g.dline = take(scratch, line), g.line = 0;
    return g;
}

static void open_keys(const Backward *g, Lines k, Lines v, Angles angles, int64_t S, int W) {
    for (int64_t s = 0; s < S; s += BLOCK) {
        const Lines keys = rotated((Lines){k.x + s * k.line, k.line}, g->room, S - s, angles, s, W);
        pack_plain(g->keys + s * W, keys, S - s, W);
        pack_across(g->turned_keys + s * W, keys, S - s, W);
        pack_plain(g->values + s * W, (Lines){v.x + s * v.line, v.line}, S - s, W);
    }
    memset(g->dkeys, 0, 4 * padded(S) * W), memset(g->dvalues, 0, 4 * padded(S) * W);
}

static void write_queries(const Backward *g, bf16 *dq, int64_t line, Angles angles, int64_t token, float scale, int live,
    int W) {
    for (int t = 0; t < live; t += BLOCK) {
        const float *sums = g->dqueries + t * W;
        if (angles.cos) {
            write_turned(g->room, W, sums, scale, live - t, W);
            write_back(dq + t * line, line, g->room, live - t, angles, token + t, W);
        } else write_turned(dq + t * line, line, sums, scale, live - t, W);
    }
}

static void write_keys(const Backward *g, bf16 *dk, int64_t line, Angles angles, float scale, int64_t S, int W) {
    if (!angles.cos) return write_plain(dk, line, g->dkeys, scale, S, W);
    for (int64_t s = 0; s < S; s += BLOCK) {
        write_plain(g->room, W, g->dkeys + s * W, scale, least(BLOCK, S - s), W);
        write_back(dk + s * line, line, g->room, S - s, angles, s, W);
    }
}

static void open_line(Backward *g, const float *bias, const Shape *shape) {
    g->line = lay_line(g->line_room, bias, shape, 1);
    memset(g->dline, 0, line_bytes(shape->queries, shape->keys));
}

static void write_line(const Backward *g, float *dbias, int T, int S) {
    for (int distance = 1 - T; distance < S; distance++) dbias[distance + T - 1] = g->dline[padded(S) - 1 - distance];
}

/* One key-value head of one row, with all heads of its group; k, v, dk and dv are the head's, all else the whole row's. */
static void backward_item(Backward *g, const Reach *reach, const Shape *shape, int64_t head, Angles angles, const float *bias,
                          const bf16 *q, const bf16 *k, const bf16 *v, const bf16 *out, const bf16 *dout, const float *lse,
                          bf16 *dq, bf16 *dk, bf16 *dv, float *dbias) {
    const int T = shape->queries, S = shape->keys, H = shape->heads, W = shape->width, group = H / shape->kv_heads;
    const int key_blocks = (S + BLOCK - 1) / BLOCK;
    const float scale = shape->scale, base = M_LOG2E * shape->scale;
    open_keys(g, (Lines){k, shape->k.token}, (Lines){v, shape->v.token}, angles, S, W);
    for (int64_t h = head * group; h < (head + 1) * group; h++) {
        if (bias) open_line(g, bias + h * (T + S - 1), shape);
        for (int64_t t = 0; t < T; t += SPAN) {
            const int live = least(SPAN, T - t), blocks = (live + BLOCK - 1) / BLOCK;
            const Lines queries = {q + t * shape->q.token + h * shape->q.head, shape->q.token};
            open_span(g, queries, angles, t, out + (t * H + h) * W, dout + (t * H + h) * W, (int64_t)H * W, lse + h * T + t,
                live, W);
            expect_writes(dq + t * shape->dq.token + h * shape->dq.head, shape->dq.token, live, W);
            for (int b = 0; b < key_blocks; b += CHUNK)
                backward_chunk(g, reach, t / BLOCK, blocks, b, least(CHUNK, key_blocks - b), base, W);
            write_queries(g, dq + t * shape->dq.token + h * shape->dq.head, shape->dq.token, angles, t, scale, live, W);
        }
        if (bias) write_line(g, dbias + h * (T + S - 1), T, S);
    }
    write_keys(g, dk, shape->dk.token, angles, scale, S, W);
    write_plain(dv, shape->dv.token, g->dvalues, 1, S, W);
}

/* The gradients of q, k and v, by the strides in `shape`, and of the bias, (R, H, T + S - 1) for each row by itself, from dout
   (R, T, H, W), contiguous; all else as in attention_forward, whose out and lse these are. */
EXPORT void attention_backward(const bf16 *q, const bf16 *k, const bf16 *v, const int64_t *query_documents,
                               const int64_t *key_documents, const bf16 *cos, const bf16 *sin, const float *bias,
                               const bf16 *out, const float *lse, const bf16 *dout, bf16 *dq, bf16 *dk, bf16 *dv, float *dbias,
                               const Shape *shape, int threads) {
    const int T = shape->queries, S = shape->keys, K = shape->kv_heads, W = shape->width;
    const int64_t keys = padded(S);
    allow_tiles();
#pragma omp parallel num_threads(threads)
    {
        Scratch scratch = open_scratch(14 * keys * W + 12 * SPAN * W + 2 * BLOCK * W + 8 * SPAN + 8 * BLOCK * BLOCK +
                                       4 * BLOCK * WEIGHT_LINE + 2 * SPAN * SPAN + 2 * line_bytes(T, S) + reach_bytes(T, S));
        Backward g = take_backward(&scratch, keys, line_bytes(T, S), W);
        Reach reach = take_reach(&scratch, shape);
        configure_tiles();
#pragma omp for schedule(dynamic)
        for (int64_t item = 0; item < shape->rows * K; item++) {
            const int64_t row = item / K, head = item % K, line = (int64_t)T * shape->heads;
            fill_reach(&reach, query_documents ? query_documents + row * T : 0, key_documents ? key_documents + row * S : 0);
            backward_item(&g, &reach, shape, head, angles_at(cos, sin, row * shape->angle_row), bias, q + row * shape->q.row,
                          k + row * shape->k.row + head * shape->k.head, v + row * shape->v.row + head * shape->v.head,
                          out + row * line * W, dout + row * line * W, lse + row * line, dq + row * shape->dq.row,
                          dk + row * shape->dk.row + head * shape->dk.head, dv + row * shape->dv.row + head * shape->dv.head,
                          bias ? dbias + row * shape->heads * (T + S - 1) : 0);
        }
        _tile_release();
        free(scratch.start);
    }
}
