/*
 * The payload of a code: the symbols of one image as the bytes that cross the link.
 *
 * They are the bytes that `PayloadCoder.encode` makes in Python; docs/protocol.md describes them in "The payload of a
 * code". C11 and integers alone, so every machine makes the same ones. Nothing is allocated or kept between calls, so
 * threads may share a coder.
 *
 * Memory: the coder and its tables are constants and may stay in flash. The payload is made in place. Other than that
 * coding takes about 300 bytes of stack and, in a code with contexts, scratch memory.
 */
#ifndef AUTOSPLIT_PAYLOAD_H
#define AUTOSPLIT_PAYLOAD_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Most bytes that a payload can have: those of its header and of plain symbols, which take `bits` bits each. */
#define AUTOSPLIT_MAX_PAYLOAD(channels, height, width, bits) \
    (4u + ((size_t)(channels) * (height) * (width) * (bits) + 7u) / 8u)

/*
 * Bytes of scratch memory in a code with contexts; one without needs none.
 *
 * It holds a byte for every other cell of each channel, and one more per channel: the cells whose row and column sum to
 * an odd number are coded in the last pass, so they are nobody's neighbours. And it holds 10 bytes for each cell of the
 * longest pass, for its own place and those of its neighbours. The longest pass is the last one with half of all cells,
 * or in a grid of one cell the only one. The memory is free again afterwards, so it may be lent by the network.
 */
#define AUTOSPLIT_SCRATCH(channels, height, width) \
    ((size_t)(channels) * ((size_t)(height) * (((size_t)(width) + 1u) / 2u) + 1u) + \
     10u * (((size_t)(height) * (width) + 1u) / 2u))

/* Entries of `cumulative`; `rows` is the number of rows per channel: 15 in a code with contexts, otherwise 1. */
#define AUTOSPLIT_CUMULATIVE(channels, rows, levels) ((size_t)(channels) * (rows) * (levels) + 1u)

typedef struct {
    uint16_t channels, height, width; /* of the code; each at least 1, and with contexts less than 2^16 cells in all */
    uint16_t levels;                  /* symbols that a value can take: a power of two from 2 to 256 */
    /*
     * The frequency tables, added up: for each channel, or each channel and context, a row of `levels` entries. Entry
     * s is the sum of the frequencies of all symbols below s, so entry 0 is 0. Behind the last row stands one more 0.
     * What follows a row is therefore always a 0, and stands for the row's total, 2^16. A bundle's tables hold the
     * frequencies themselves, and with contexts a 16th row for each channel, which is left out here.
     */
    const uint16_t *cumulative;
    const uint8_t *middle; /* first and last symbol of each channel's middle; NULL in a code without contexts */
    uint32_t seed;         /* CRC-32 of the fingerprint */
    uint8_t first;         /* first byte of every payload: format version and rate */
} autosplit_coder;

/*
 * Makes the payload of one image.
 *
 * symbols: channels x height x width of them, channel by channel, each row by row.
 * payload: room for AUTOSPLIT_MAX_PAYLOAD bytes.
 * scratch: AUTOSPLIT_SCRATCH bytes of any content and alignment; NULL will do in a code without contexts.
 *
 * The three must not overlap. Returns the length of the payload, or 0 if a symbol is out of range; `payload` is then
 * left as it was.
 */
size_t autosplit_payload(const autosplit_coder *coder, const uint8_t *symbols, uint8_t *payload, uint8_t *scratch);

#ifdef __cplusplus
}
#endif

#endif
