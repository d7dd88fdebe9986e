/* Loading and storing a model's numbers, bfloat16 or fp32, and a fast exponential function. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#if BFLOAT16 /* a bfloat16 is the upper half of an fp32 */
typedef uint16_t number;

static inline float load(number half) {
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline number store(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t nearest = bits + 0x7fff + (bits >> 16 & 1); /* ties to even */
    return value == value ? nearest >> 16 : bits >> 16 | 0x40;
}
#else
typedef float number;

static inline float load(number value) { return value; }

static inline number store(float value) { return value; }
#endif

/* e^x for x <= 0, as 2^n e^r with |r| <= ln(2) / 2 and the Taylor series up to r^6. It is seven times faster than
libm's scalar function, whose vector version compilers use only if they may ignore NaN. */
static inline float exponential(float x) {
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
