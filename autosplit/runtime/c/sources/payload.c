/*
 * The payload coder: a range coder with 64-bit state, 32-bit words and 24-bit probabilities, as constriction's
 * `queue.RangeEncoder`, and what stands around it. See payload.h.
 */

#include "payload.h"

#include <stdbool.h>
#include <string.h>

#define HEADER_BYTES 4u
#define CONTEXTS 15u
#define LISTED 10u /* bytes of a cell in the list of a pass: five numbers */

/*
 * The range coder narrows an interval, symbol by symbol. Its lower end is a number that consists of bytes, already in
 * their place in the payload, and of the 64 bits of `low` behind them. Its width is below 2^64.
 *
 * It is apart from the rest so that a loop can have a copy of it in registers.
 */
typedef struct {
    uint64_t low, width;
} interval;

/*
 * The bytes in front of `low`. At most `limit` are ever written, one fewer than plain symbols take, so that the longest
 * payload's memory is enough. Once they are, the interval is narrower than one unit of the last byte. It then holds at
 * most one byte string that is short enough: that of these bytes, if all that follows is zero, or else the next one.
 * From there on `low` goes without the bits that would belong to further bytes: see `shift`.
 */
typedef struct {
    uint8_t *bytes;
    size_t count, limit;
    uint64_t low_before; /* `low` after the last shift */
} output;

/*
 * Adds a carry to the bytes if `low` has passed 2^64. What is added to it between two shifts is less than the width, so
 * that happens once at most, and has happened if it is smaller than before. The interval lies below 1, so there is
 * always a byte that takes the carry.
 */
static void carry(const output *to, uint64_t low) {
    if (low < to->low_before) {
        uint8_t *byte = to->bytes + to->count;
        do {
            byte--;
            *byte = (uint8_t)(*byte + 1u);
        } while (*byte == 0);
    }
}

/* Turns the upper 32 bits of `low` into bytes. False if the coded symbols can no longer be shorter than plain ones. */
static bool shift(output *to, uint64_t low, uint64_t width) {
    carry(to, low);
    to->low_before = low << 32;
    if (to->limit - to->count >= 4) {
        uint8_t *bytes = to->bytes + to->count;
        bytes[0] = (uint8_t)(low >> 56);
        bytes[1] = (uint8_t)(low >> 48);
        bytes[2] = (uint8_t)(low >> 40);
        bytes[3] = (uint8_t)(low >> 32);
        to->count += 4;
        return true;
    }
    uint64_t rest = low, mask = UINT64_MAX;
    for (; to->count != to->limit; rest <<= 8, mask >>= 8) {
        to->bytes[to->count++] = (uint8_t)(rest >> 56);
    }
    /*
     * The one multiple of the last byte's unit that may be in the interval is the lower end itself, or is above it by
     * less than the width, so by less than 2^32. The bits that get lost here are all zeros then, or all ones, through
     * which a carry passes on to the bytes.
     */
    return ((0 - low) & mask) < width;
}

/*
 * Narrows the interval to the part of a symbol, whose entry in the table of cumulative frequencies is given. False if
 * the coded symbols can no longer be shorter than plain ones.
 */
static inline bool narrow(interval *within, output *to, const uint16_t *entry) {
    const uint32_t below = entry[0];
    const uint32_t frequency = (entry[1] - below) & 0xFFFFu; /* the total, 2^16, is stored as 0 */
    const uint64_t scale = within->width >> 24;
    within->low += scale * (below << 8);
    within->width = scale * (frequency << 8);
    if (within->width >> 32 == 0) {
        if (!shift(to, within->low, within->width)) {
            return false;
        }
        within->low <<= 32;
        within->width <<= 32;
    }
    return true;
}

/* Completes the shortest byte string in the interval. Returns its length, or `limit` + 1 if it is longer than that. */
static size_t finish(output *to, interval within) {
    uint64_t low = within.low, mask = UINT64_MAX;
    size_t more = 0; /* bytes of `low` that are needed */
    while (((0 - low) & mask) >= within.width) {
        more++;
        mask >>= 8;
        if (to->count + more > to->limit) {
            return to->limit + 1;
        }
    }
    carry(to, low);
    to->low_before = low;
    low += (0 - low) & mask;
    carry(to, low);
    for (; more != 0; more--) {
        to->bytes[to->count++] = (uint8_t)(low >> 56);
        low <<= 8;
    }
    while (to->count != 0 && to->bytes[to->count - 1] == 0) {
        to->count--;
    }
    return to->count;
}

static bool has_contexts(const autosplit_coder *coder, size_t channel) {
    const uint8_t *middle = coder->middle;
    return middle != NULL && (middle[2 * channel] != 0 || middle[2 * channel + 1] != coder->levels - 1u);
}

