/* What the kernels share: bf16 numbers, and the tile registers of AMX (Intel SDM volume 1, chapter 18). */
#pragma once
#include <immintrin.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint16_t bf16;

static inline float to_float(bf16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

/* To the nearest, ties to even; what is no number stays so. */
static inline bf16 to_bf16(float x) {
    return (bf16)_mm_cvtsi128_si32((__m128i)_mm_cvtneps_pbh(_mm_set_ss(x)));
}

static inline __m512 load16(const bf16 *x) { /* 16 numbers */
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x)), 16));
}

static inline void store16(bf16 *x, __m512 v) { _mm256_storeu_si256((__m256i *)x, (__m256i)_mm512_cvtneps_pbh(v)); }

/* gcc does not know that a tile is loaded from memory: what C has stored must be there first. */
static inline void finish_stores(void) { __asm__ volatile("" ::: "memory"); }

/* The kernel must be asked once in a process before tiles can be used. */
static inline void allow_tiles(void) { syscall(SYS_arch_prctl, 0x1023, 18); }

/* All eight tiles as 16 rows of 64 bytes; of this thread, until _tile_release. */
static inline void configure_tiles(void) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } __attribute__((packed)) tiles = {.palette = 1};
    for (int i = 0; i < 8; i++) tiles.bytes[i] = 64, tiles.rows[i] = 16;
    _tile_loadconfig(&tiles);
}
