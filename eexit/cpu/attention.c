/* Causal attention of one token per row to its own row's positions; no other positions are read.

Compiled for one shape: GROUP query heads per key head, KEY_WIDTH and VALUE_WIDTH numbers per head. Shapes: B rows,
N slots, H key heads, G query heads per key head, S positions that the cache has room for, D width of a key, W width of
a value, M positions that can be marked as hidden. Row b is in slot_B[b] of the cache. Scores and sums are fp32; NaN
propagates. */

#include "numbers.h"

enum { G = GROUP, D = KEY_WIDTH, W = VALUE_WIDTH, BLOCK_POSITIONS = 256, CACHE_LINE_BYTES = 64, POSITIONS_AHEAD = 16 };

/* Below any score. It is finite, since -infinity minus -infinity is NaN. A row's own position is never hidden, so that
next to its score the softmax of this one is 0. */
static const float HIDDEN_SCORE = -1e30f;

static inline void prefetch(const number *start, long n_numbers) {
    for (long n = 0; n < n_numbers; n += CACHE_LINE_BYTES / sizeof(number))
        __builtin_prefetch(start + n);
}

/* One key head, positions first…last, block by block: sums of earlier blocks are rescaled when a higher score is found
(online softmax, Milakov and Gimelshein 2018). An attention sink is a score without a value: the sum starts with it.
Positions that are marked in hidden_S, which may be NULL, are not attended to. */
static void attend_head(
    const number *query_GD, const number *key_SD, const number *value_SW, const float *sink_G,
    const uint8_t *hidden_S, number *out_GW, long first, long last, float scaling) {
    float query[G][D], score[G][BLOCK_POSITIONS], max[G], sum[G], out[G][W];
    for (long g = 0; g < G; g++) {
        for (long d = 0; d < D; d++)
            query[g][d] = load(query_GD[g * D + d]) * scaling;
        for (long w = 0; w < W; w++)
            out[g][w] = 0;
        max[g] = sink_G ? sink_G[g] : -INFINITY, sum[g] = sink_G ? 1 : 0;
    }
    for (long begin = first; begin <= last; begin += BLOCK_POSITIONS) {
        long size = last + 1 - begin < BLOCK_POSITIONS ? last + 1 - begin : BLOCK_POSITIONS;
        for (long s = 0; s < size; s++) {
            float key[D];
            prefetch(key_SD + (begin + s + POSITIONS_AHEAD) * D, D);
            prefetch(value_SW + (begin + s) * W, W); /* needed as soon as the block's scores are there */
            for (long d = 0; d < D; d++)
                key[d] = load(key_SD[(begin + s) * D + d]);
            for (long g = 0; g < G; g++) {
                float product = 0;
#pragma omp simd reduction(+ : product)
                for (long d = 0; d < D; d++)
                    product += query[g][d] * key[d];
                score[g][s] = product;
            }
            if (hidden_S && hidden_S[begin + s])
                for (long g = 0; g < G; g++)
                    score[g][s] = HIDDEN_SCORE;
        }
        for (long g = 0; g < G; g++) {
            float before = max[g], highest = before, block_sum = 0;
#pragma omp simd reduction(max : highest)
            for (long s = 0; s < size; s++)
                highest = score[g][s] > highest ? score[g][s] : highest;
#pragma omp simd reduction(+ : block_sum)
            for (long s = 0; s < size; s++) {
                score[g][s] = exponential(score[g][s] - highest);
                block_sum += score[g][s];
            }
            float shrink = exponential(before - highest);
            max[g] = highest, sum[g] = sum[g] * shrink + block_sum;
            for (long w = 0; w < W; w++)
                out[g][w] *= shrink;
        }
        for (long s = 0; s < size; s++) {
            float value[W];
            for (long w = 0; w < W; w++)
                value[w] = load(value_SW[(begin + s) * W + w]);
            for (long g = 0; g < G; g++)
                for (long w = 0; w < W; w++)
                    out[g][w] += score[g][s] * value[w];
        }
    }
    for (long g = 0; g < G; g++)
        for (long w = 0; w < W; w++)
            out_GW[g * W + w] = store(out[g][w] / sum[g]);
}

/* Row b attends to the last `window` positions up to position_B[b], its own. sink_HG and hidden_NM may be NULL. */
void attention(
    const number *query_BHGD, const number *key_NHSD, const number *value_NHSW, number *out_BHGW,
    const int64_t *slot_B, const int64_t *position_B, const float *sink_HG, const uint8_t *hidden_NM, int n_threads,
    long B, long H, long S, long M, long window, float scaling) {
#pragma omp parallel for collapse(2) num_threads(n_threads)
    for (long b = 0; b < B; b++)
        for (long h = 0; h < H; h++) {
            long head = b * H + h, place = (slot_B[b] * H + h) * S, last = position_B[b];
            long first = last + 1 > window ? last + 1 - window : 0;
            attend_head(
                query_BHGD + head * G * D, key_NHSD + place * D, value_NHSW + place * W,
                sink_HG ? sink_HG + h * G : NULL, hidden_NM ? hidden_NM + slot_B[b] * M : NULL, out_BHGW + head * G * W,
                first, last, scaling);
        }
}