/* Codes the channels without contexts. False as of `narrow`. */
static bool code_channels(interval *from, output *to, const autosplit_coder *coder, const uint8_t *symbols) {
    const size_t cells = (size_t)coder->height * coder->width;
    const size_t stride = (coder->middle == NULL ? 1u : CONTEXTS) * coder->levels;
    const uint16_t *table = coder->cumulative;
    interval within = *from;
    for (size_t channel = 0; channel < coder->channels; channel++, table += stride) {
        const uint8_t *const end = symbols + cells;
        if (has_contexts(coder, channel)) {
            symbols = end;
        }
        for (; symbols != end; symbols++) {
            if (!narrow(&within, to, table + *symbols)) {
                return false;
            }
        }
    }
    *from = within;
    return true;
}

/* What a cell adds to the contexts of its neighbours, and the number of a context by the sum of four cells. */
#define ABOVE 5u
#define BELOW 1u
static const uint8_t context_numbers[4 * ABOVE + 1] = {
    0, 1, 2, 3, 4, /* none above the middle, none to four below it */
    5, 6, 7, 8, 0, /* one above */
    9, 10, 11, 0, 0,
    12, 13, 0, 0, 0,
    14,
};

/*
 * Writes down what the cells of the channels with contexts add. A channel takes half as many bytes as it has cells (see
 * `place_of_sides`) and a zero for all that is outside of the grid. Returns the end of what was written.
 */
static uint8_t *write_sides(const autosplit_coder *coder, const uint8_t *symbols, uint8_t *sides) {
    const size_t height = coder->height, width = coder->width, pitch = (width + 1) / 2;
    for (size_t channel = 0; channel < coder->channels; channel++, symbols += height * width) {
        if (has_contexts(coder, channel)) {
            const uint32_t first = coder->middle[2 * channel], last = coder->middle[2 * channel + 1];
            const uint8_t *row = symbols;
            for (size_t y = 0; y < height; y++, row += width, sides += pitch) {
                for (size_t x = y & 1; x < width; x += 2) {
                    sides[x / 2] = (uint8_t)(row[x] > last ? ABOVE : row[x] < first ? BELOW : 0);
                }
            }
            *sides++ = 0;
        }
    }
    return sides;
}

/*
 * Where a neighbour's byte is among those of its channel. Row and column of every neighbour sum to an even number, as
 * only the last pass has the other cells. A row or column in front of the grid has wrapped around to a huge one.
 */
static size_t place_of_sides(const autosplit_coder *coder, size_t y, size_t x) {
    const size_t pitch = (coder->width + 1u) / 2u;
    return y < coder->height && x < coder->width ? y * pitch + x / 2 : coder->height * pitch;
}

/* Numbers in memory of any alignment; the calls become single instructions. */
static inline void put(uint8_t *bytes, size_t number) {
    const uint16_t stored = (uint16_t)number;
    memcpy(bytes, &stored, sizeof stored);
}

static inline size_t get(const uint8_t *bytes) {
    uint16_t stored;
    memcpy(&stored, bytes, sizeof stored);
    return stored;
}

/*
 * Lists the cells of a pass: for each its place in a channel, and those of its neighbours' sides. The neighbours are
 * `half` cells away, along the diagonals or straight. Returns the end of the list.
 *
 * It is made for all channels at once. Finding the neighbours of each cell anew in each channel would need neither list
 * nor sides, so no memory, but 1.4 times the instructions in all (16 channels of 4 x 4 on a Cortex-M4).
 */
static uint8_t *list_pass(const autosplit_coder *coder, size_t half, size_t first_row, bool straight, uint8_t *list) {
    for (size_t y = first_row; y < coder->height; y += straight ? half : 2 * half) {
        for (size_t x = straight ? half - (y & half) : y & half; x < coder->width; x += 2 * half) {
            put(list, y * coder->width + x);
            put(list + 2, place_of_sides(coder, y - half, straight ? x : x - half));
            put(list + 4, place_of_sides(coder, y + half, straight ? x : x + half));
            put(list + 6, place_of_sides(coder, straight ? y : y + half, x - half));
            put(list + 8, place_of_sides(coder, straight ? y : y - half, x + half));
            list += LISTED;
        }
    }
    return list;
}

/* Codes the listed cells of all channels with contexts. False as of `narrow`. */
static bool code_pass(interval *from, output *to, const autosplit_coder *coder, const uint8_t *symbols,
                      const uint8_t *sides, const uint8_t *list, const uint8_t *end) {
    const size_t levels = coder->levels, cells = (size_t)coder->height * coder->width;
    const size_t outside = place_of_sides(coder, coder->height, 0);
    const uint16_t *tables = coder->cumulative;
    interval within = *from;
    for (size_t channel = 0; channel < coder->channels; channel++) {
        if (has_contexts(coder, channel)) {
            for (const uint8_t *cell = list; cell != end; cell += LISTED) {
                const size_t around = (size_t)sides[get(cell + 2)] + sides[get(cell + 4)] + sides[get(cell + 6)] +
                                      sides[get(cell + 8)];
                const uint16_t *table = tables + context_numbers[around] * levels;
                if (!narrow(&within, to, table + symbols[get(cell)])) {
                    return false;
                }
            }
            sides += outside + 1;
        }
        symbols += cells;
        tables += CONTEXTS * levels;
    }
    *from = within;
    return true;
}

