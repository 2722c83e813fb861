/* Integer operations of an exported network: 8-bit levels, channels last, 32-bit sums, no division, no allocation.
 *
 * Every operation gives the levels that the network's ONNX form gives. A layer's sum becomes a level by
 *     ((sum << left) * multiplier + offset) >> 32
 * whose constants were chosen such that the result is the one of the float32 arithmetic for every sum that can occur;
 * where no constants do that, the sums at which it differs are listed. */
#ifndef AUTOSPLIT_KERNELS_H
#define AUTOSPLIT_KERNELS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int32_t sum;
    uint16_t channel;
    uint8_t level;
} autosplit_exception;

/* From sums to levels, one multiplier and offset a channel. */
typedef struct {
    const int32_t *multiplier;
    const int64_t *offset; /* with the window added */
    const autosplit_exception *exceptions;
    uint32_t window; /* without it an exception's lower word is at most so far from 0 */
    uint16_t count;  /* of exceptions */
    uint8_t left, low, high;
} autosplit_staircase;

typedef struct {
    uint16_t height, width, channels;                /* of the input */
    uint16_t out_height, out_width, out_channels;
    uint8_t kernel_height, kernel_width, stride_down, stride_right, dilation_down, dilation_right;
    uint16_t groups, top, left;                      /* top, left: padding */
    uint8_t zero;                                    /* level of the input that stands for zero */
    uint16_t column;                                 /* bytes of a row of weights, a multiple of 4 */
    uint32_t position_stride, channel_stride;        /* of the output */
    const int8_t *weight; /* rows of two channels, four bytes of one and four of the other in turn */
    autosplit_staircase levels;
} autosplit_convolution;

/* What a convolution without levels is followed by: real values, (sum + bias) * scale. */
typedef struct {
    const int32_t *bias;
    const float *scale;
} autosplit_scales;

/* A level for each pair of levels, from one linear form. */
typedef struct {
    int64_t offset; /* of a sum it has 32 bits */
    int32_t multiplier[2];
    uint32_t window;
    const uint8_t (*exceptions)[3]; /* both levels, and the result */
    uint16_t count;
    uint8_t shift, low, high, zero[2];
} autosplit_pairs;

typedef struct {
    uint16_t height, width, channels, out_height, out_width;
    const uint16_t (*rows)[2];    /* of each output row: first row of its window, and the one behind its last */
    const uint16_t (*columns)[2];
} autosplit_pooling;

typedef struct {
    int64_t offset;
    uint32_t divisor, window;
    int32_t multiplier;
    uint8_t left;
} autosplit_quotient;

typedef struct {
    autosplit_pooling pooling;
    const autosplit_quotient *quotients; /* for each divisor one, or one a channel */
    const uint8_t *kinds;                /* number of each output's divisor; NULL where there is only one */
    const float *step;                   /* of the output's levels: one, or one a channel */
    float scale, shift;
    uint8_t each, zero, target, low, high; /* each: whether channels have steps of their own */
    uint32_t position_stride, channel_stride;
} autosplit_average;

void autosplit_convolve(const autosplit_convolution *c, const uint8_t *in, uint8_t *out, void *scratch);
void autosplit_depthwise(const autosplit_convolution *c, const uint8_t *in, uint8_t *out, void *scratch);
void autosplit_real(const autosplit_convolution *c, const autosplit_scales *s, const uint8_t *in, float *out,
                    void *scratch);
void autosplit_sum(const uint8_t *a, const uint8_t *b, uint8_t *out, uint32_t elements, const autosplit_pairs *pairs);
void autosplit_product(const uint8_t *a, const uint8_t *b, uint8_t *out, uint32_t positions, uint32_t channels,
                       uint32_t step, const autosplit_pairs *pairs);
void autosplit_maximum(const autosplit_pooling *p, const uint8_t *in, uint8_t *out);
void autosplit_mean(const autosplit_average *a, const uint8_t *in, uint8_t *out);
void autosplit_real_mean(const autosplit_average *a, const uint8_t *in, float *out); /* of the whole input */
void autosplit_table(const uint8_t *in, uint8_t *out, uint32_t elements, const uint8_t *table);
void autosplit_tables(const uint8_t *in, uint8_t *out, uint32_t positions, unsigned channels, const uint8_t *tables);
void autosplit_channels(const uint8_t *in, uint8_t *out, uint32_t positions, unsigned inputs, unsigned outputs,
                        const uint16_t *order);
void autosplit_gather(const uint8_t *in, uint8_t *out, uint32_t elements, const int32_t *places, uint8_t zero);
void autosplit_join(const uint8_t *in, uint8_t *out, uint32_t positions, unsigned channels, unsigned all,
                    const uint8_t *table);
void autosplit_readout(const uint8_t *in, float *out, uint32_t elements, int zero, float scale);

/* The likeliest class of logits, and its probability; the logits are divided by the temperature first. */
unsigned autosplit_decide(float *logits, unsigned classes, float temperature, float *confidence);

#ifdef __cplusplus
}
#endif

#endif
