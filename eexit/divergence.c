/* What exits.divergence_from_final computes, in two passes over the logits of a row and without a temporary of theirs.

Shapes: N rows, X layers with the final one last, V vocabulary, K top tokens, at least 1. All arrays are contiguous.
Sums are fp32 within a block of the vocabulary and double over blocks. What is not a number stays so. */

#include <math.h>
#include <stdint.h>
#include <string.h>

enum { BLOCK = 256 };

/* Logits are fp32, or bfloat16: the upper half of an fp32. */
static inline __attribute__((always_inline)) float logit(const void *logits, long i, int is_bfloat16) {
    if (!is_bfloat16)
        return ((const float *)logits)[i];
    uint32_t bits = (uint32_t)((const uint16_t *)logits)[i] << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* e^x for x <= 0 as 2^n e^r with |r| <= ln(2) / 2 and six terms of the series: a libm call per value would be seven
times slower, since compilers use its vector version only if they may ignore what is not a number. */
static inline __attribute__((always_inline)) float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    float n = rintf(x * 1.442695041f);
    float r = x - n * 0.693145752f - n * 1.428606765e-6f;
    float series = 1 / 24.0f + r * (1 / 120.0f + r * (1 / 720.0f));
    series = 1.0f + r * (1.0f + r * (1 / 2.0f + r * (1 / 6.0f + r * series)));
    int32_t bits = ((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return series * power;
}

/* The highest logit, and the K highest with their tokens, highest first; of equal ones the first token. */
static inline __attribute__((always_inline)) float highest(
    const void *logits, long start, int is_bfloat16, long V, long K, int32_t *token, float *value) {
    for (long k = 0; k < K; k++)
        token[k] = 0, value[k] = -INFINITY;
    for (long begin = 0; begin < V; begin += BLOCK) {
        long end = begin + BLOCK < V ? begin + BLOCK : V;
        float max = -INFINITY;
#pragma omp simd reduction(max : max)
        for (long v = begin; v < end; v++) {
            float z = logit(logits, start + v, is_bfloat16);
            max = z > max ? z : max;
        }
        if (max <= value[K - 1])
            continue;
        for (long v = begin; v < end; v++) {
            float z = logit(logits, start + v, is_bfloat16);
            long k = K;
            for (; k > 0 && z > value[k - 1]; k--)
                if (k < K)
                    token[k] = token[k - 1], value[k] = value[k - 1];
            if (k < K)
                token[k] = (int32_t)v, value[k] = z;
        }
    }
    return value[0];
}

static inline __attribute__((always_inline)) void compare(
    const void *logits, long start, int is_bfloat16, long X, long V, long K,
    float *kl_E, float *entropy, float *final_lse, int32_t *token_XK, float *prob_XK) {
    float max_X[X], final_exp[BLOCK];
    double sum_X[X], expected_X[X]; /* of exp(z - max), and of z - max weighted by the final layer's */
    long final = start + (X - 1) * V;
    for (long x = 0; x < X; x++) {
        max_X[x] = highest(logits, start + x * V, is_bfloat16, V, K, token_XK + x * K, prob_XK + x * K);
        sum_X[x] = expected_X[x] = 0;
    }
    for (long begin = 0; begin < V; begin += BLOCK) {
        long size = begin + BLOCK < V ? BLOCK : V - begin;
#pragma omp simd
        for (long i = 0; i < size; i++)
            final_exp[i] = exponential(logit(logits, final + begin + i, is_bfloat16) - max_X[X - 1]);
        for (long x = 0; x < X; x++) {
            float sum = 0, expected = 0, max = max_X[x];
#pragma omp simd reduction(+ : sum, expected)
            for (long i = 0; i < size; i++) {
                float z = logit(logits, start + x * V + begin + i, is_bfloat16) - max;
                sum += exponential(z);
                expected += final_exp[i] * z;
            }
            sum_X[x] += sum, expected_X[x] += expected;
        }
    }
    double negative_entropy = 0;
    for (long x = X - 1; x >= 0; x--) {
        double lse = log(sum_X[x]), expected_log_p = expected_X[x] / sum_X[X - 1] - lse;
        for (long k = 0; k < K; k++)
            prob_XK[x * K + k] = (float)exp(prob_XK[x * K + k] - max_X[x] - lse);
        if (x == X - 1) {
            negative_entropy = expected_log_p;
            *entropy = (float)-negative_entropy;
            *final_lse = (float)(max_X[x] + lse);
        } else {
            double kl = negative_entropy - expected_log_p;
            kl_E[x] = (float)(kl < 0 ? 0 : kl);
        }
    }
}

void divergence_from_final(
    const void *logits_NXV, int is_bfloat16, int n_threads, long N, long X, long V, long K,
    float *kl_NE, float *entropy_N, float *final_lse_N, int32_t *token_NXK, float *prob_NXK) {
#pragma omp parallel for num_threads(n_threads)
    for (long n = 0; n < N; n++) {
        float *kl_E = kl_NE + n * (X - 1), *prob_XK = prob_NXK + n * X * K;
        int32_t *token_XK = token_NXK + n * X * K;
        if (is_bfloat16)
            compare(logits_NXV, n * X * V, 1, X, V, K, kl_E, entropy_N + n, final_lse_N + n, token_XK, prob_XK);
        else
            compare(logits_NXV, n * X * V, 0, X, V, K, kl_E, entropy_N + n, final_lse_N + n, token_XK, prob_XK);
    }
}