/* Range-codes the symbols. Returns the number of bytes, or `limit` + 1 if there would be more than `limit`. */
static size_t code_symbols(const autosplit_coder *coder, const uint8_t *symbols, uint8_t *bytes, size_t limit,
                           uint8_t *scratch) {
    interval within = {0, UINT64_MAX};
    output to = {bytes, 0, limit, 0};
    if (!code_channels(&within, &to, coder, symbols)) {
        return limit + 1;
    }
    if (coder->middle != NULL) {
        uint8_t *const list = write_sides(coder, symbols, scratch);
        size_t half = 1;
        while (half < coder->height || half < coder->width) {
            half *= 2;
        }
        /* the first pass has a single cell; it counts as a diagonal one, its neighbours being outside of the grid */
        bool shorter = code_pass(&within, &to, coder, symbols, scratch, list, list_pass(coder, half, 0, false, list));
        for (half /= 2; shorter && half != 0; half /= 2) {
            shorter =
                code_pass(&within, &to, coder, symbols, scratch, list, list_pass(coder, half, half, false, list)) &&
                code_pass(&within, &to, coder, symbols, scratch, list, list_pass(coder, half, 0, true, list));
        }
        if (!shorter) {
            return limit + 1;
        }
    }
    return finish(&to, within);
}

/* Writes the symbols as they are. */
static void write_plain(const uint8_t *symbols, size_t count, unsigned bits, uint8_t *bytes) {
    uint32_t waiting = 0; /* its lower `some` bits */
    unsigned some = 0;
    for (; count != 0; count--) {
        waiting = waiting << bits | *symbols++;
        some += bits;
        if (some >= 8) {
            some -= 8;
            *bytes++ = (uint8_t)(waiting >> some);
        }
    }
    if (some != 0) {
        *bytes = (uint8_t)(waiting << (8 - some));
    }
}

static bool in_range(const uint8_t *symbols, size_t count, uint32_t levels) {
    uint32_t seen = 0;
    for (; count >= 4; count -= 4) {
        uint32_t four;
        memcpy(&four, symbols, 4);
        symbols += 4;
        seen |= four;
    }
    for (; count != 0; count--) {
        seen |= *symbols++;
    }
    return (seen & (256u - levels) * 0x01010101u) == 0;
}

/* Goes on with zlib's CRC-32. Four bits at a time take 10 instructions a byte, single bits 27 or more. */
static uint32_t crc32(uint32_t crc, const uint8_t *bytes, size_t count) {
    static const uint32_t by_nibble[16] = {
        0x00000000u, 0x1DB71064u, 0x3B6E20C8u, 0x26D930ACu, 0x76DC4190u, 0x6B6B51F4u, 0x4DB26158u, 0x5005713Cu,
        0xEDB88320u, 0xF00F9344u, 0xD6D6A3E8u, 0xCB61B38Cu, 0x9B64C2B0u, 0x86D3D2D4u, 0xA00AE278u, 0xBDBDF21Cu,
    };
    crc = ~crc;
    for (; count != 0; count--) {
        crc ^= *bytes++;
        crc = crc >> 4 ^ by_nibble[crc & 15u];
        crc = crc >> 4 ^ by_nibble[crc & 15u];
    }
    return ~crc;
}

size_t autosplit_payload(const autosplit_coder *coder, const uint8_t *symbols, uint8_t *payload, uint8_t *scratch) {
    const size_t count = (size_t)coder->channels * coder->height * coder->width;
    if (!in_range(symbols, count, coder->levels)) {
        return 0;
    }
    unsigned bits = 1;
    while (1u << bits < coder->levels) {
        bits++;
    }
    uint8_t *body = payload + HEADER_BYTES;
    const size_t plain = (count * bits + 7u) / 8u;
    size_t length = code_symbols(coder, symbols, body, plain - 1, scratch);
    if (length == plain) {
        write_plain(symbols, count, bits, body);
    }
    const uint32_t checksum = crc32(coder->seed, body, length);
    payload[0] = coder->first;
    payload[1] = (uint8_t)(checksum >> 16);
    payload[2] = (uint8_t)(checksum >> 8);
    payload[3] = (uint8_t)checksum;
    return HEADER_BYTES + length;
}
