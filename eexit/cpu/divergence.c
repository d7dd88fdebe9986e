/* What divergence.divergence_from_final computes, in three passes over a row's logits and without temporary arrays of them.

Shapes: N rows, X layers with the final one last, V vocabulary, K top tokens, at least 1. All arrays are contiguous.
Sums are fp32 within a block of the vocabulary and fp64 over blocks. NaN propagates. */

#include <math.h>
#include <stdint.h>
#include <string.h>

/* Loading a logit, bfloat16 or fp32. */
#if BFLOAT16 /* a bfloat16 is the upper half of an fp32 */
typedef uint16_t number;

static inline float load(number half) {
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
#else
typedef float number;

static inline float load(number value) { return value; }
#endif

static const float LEAST_LOG_P = -87.0f; /* nats; of smaller ones, e^x would not be a normal number */

/* e^x for x <= 0, as 2^n e^r with |r| <= ln(2) / 2 and the Taylor series up to r^6. It is seven times faster than
libm's scalar function, whose vector version compilers use only if they may ignore NaN. */
static inline float exponential(float x) {
    x = x < LEAST_LOG_P ? LEAST_LOG_P : x;
    float n = rintf(x * 1.442695041f);
    float r = x - n * 0.693145752f - n * 1.428606765e-6f;
    float series = 1 / 24.0f + r * (1 / 120.0f + r * (1 / 720.0f));
    series = 1.0f + r * (1.0f + r * (1 / 2.0f + r * (1 / 6.0f + r * series)));
    int32_t bits = ((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return series * power;
}

/* log(x) of a normal x > 0, as n log(2) + log(m) with m from sqrt(1/2) to sqrt(2) and the series of 2 artanh up to s^7. */
static inline float logarithm(float x) {
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    int32_t n = (bits - 0x3f3504f3) >> 23;
    bits -= n * (1 << 23);
    float m;
    memcpy(&m, &bits, sizeof m);
    float s = (m - 1.0f) / (m + 1.0f), square = s * s;
    float series = 1.0f + square * (1 / 3.0f + square * (1 / 5.0f + square * (1 / 7.0f)));
    return (float)n * 0.69314718f + 2.0f * s * series;
}

enum { BLOCK_TOKENS = 256 };

/* The highest logit, and the K highest with their tokens, highest first; of equal ones the first token. */
static float highest(const number *logits_V, long V, long K, int32_t *token, float *value) {
    for (long k = 0; k < K; k++)
        token[k] = 0, value[k] = -INFINITY;
    for (long begin = 0; begin < V; begin += BLOCK_TOKENS) {
        long end = begin + BLOCK_TOKENS < V ? begin + BLOCK_TOKENS : V;
        float max = -INFINITY;
#pragma omp simd reduction(max : max)
        for (long v = begin; v < end; v++) {
            float z = load(logits_V[v]);
            max = z > max ? z : max;
        }
        if (max <= value[K - 1])
            continue;
        for (long v = begin; v < end; v++) {
            float z = load(logits_V[v]);
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

/* Jensen-Shannon divergences of the layers before the last from it: Σ (p log(p / m) + q log(q / m)) / 2, m = (p + q) / 2,
given the highest logits and Σ exp(z - max). No term is negative, so that nothing cancels. */
static void jensen_shannon(
    const number *logits_XV, long X, long V, const float *max_X, const double *sum_X, float *jsd_E) {
    float log_sum_X[X], p[BLOCK_TOKENS], log_p[BLOCK_TOKENS]; /* p of the final layer */
    double total_X[X];
    const number *final_V = logits_XV + (X - 1) * V;
    for (long x = 0; x < X; x++)
        log_sum_X[x] = (float)log(sum_X[x]), total_X[x] = 0;
    for (long begin = 0; begin < V; begin += BLOCK_TOKENS) {
        long size = begin + BLOCK_TOKENS < V ? BLOCK_TOKENS : V - begin;
#pragma omp simd
        for (long i = 0; i < size; i++) {
            float z = load(final_V[begin + i]) - max_X[X - 1] - log_sum_X[X - 1];
            log_p[i] = z < LEAST_LOG_P ? LEAST_LOG_P : z;
            p[i] = exponential(z);
        }
        for (long x = 0; x < X - 1; x++) {
            float total = 0, max = max_X[x], log_sum = log_sum_X[x];
#pragma omp simd reduction(+ : total)
            for (long i = 0; i < size; i++) {
                float z = load(logits_XV[x * V + begin + i]) - max - log_sum;
                float log_q = z < LEAST_LOG_P ? LEAST_LOG_P : z, q = exponential(log_q);
                float log_m = logarithm(0.5f * (p[i] + q));
                total += p[i] * (log_p[i] - log_m) + q * (log_q - log_m);
            }
            total_X[x] += total;
        }
    }
    for (long x = 0; x < X - 1; x++)
        jsd_E[x] = (float)(total_X[x] < 0 ? 0 : 0.5 * total_X[x]);
}

static void compare(
    const number *logits_XV, long X, long V, long K,
    float *kl_E, float *jsd_E, float *entropy, float *final_lse, int32_t *token_XK, float *prob_XK) {
    float max_X[X], final_exp[BLOCK_TOKENS];
    double sum_X[X], expected_X[X]; /* Σ exp(z - max), and Σ p_final · (z - max) up to its scale */
    const number *final_V = logits_XV + (X - 1) * V;
    for (long x = 0; x < X; x++) {
        max_X[x] = highest(logits_XV + x * V, V, K, token_XK + x * K, prob_XK + x * K);
        sum_X[x] = expected_X[x] = 0;
    }
    for (long begin = 0; begin < V; begin += BLOCK_TOKENS) {
        long size = begin + BLOCK_TOKENS < V ? BLOCK_TOKENS : V - begin;
#pragma omp simd
        for (long i = 0; i < size; i++)
            final_exp[i] = exponential(load(final_V[begin + i]) - max_X[X - 1]);
        for (long x = 0; x < X; x++) {
            float sum = 0, expected = 0, max = max_X[x];
#pragma omp simd reduction(+ : sum, expected)
            for (long i = 0; i < size; i++) {
                float z = load(logits_XV[x * V + begin + i]) - max;
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
    if (X > 1)
        jensen_shannon(logits_XV, X, V, max_X, sum_X, jsd_E);
}

void divergence(
    const number *logits_NXV, int n_threads, long N, long X, long V, long K,
    float *kl_NE, float *jsd_NE, float *entropy_N, float *final_lse_N, int32_t *token_NXK, float *prob_NXK) {
#pragma omp parallel for num_threads(n_threads)
    for (long n = 0; n < N; n++)
        compare(
            logits_NXV + n * X * V, X, V, K,
            kl_NE + n * (X - 1), jsd_NE + n * (X - 1), entropy_N + n, final_lse_N + n, token_NXK + n * X * K, prob_NXK + n * X * K);
}
