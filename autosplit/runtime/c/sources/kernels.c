#include "kernels.h"

#include <string.h>

/* not where nothing is optimised: the assembly needs nearly all registers, and debuggers like plain C better */
#if defined(__ARM_FEATURE_DSP) && __ARM_FEATURE_DSP && defined(__GNUC__) && defined(__OPTIMIZE__)
#define DSP 1
#define UNUSED __attribute__((unused)) /* what only assembly uses */
#else
#define DSP 0
#endif

/* Words are read from any address: one instruction where the processor allows it, bytes elsewhere. */
static inline uint32_t word(const void *from) {
    uint32_t w;
    memcpy(&w, from, sizeof w);
    return w;
}

static inline void put_word(void *to, uint32_t w) { memcpy(to, &w, sizeof w); }

/* Runs are a few dozen bytes long: a call of memcpy costs more than it saves. The last word may overlap the one before. */
static inline uint8_t *copy(uint8_t *to, const uint8_t *from, uint32_t n) {
    uint8_t *const end = to + n;
    if (n >= 4) {
        const uint32_t last = word(from + n - 4);
        for (; end - to > 4; to += 4, from += 4) put_word(to, word(from));
        put_word(end - 4, last);
    } else {
        while (to != end) *to++ = *from++;
    }
    return end;
}

static inline uint8_t *fill(uint8_t *to, uint8_t value, uint32_t n) {
    uint8_t *const end = to + n;
    if (n >= 4) {
        const uint32_t w = value * 0x01010101u;
        for (; end - to > 4; to += 4) put_word(to, w);
        put_word(end - 4, w);
    } else {
        while (to != end) *to++ = value;
    }
    return end;
}

#if DSP
static inline uint32_t to_byte(int32_t x) { uint32_t r; __asm("usat %0, #8, %1" : "=r"(r) : "r"(x)); return r; }
#else
static inline uint32_t to_byte(int32_t x) { return x < 0 ? 0 : x > 255 ? 255 : (uint32_t)x; }
#endif

static inline int32_t clip(int32_t level, int32_t low, int32_t high) {
    return level < low ? low : level > high ? high : level;
}

/* --- sums to levels ----------------------------------------------------------------------------------------------- */

static uint8_t listed(const autosplit_staircase *s, int32_t sum, unsigned channel, uint8_t level) {
    for (unsigned i = 0; i < s->count; i++)
        if (s->exceptions[i].sum == sum && s->exceptions[i].channel == channel) return s->exceptions[i].level;
    return level;
}

/* What most sums become, bounds left out (see clip_bytes), and exceptions too. */
static inline uint8_t byte_of(int64_t product) { return (uint8_t)to_byte((int32_t)(product >> 32)); }

#if DSP
/* One instruction, where gcc may take eight. */
static inline int64_t scaled(int32_t sum, int32_t multiplier, int64_t offset) {
    uint32_t low = (uint32_t)offset;
    int32_t high = (int32_t)(offset >> 32);
    __asm("smlal %0, %1, %2, %3" : "+r"(low), "+r"(high) : "r"(sum), "r"(multiplier));
    return (int64_t)((uint64_t)(uint32_t)high << 32 | low);
}
#else
static inline int64_t scaled(int32_t sum, int32_t multiplier, int64_t offset) {
    return (int64_t)sum * multiplier + offset;
}
#endif

/* Any staircase. Not inlined, and seldom called: those that call it keep their registers. The low word of the product,
 * to which the window was added, says how near the sum is to a level's begin: only there an exception can be, and only
 * there the window makes a difference. */
__attribute__((noinline)) static uint8_t any_level(const autosplit_staircase *s, int32_t sum, unsigned channel) {
    int64_t product = (int64_t)(int32_t)((uint32_t)sum << s->left) * s->multiplier[channel] + s->offset[channel];
    if ((uint32_t)product > 2 * s->window) return byte_of(product);
    return listed(s, sum, channel, byte_of(product - s->window));
}

/* Bounds of all levels of an output at once. */
static void clip_bytes(uint8_t least, uint8_t most, uint8_t *out, uint32_t n) {
    if (least == 0 && most == 255) return;
#if DSP
    for (uint32_t low = least * 0x01010101u, high = most * 0x01010101u; n >= 4; n -= 4, out += 4) {
        uint32_t w = word(out), t;
        __asm("usub8 %[t], %[w], %[low]\n\t"
              "sel %[w], %[w], %[low]\n\t"
              "usub8 %[t], %[high], %[w]\n\t"
              "sel %[w], %[w], %[high]"
              : [w] "+r"(w), [t] "=&r"(t) : [low] "r"(low), [high] "r"(high) : "cc");
        put_word(out, w);
    }
#endif
    for (; n; n--, out++) *out = (uint8_t)clip(*out, least, most);
}

/* --- convolutions --------------------------------------------------------------------------------------------------
 * The inputs of an output are brought together in a column, padding included: levels as they are, the level of zero
 * for padding. Columns of three positions are multiplied by rows of two channels, so that each word of inputs that is
 * loaded is used twice, and each word of weights three times. */

#define POSITIONS 3 /* whose columns are multiplied by two channels at once */

typedef struct {
    int32_t of[2][POSITIONS]; /* sums of the two channels */
} sums;

#if DSP

/* A column as halfwords, bytes 0 and 2 of each word, then 1 and 3, as the weights will be: no reordering is needed.
 * Columns lie word by word in turn, so that one load of several words reads all of them. */
#define COLUMN_OF(scratch, bytes, position) ((uint32_t *)(scratch) + (position))

static inline uint32_t *widen(const uint8_t *from, uint32_t n, uint32_t *to) {
    uint32_t w, v;
#define WIDEN_WORD                       \
    "ldr %[w], [%[from]], #4\n\t"        \
    "uxtb16 %[v], %[w]\n\t"              \
    "uxtb16 %[w], %[w], ror #8\n\t"      \
    "str %[v], [%[to]], #12\n\t"         \
    "str %[w], [%[to]], #12\n\t"
    if (n & 4)
        __asm volatile(WIDEN_WORD : [from] "+r"(from), [to] "+r"(to), [w] "=&r"(w), [v] "=&r"(v) : : "memory");
    if (n >>= 3)
        __asm volatile("1:\n\t" WIDEN_WORD WIDEN_WORD
                       "subs %[n], #1\n\t"
                       "bne 1b"
                       : [from] "+r"(from), [to] "+r"(to), [n] "+r"(n), [w] "=&r"(w), [v] "=&r"(v)
                       :
                       : "cc", "memory");
    return to;
}

static inline uint32_t *widen_zero(uint8_t zero, uint32_t n, uint32_t *to) {
    for (uint32_t w = zero * 0x00010001u; n >= 4; n -= 4, to += 2 * POSITIONS) to[0] = to[POSITIONS] = w;
    return to;
}

/* A word of each of three inputs. */
#define WIDEN_THREE(a, b, d)             \
    "uxtb16 r8, " a "\n\t"               \
    "uxtb16 r9, " b "\n\t"               \
    "uxtb16 r10, " d "\n\t"              \
    "stmia %[to]!, {r8, r9, r10}\n\t"    \
    "uxtb16 r8, " a ", ror #8\n\t"       \
    "uxtb16 r9, " b ", ror #8\n\t"       \
    "uxtb16 r10, " d ", ror #8\n\t"      \
    "stmia %[to]!, {r8, r9, r10}\n\t"
#define LOAD_THREE                       \
    "ldr r4, [%[a]], #4\n\t"             \
    "ldr r5, [%[b]], #4\n\t"             \
    "ldr r6, [%[d]], #4\n\t"

/* All columns at once: `rows` of `n` bytes each, at least 4, from three windows inside the input. Rows lie at any address
 * and end within words: the bytes that one leaves over begin a word that the next one completes. */
static inline void widen_windows(const uint8_t *const at[POSITIONS], uint32_t pitch, unsigned rows, uint32_t n,
                                 uint32_t bytes, uint32_t *to) {
    uint32_t bits = 0, e = 0, f = 0, g = 0; /* what is left over, and of how many bits */
    (void)bytes;
    for (uint32_t row = 0; rows; rows--, row += pitch) {
        const uint8_t *a = at[0] + row, *b = at[1] + row, *d = at[2] + row;
        uint32_t rest = n;
        if (bits) {
            const uint32_t used = 4 - bits / 8;
            e |= word(a) << bits, f |= word(b) << bits, g |= word(d) << bits;
            __asm volatile(WIDEN_THREE("%[e]", "%[f]", "%[g]")
                           : [to] "+r"(to) : [e] "r"(e), [f] "r"(f), [g] "r"(g) : "r8", "r9", "r10", "memory");
            a += used, b += used, d += used, rest -= used;
        }
        if (rest & 4)
            __asm volatile(LOAD_THREE WIDEN_THREE("r4", "r5", "r6")
                           : [a] "+r"(a), [b] "+r"(b), [d] "+r"(d), [to] "+r"(to)
                           : : "r4", "r5", "r6", "r8", "r9", "r10", "memory");
        uint32_t pairs = rest / 8;
        if (pairs)
            __asm volatile("1:\n\t" LOAD_THREE WIDEN_THREE("r4", "r5", "r6") LOAD_THREE WIDEN_THREE("r4", "r5", "r6")
                           "subs %[n], #1\n\t"
                           "bne 1b"
                           : [a] "+r"(a), [b] "+r"(b), [d] "+r"(d), [to] "+r"(to), [n] "+r"(pairs)
                           : : "r4", "r5", "r6", "r8", "r9", "r10", "cc", "memory");
        bits = rest % 4 * 8;
        if (bits) { /* not read behind the row */
            const int32_t last = (int32_t)(rest % 4) - 4;
            e = word(a + last) >> (32 - bits), f = word(b + last) >> (32 - bits), g = word(d + last) >> (32 - bits);
        }
    }
    if (bits)
        __asm volatile(WIDEN_THREE("%[e]", "%[f]", "%[g]")
                       : [to] "+r"(to) : [e] "r"(e), [f] "r"(f), [g] "r"(g) : "r8", "r9", "r10", "memory");
}

/* Four bytes of two channels times three positions: 19 instructions for 24 products. All fourteen registers are in use,
 * so the end of the columns is read from the stack. */
#define TWO_BY_THREE                  \
    "ldrd r8, r9, [r1], #8\n\t"       \
    "ldmia r0!, {r11, r12, lr}\n\t"   \
    "sxtb16 r10, r8\n\t"              \
    "smlad r2, r11, r10, r2\n\t"      \
    "smlad r3, r12, r10, r3\n\t"      \
    "smlad r4, lr, r10, r4\n\t"       \
    "sxtb16 r10, r9\n\t"              \
    "smlad r5, r11, r10, r5\n\t"      \
    "smlad r6, r12, r10, r6\n\t"      \
    "smlad r7, lr, r10, r7\n\t"       \
    "ldmia r0!, {r11, r12, lr}\n\t"   \
    "sxtb16 r8, r8, ror #8\n\t"       \
    "smlad r2, r11, r8, r2\n\t"       \
    "smlad r3, r12, r8, r3\n\t"       \
    "smlad r4, lr, r8, r4\n\t"        \
    "sxtb16 r9, r9, ror #8\n\t"       \
    "smlad r5, r11, r9, r5\n\t"       \
    "smlad r6, r12, r9, r6\n\t"       \
    "smlad r7, lr, r9, r7\n\t"

/* columns, weights, end: where the last four words of columns end; up to three words follow, as many as the lowest bits
 * of `found` say */
__attribute__((naked, noinline)) static void block_words(UNUSED const void *columns,
                                                         UNUSED const int8_t *weights, UNUSED const void *end,
                                                         UNUSED char *found) {
    __asm volatile("push {r2-r11, lr}\n\t"
                   "movs r2, #0\n\t"
                   "movs r3, #0\n\t"
                   "movs r4, #0\n\t"
                   "movs r5, #0\n\t"
                   "movs r6, #0\n\t"
                   "movs r7, #0\n\t"
                   "b 2f\n"
                   "1:\n\t" TWO_BY_THREE TWO_BY_THREE TWO_BY_THREE TWO_BY_THREE
                   "2:\n\t"
                   "ldr r10, [sp]\n\t"
                   "cmp r0, r10\n\t"
                   "bne 1b\n\t"
                   "ldr r10, [sp, #4]\n\t"
                   "lsls r10, r10, #31\n\t" /* two words: carry, one word: negative; no product changes these flags */
                   "bcc 3f\n\t" TWO_BY_THREE TWO_BY_THREE
                   "3:\n\t"
                   "bpl 4f\n\t" TWO_BY_THREE
                   "4:\n\t"
                   "ldr r0, [sp, #4]\n\t"
                   "bic r0, r0, #3\n\t"
                   "stmia r0, {r2-r7}\n\t"
                   "pop {r2-r11, pc}");
}

static inline void block(const void *columns, const int8_t *weights, uint32_t bytes, sums *found) {
    block_words(columns, weights, (const char *)columns + bytes / 16 * (32 * POSITIONS),
                (char *)found + bytes / 4 % 4);
}

#else

#define COLUMN_OF(scratch, bytes, position) ((uint32_t *)(scratch) + (position) * ((bytes) / 2u))

static inline uint32_t *widen(const uint8_t *from, uint32_t n, uint32_t *to) {
    int16_t *out = (int16_t *)to;
    for (uint32_t i = 0; i < n; i++) out[i] = from[i];
    return to + n / 2;
}

static inline uint32_t *widen_zero(uint8_t zero, uint32_t n, uint32_t *to) {
    int16_t *out = (int16_t *)to;
    for (uint32_t i = 0; i < n; i++) out[i] = zero;
    return to + n / 2;
}

static inline void widen_windows(const uint8_t *const at[POSITIONS], uint32_t pitch, unsigned rows, uint32_t n,
                                 uint32_t bytes, uint32_t *to) {
    for (unsigned p = 0; p < POSITIONS; p++) {
        int16_t *out = (int16_t *)COLUMN_OF(to, bytes, p);
        for (unsigned i = 0; i < rows; i++)
            for (uint32_t j = 0; j < n; j++) *out++ = at[p][i * pitch + j];
    }
}

static inline void block(const void *columns, const int8_t *weights, uint32_t bytes, sums *found) {
    const int16_t *a = columns, *b = a + bytes, *c = b + bytes;
    uint32_t s[2][POSITIONS] = {{0, 0, 0}, {0, 0, 0}}; /* behind the last position columns hold anything: may wrap */
    for (uint32_t i = 0; i < bytes; i += 4, weights += 8)
        for (uint32_t j = 0; j < 4; j++) {
            const uint32_t v = (uint32_t)weights[j], w = (uint32_t)weights[4 + j];
            s[0][0] += (uint32_t)a[i + j] * v, s[0][1] += (uint32_t)b[i + j] * v, s[0][2] += (uint32_t)c[i + j] * v;
            s[1][0] += (uint32_t)a[i + j] * w, s[1][1] += (uint32_t)b[i + j] * w, s[1][2] += (uint32_t)c[i + j] * w;
        }
    memcpy(found->of, s, sizeof s);
}

#endif

/* What of a kernel lies before the input, inside of it and behind it, in rows or in columns of pixels; and where in the
 * input what is inside begins. */
typedef struct {
    uint32_t before, inside, behind, at;
} span;

static inline span span_of(int32_t at, int32_t kernel, int32_t size) {
    int32_t first = at < 0 ? -at : 0, end = at + kernel > size ? size - at : kernel;
    if (first >= end) first = end = at = 0; /* nothing is inside */
    span s = {(uint32_t)first, (uint32_t)(end - first), (uint32_t)(kernel - end), (uint32_t)(at + first)};
    return s;
}

/* Inputs of the output whose window begins at (y, x), one kernel row after the other; `taken` channels from `in` on. */
static void window_bytes(const autosplit_convolution *c, const uint8_t *in, unsigned taken, int32_t y, int32_t x,
                         uint8_t *to) {
    const int32_t width = c->width, height = c->height, right = c->dilation_right;
    const uint32_t pitch = c->channels;
    const span s = span_of(x, c->kernel_width, width);
    for (unsigned i = 0; i < c->kernel_height; i++, y += c->dilation_down) {
        if (y < 0 || y >= height) {
            to = fill(to, c->zero, c->kernel_width * taken);
            continue;
        }
        const uint8_t *row = in + (uint32_t)(y * width) * pitch;
        if (right == 1 && taken == pitch) { /* a row of the window lies in one piece */
            to = fill(to, c->zero, s.before * taken);
            to = copy(to, row + s.at * pitch, s.inside * taken);
            to = fill(to, c->zero, s.behind * taken);
            continue;
        }
        for (int32_t j = 0, at = x; j < c->kernel_width; j++, at += right)
            to = at < 0 || at >= width ? fill(to, c->zero, taken) : copy(to, row + (uint32_t)at * pitch, taken);
    }
}

/* The same as a column at once; by way of `patch` where what is copied could end within a word. */
__attribute__((noinline)) static void window_column(const autosplit_convolution *c, const uint8_t *in, unsigned taken,
                                                    int32_t y, int32_t x, uint32_t *to, uint8_t *patch) {
    const int32_t width = c->width, height = c->height;
    const uint32_t pitch = c->channels;
    if (pitch % 4 || c->groups > 1 || c->dilation_down > 1 || c->dilation_right > 1) {
        window_bytes(c, in, taken, y, x, patch);
        widen(patch, c->column, to);
        return;
    }
    const span s = span_of(x, c->kernel_width, width);
    for (unsigned i = 0; i < c->kernel_height; i++, y++) {
        if (y < 0 || y >= height) {
            to = widen_zero(c->zero, c->kernel_width * pitch, to);
            continue;
        }
        if (s.before) to = widen_zero(c->zero, s.before * pitch, to);
        to = widen(in + ((uint32_t)(y * width) + s.at) * pitch, s.inside * pitch, to);
        if (s.behind) to = widen_zero(c->zero, s.behind * pitch, to);
    }
}

/* Columns of three windows that lie inside the input. Not inlined, as what follows: each needs all registers. */
__attribute__((noinline)) static void window_columns(const autosplit_convolution *c,
                                                     const uint8_t *const at[POSITIONS], uint32_t *to) {
    const uint32_t pitch = c->channels;
    widen_windows(at, c->width * pitch, c->kernel_height, c->kernel_width * pitch, c->column, to);
}

/* Columns of three positions times the weights of a group, whose first channel is `first`. */
__attribute__((noinline)) static void outputs(const autosplit_convolution *c, unsigned first, const void *columns,
                                              uint8_t *const to[POSITIONS]) {
    const unsigned made = c->out_channels / c->groups, end = first + made;
    const uint32_t stride = c->channel_stride, length = c->column;
    const int plain = !c->levels.left && !c->levels.count;
    const uint32_t twice = c->levels.left ? UINT32_MAX : 2 * c->levels.window;
    const int32_t *multiplier = c->levels.multiplier + first;
    const int64_t *offset = c->levels.offset + first;
    uint8_t *a = to[0], *b = to[1], *d = to[2];
    /* rows of two channels each; an odd last one has a row of zeros beside it */
    const int8_t *row = c->weight + first / made * ((made + 1u) / 2u) * 2u * length;
    for (unsigned o = first; o < end; row += 2u * length) {
        sums s;
        block(columns, row, length, &s);
        for (unsigned i = 0; i < 2 && o < end; i++, o++, a += stride, b += stride, d += stride) {
            const int32_t *sum = s.of[i], m = *multiplier++;
            const int64_t n = *offset++;
            const int64_t p = scaled(sum[2], m, n), q = scaled(sum[1], m, n), r = scaled(sum[0], m, n);
            *d = byte_of(p);
            *b = byte_of(q);
            *a = byte_of(r);
            if (plain) continue;
            if ((uint32_t)p <= twice || (uint32_t)q <= twice || (uint32_t)r <= twice) {
                *d = any_level(&c->levels, sum[2], o);
                *b = any_level(&c->levels, sum[1], o);
                *a = any_level(&c->levels, sum[0], o);
            }
        }
    }
}

void autosplit_convolve(const autosplit_convolution *conv, const uint8_t *in, uint8_t *out, void *scratch) {
    const autosplit_convolution k = *conv, *c = &k; /* a copy: bytes that are written could be part of *conv */
    const unsigned taken = c->channels / c->groups, made = c->out_channels / c->groups;
    const uint32_t positions = (uint32_t)c->out_height * c->out_width;
    const uint32_t used = (uint32_t)c->kernel_height * c->kernel_width * taken;
    /* where a window inside the input has all of its first and last row and column: none where it may not be read so */
    const int direct = c->groups == 1 && c->dilation_down == 1 && c->dilation_right == 1 &&
                       c->kernel_width * c->channels >= 4;
    const int32_t last_y = direct ? c->height - c->kernel_height : -1, last_x = c->width - c->kernel_width;
    uint8_t *patch = (uint8_t *)scratch + 2u * POSITIONS * c->column; /* behind the columns */
    fill(patch + used, 0, c->column - used);                          /* weights are zero there */
    for (unsigned group = 0; group < c->groups; group++, in += taken) {
        const unsigned first = group * made;
        int32_t y = -(int32_t)c->top, x = -(int32_t)c->left;
        unsigned column = 0;
        for (uint32_t position = 0; position < positions; position += POSITIONS) {
            uint8_t *to[POSITIONS];
            const uint8_t *at[POSITIONS], *any = NULL;
            if (column + POSITIONS <= c->out_width && y >= 0 && y <= last_y && x >= 0 &&
                x + (POSITIONS - 1) * c->stride_right <= last_x) { /* most of them */
                at[0] = in + (uint32_t)(y * c->width + x) * c->channels;
                at[1] = at[0] + c->stride_right * c->channels;
                at[2] = at[1] + c->stride_right * c->channels;
                to[0] = out + first * c->channel_stride + position * c->position_stride;
                to[1] = to[0] + c->position_stride;
                to[2] = to[1] + c->position_stride;
                window_columns(c, at, scratch);
                outputs(c, first, scratch, to);
                x += POSITIONS * c->stride_right, column += POSITIONS;
                if (column == c->out_width) column = 0, x = -(int32_t)c->left, y += c->stride_down;
                continue;
            }
            int32_t places[POSITIONS][2];
            unsigned count = 0;
            for (; count < POSITIONS && position + count < positions; count++) {
                places[count][0] = y, places[count][1] = x;
                at[count] = NULL;
                if (y >= 0 && y <= last_y && x >= 0 && x <= last_x)
                    any = at[count] = in + (uint32_t)(y * c->width + x) * c->channels;
                x += c->stride_right;
                if (++column == c->out_width) column = 0, x = -(int32_t)c->left, y += c->stride_down;
            }
            if (any) {
                const uint8_t *from[POSITIONS];
                for (unsigned i = 0; i < POSITIONS; i++) from[i] = i < count && at[i] ? at[i] : any;
                window_columns(c, from, scratch);
            }
            for (unsigned i = 0; i < POSITIONS; i++) {
                /* what is behind the last position is written to the first one, before the first one itself */
                to[i] = out + first * c->channel_stride + (position + (i < count ? i : 0)) * c->position_stride;
                if (i < count && !at[i])
                    window_column(c, in, taken, places[i][0], places[i][1], COLUMN_OF(scratch, c->column, i), patch);
            }
            outputs(c, first, scratch, to);
        }
    }
    clip_bytes(c->levels.low, c->levels.high, out, positions * c->out_channels);
}

/* What a position of a depthwise layer multiplies: of each channel so many rows and columns. */
typedef struct {
    const uint8_t *in;
    const int8_t *weight;
    uint32_t rows, columns, in_pitch, weight_pitch; /* pitch: bytes from one row to the next */
    int32_t zero;          /* if not 0: it is taken off each input, and a sum begins with the one of `padded` */
    const int32_t *padded; /* sums of windows with nothing but padding, of each channel one */
} part;

#if DSP

/* Four channels of one pixel of the window. */
#define FOUR_PRODUCTS(place, less)        \
    "ldr %[a], [%[in]" place "]\n\t"      \
    "ldr %[w], [%[weight]" place "]\n\t"  \
    "uxtb16 %[b], %[a], ror #8\n\t"       \
    "uxtb16 %[a], %[a]\n\t" less          \
    "sxtb16 %[v], %[w], ror #8\n\t"       \
    "sxtb16 %[w], %[w]\n\t"               \
    "smlabb %[s0], %[a], %[w], %[s0]\n\t" \
    "smlabb %[s1], %[b], %[v], %[s1]\n\t" \
    "smlatt %[s2], %[a], %[w], %[s2]\n\t" \
    "smlatt %[s3], %[b], %[v], %[s3]\n\t"
#define LESS_ZERO                         \
    "ssub16 %[a], %[a], %[zero]\n\t"      \
    "ssub16 %[b], %[b], %[zero]\n\t"
#define SUM(products)                                                                                              \
    __asm volatile(products                                                                                        \
                   : [s0] "+&r"(s0), [s1] "+&r"(s1), [s2] "+&r"(s2), [s3] "+&r"(s3), [a] "=&r"(a), [b] "=&r"(b),   \
                     [v] "=&r"(v), [w] "=&r"(w)                                                                    \
                   : [in] "r"(in), [weight] "r"(weight), [step] "r"(step), [zero] "rn"(zero)                       \
                   : "memory")
#define SUM_ROW(less)                                                                                              \
    if (columns == 3) /* of most kernels */                                                                        \
        SUM(FOUR_PRODUCTS("", less) FOUR_PRODUCTS(", %[step]", less) FOUR_PRODUCTS(", %[step], lsl #1", less));    \
    else                                                                                                           \
        for (; columns; columns--, in += step, weight += step) SUM(FOUR_PRODUCTS("", less))

/* `zero`: twice in a word, or a constant 0, for which the compiler leaves out what is not needed. */
static inline void sum_rows(const part *p, uint32_t step, uint32_t o, uint32_t zero, int32_t s[4]) {
    const uint8_t *row = p->in + o;
    const int8_t *weights = p->weight + o;
    int32_t s0 = zero ? p->padded[o] : 0, s1 = zero ? p->padded[o + 1] : 0;
    int32_t s2 = zero ? p->padded[o + 2] : 0, s3 = zero ? p->padded[o + 3] : 0;
    for (uint32_t i = p->rows; i; i--, row += p->in_pitch, weights += p->weight_pitch) {
        const uint8_t *in = row;
        const int8_t *weight = weights;
        uint32_t columns = p->columns, a, b, v, w;
        if (zero) {
            SUM_ROW(LESS_ZERO);
        } else {
            SUM_ROW("");
        }
    }
    s[0] = s0, s[1] = s1, s[2] = s2, s[3] = s3;
}

/* Sums of the four channels from `o` on; a pixel has `step`. Not inlined: it needs all registers for itself. */
__attribute__((noinline)) static void four_sums(const part *p, uint32_t step, uint32_t o, int32_t s[4]) {
    if (p->zero)
        sum_rows(p, step, o, (uint32_t)p->zero * 0x00010001u, s);
    else
        sum_rows(p, step, o, 0, s);
}

#endif

/* All channels of a position, four at a time. */
__attribute__((noinline)) static void depthwise_levels(const autosplit_convolution *c, const part *p, uint8_t *to) {
    const uint32_t channels = c->channels, stride = c->channel_stride;
    uint32_t o = 0;
#if DSP
    const uint32_t twice = c->levels.left ? UINT32_MAX : 2 * c->levels.window;
    for (; o + 4 <= channels; o += 4) {
        const int32_t *multiplier = c->levels.multiplier + o;
        const int64_t *offset = c->levels.offset + o;
        int32_t sum[4];
        four_sums(p, channels, o, sum);
        for (unsigned i = 0; i < 4; i++, to += stride) {
            const int64_t product = scaled(sum[i], multiplier[i], offset[i]);
            *to = byte_of(product);
            /* without exceptions the window is 0: then it costs nothing */
            if ((uint32_t)product <= twice) *to = any_level(&c->levels, sum[i], o + i);
        }
    }
#endif
    for (; o < channels; o++, to += stride) {
        int32_t sum = p->zero ? p->padded[o] : 0;
        for (uint32_t i = 0; i < p->rows; i++) {
            const uint8_t *in = p->in + i * p->in_pitch + o;
            const int8_t *weight = p->weight + i * p->weight_pitch + o;
            for (uint32_t j = 0; j < p->columns; j++, in += channels, weight += channels)
                sum += (*in - p->zero) * *weight;
        }
        *to = any_level(&c->levels, sum, o);
    }
}

/* Each channel by itself: weights lie as the inputs do, (kernel height, kernel width, channels). Inputs are read where
 * they are, and padding is left out: where a window has some, its sum begins with that of a window with nothing else
 * and each input adds what it differs by from the level of zero. Dilated windows alone are copied, with their padding. */
void autosplit_depthwise(const autosplit_convolution *conv, const uint8_t *in, uint8_t *out, void *scratch) {
    const autosplit_convolution k = *conv, *c = &k;
    const uint32_t channels = c->channels, size = (uint32_t)c->kernel_height * c->kernel_width;
    const uint32_t pitch = c->kernel_width * channels;
    const int copied = c->dilation_down > 1 || c->dilation_right > 1;
    int32_t *padded = scratch;
    part p = {scratch, c->weight, c->kernel_height, c->kernel_width, copied ? pitch : c->width * channels, pitch,
              0, padded};
    for (uint32_t o = 0; c->zero && !copied && o < channels; o++) {
        padded[o] = 0;
        for (uint32_t i = 0; i < size; i++) padded[o] += c->weight[i * channels + o] * c->zero;
    }
    uint8_t *to = out;
    int32_t y = -(int32_t)c->top;
    for (unsigned row = 0; row < c->out_height; row++, y += c->stride_down) {
        const span rows = span_of(y, c->kernel_height, c->height);
        int32_t x = -(int32_t)c->left;
        for (unsigned column = 0; column < c->out_width; column++, x += c->stride_right, to += c->position_stride) {
            if (copied) {
                window_bytes(c, in, channels, y, x, scratch);
            } else {
                const span columns = span_of(x, c->kernel_width, c->width);
                p.in = in + (rows.at * c->width + columns.at) * channels;
                p.weight = c->weight + rows.before * pitch + columns.before * channels;
                p.rows = rows.inside, p.columns = columns.inside;
                p.zero = rows.inside * columns.inside == size ? 0 : c->zero; /* nothing is padding */
            }
            depthwise_levels(c, &p, to);
        }
    }
    clip_bytes(c->levels.low, c->levels.high, out, (uint32_t)c->out_height * c->out_width * channels);
}

/* A layer whose values stay real, for one position: the logits. Its columns are used once, so they are not widened. */
void autosplit_real(const autosplit_convolution *c, const autosplit_scales *s, const uint8_t *in, float *out,
                    void *scratch) {
    const unsigned taken = c->channels / c->groups, made = c->out_channels / c->groups;
    uint8_t *patch = scratch;
    for (unsigned o = 0; o < c->out_channels; o++) {
        if (o % made == 0) window_bytes(c, in + o / made * taken, taken, -(int32_t)c->top, -(int32_t)c->left, patch);
        const unsigned own = o / made * ((made + 1u) / 2u) + o % made / 2u; /* rows of two channels lie in turns */
        const int8_t *row = c->weight + own * 2u * c->column + o % made % 2u * 4u;
        const uint32_t used = (uint32_t)c->kernel_height * c->kernel_width * taken;
        int32_t sum = 0;
        for (uint32_t i = 0; i < used; i++) sum += patch[i] * row[i + i / 4 * 4];
        out[o] = (float)(sum + s->bias[o]) * s->scale[o];
    }
}

/* --- elementwise -------------------------------------------------------------------------------------------------- */

static uint8_t listed_pair(const autosplit_pairs *p, uint8_t a, uint8_t b, int32_t level) {
    for (unsigned i = 0; i < p->count; i++)
        if (p->exceptions[i][0] == a && p->exceptions[i][1] == b) return p->exceptions[i][2];
    return (uint8_t)level;
}

/* Sums up to the first that may be an exception, bounds left out: its number. The window is added to all: where the lower
 * bits then say that there is no exception, that does not change the level. Not inlined, and calls nothing: all that a sum
 * needs stays in registers. */
__attribute__((noinline)) static uint32_t plain_sums(const uint8_t *a, const uint8_t *b, uint8_t *out, uint32_t elements,
                                                     const autosplit_pairs *p) {
    const int32_t m = p->multiplier[0], n = p->multiplier[1], offset = (int32_t)p->offset + (int32_t)p->window;
    const uint32_t shift = p->shift, mask = (1u << shift) - 1, twice = 2 * p->window;
    uint32_t left = elements;
    for (; left; left--) {
        const int32_t t = *a++ * m + (*b++ * n + offset);
        if (((uint32_t)t & mask) <= twice) break;
        *out++ = (uint8_t)to_byte(t >> shift);
    }
    return elements - left;
}

void autosplit_sum(const uint8_t *a, const uint8_t *b, uint8_t *out, uint32_t elements, const autosplit_pairs *pairs) {
    const autosplit_pairs p = *pairs;
    for (uint32_t i = 0; i < elements; i++) {
        i += plain_sums(a + i, b + i, out + i, elements - i, &p);
        if (i == elements) break;
        const int32_t t = a[i] * p.multiplier[0] + b[i] * p.multiplier[1] + (int32_t)p.offset;
        out[i] = listed_pair(&p, a[i], b[i], (int32_t)to_byte(t >> p.shift));
    }
    clip_bytes(p.low, p.high, out, elements);
}

/* `step` is 0 where the second tensor has one value a channel, and as many as the first one's channels elsewhere. */
void autosplit_product(const uint8_t *a, const uint8_t *b, uint8_t *out, uint32_t positions, uint32_t channels,
                       uint32_t step, const autosplit_pairs *pairs) {
    const autosplit_pairs p = *pairs;
    const uint32_t mask = (uint32_t)((1ull << p.shift) - 1);
    for (uint32_t position = 0; position < positions; position++, b += step)
        for (uint32_t i = 0; i < channels; i++, a++, out++) {
            int64_t t = (int64_t)((*a - p.zero[0]) * (b[i] - p.zero[1])) * p.multiplier[0] + p.offset;
            int32_t level = clip((int32_t)(t >> p.shift), p.low, p.high);
            uint8_t found = (uint8_t)level;
            if ((((uint32_t)t + p.window) & mask) <= 2 * p.window) found = listed_pair(&p, *a, b[i], level);
            *out = found;
        }
}

void autosplit_table(const uint8_t *in, uint8_t *out, uint32_t elements, const uint8_t *table) {
    for (uint32_t i = 0; i < elements; i++) out[i] = table[in[i]];
}

void autosplit_tables(const uint8_t *in, uint8_t *out, uint32_t positions, unsigned channels, const uint8_t *tables) {
    for (uint32_t i = 0; i < positions; i++) {
        const uint8_t *table = tables;
        for (unsigned c = 0; c < channels; c++, table += 256) *out++ = table[*in++];
    }
}

/* --- pooling ------------------------------------------------------------------------------------------------------ */

void autosplit_maximum(const autosplit_pooling *p, const uint8_t *in, uint8_t *out) {
    const uint32_t channels = p->channels;
    for (unsigned i = 0; i < p->out_height; i++)
        for (unsigned j = 0; j < p->out_width; j++, out += channels)
            for (uint32_t c = 0; c < channels; c++) {
                uint8_t most = 0;
                for (uint32_t y = p->rows[i][0]; y < p->rows[i][1]; y++)
                    for (uint32_t x = p->columns[j][0]; x < p->columns[j][1]; x++) {
                        uint8_t level = in[(y * p->width + x) * channels + c];
                        if (level > most) most = level;
                    }
                out[c] = most;
            }
}

/* Half way between two integers to the even one, for values below 2^21. */
static int32_t nearest(float x) {
    volatile float shifted = x + 12582912.0f; /* 1.5 * 2^23: the last bit counts ones; volatile = really float32 */
    return (int32_t)(shifted - 12582912.0f);
}

/* The mean as the network computes it: of float32 numbers, added in double. */
static float exact_mean(const autosplit_average *a, const uint8_t *in, unsigned i, unsigned j, double divisor) {
    const autosplit_pooling *p = &a->pooling;
    double sum = 0;
    for (uint32_t y = p->rows[i][0]; y < p->rows[i][1]; y++)
        for (uint32_t x = p->columns[j][0]; x < p->columns[j][1]; x++) {
            volatile float value = (float)(in[(y * p->width + x) * p->channels] - a->zero) * a->scale;
            sum += (double)value;
        }
    return (float)(sum / divisor);
}

/* Its level: needed once in thousands of means. */
static int32_t exact_level(const autosplit_average *a, const uint8_t *in, unsigned i, unsigned j, double divisor,
                           float step) {
    volatile float levels = exact_mean(a, in, i, j, divisor) / step;
    if (a->shift != 0.0f) levels = levels - a->shift;
    return nearest(levels < -1024.0f ? -1024.0f : levels > 1024.0f ? 1024.0f : levels) + a->target;
}

void autosplit_real_mean(const autosplit_average *a, const uint8_t *in, float *out) {
    for (unsigned c = 0; c < a->pooling.channels; c++) out[c] = exact_mean(a, in + c, 0, 0, a->quotients[0].divisor);
}

void autosplit_mean(const autosplit_average *a, const uint8_t *in, uint8_t *out) {
    const autosplit_pooling *p = &a->pooling;
    const uint32_t channels = p->channels;
    for (unsigned i = 0; i < p->out_height; i++)
        for (unsigned j = 0; j < p->out_width; j++) {
            const uint32_t rows = p->rows[i][1] - p->rows[i][0], columns = p->columns[j][1] - p->columns[j][0];
            const uint32_t position = i * p->out_width + j, kind = a->kinds ? a->kinds[position] : 0;
            for (uint32_t c = 0; c < channels; c++) {
                const uint32_t own = a->each ? c : 0;
                const autosplit_quotient q = a->quotients[a->each ? kind * channels + c : kind];
                int32_t sum = -(int32_t)(rows * columns * a->zero);
                const uint8_t *row = in + ((uint32_t)p->rows[i][0] * p->width + p->columns[j][0]) * channels + c;
                for (uint32_t y = 0; y < rows; y++, row += p->width * channels)
                    for (uint32_t x = 0; x < columns; x++) sum += row[x * channels];
                int64_t t = (int64_t)(int32_t)((uint32_t)sum << q.left) * q.multiplier + q.offset;
                int32_t level = (int32_t)(t >> 32);
                if ((uint32_t)t + q.window <= 2 * q.window)
                    level = exact_level(a, in + c, i, j, q.divisor, a->step[own]);
                out[position * a->position_stride + c * a->channel_stride] = (uint8_t)clip(level, a->low, a->high);
            }
        }
}

/* --- rearrangements ----------------------------------------------------------------------------------------------- */

void autosplit_channels(const uint8_t *in, uint8_t *out, uint32_t positions, unsigned inputs, unsigned outputs,
                        const uint16_t *order) {
    for (uint32_t i = 0; i < positions; i++, in += inputs)
        for (unsigned c = 0; c < outputs; c++) *out++ = in[order[c]];
}

void autosplit_gather(const uint8_t *in, uint8_t *out, uint32_t elements, const int32_t *places, uint8_t zero) {
    for (uint32_t i = 0; i < elements; i++) out[i] = places[i] < 0 ? zero : in[places[i]];
}

/* One tensor among several that are joined: `out` begins at its first channel of `all`. */
void autosplit_join(const uint8_t *in, uint8_t *out, uint32_t positions, unsigned channels, unsigned all,
                    const uint8_t *table) {
    for (uint32_t i = 0; i < positions; i++, out += all)
        for (unsigned c = 0; c < channels; c++) out[c] = table[*in++];
}

/* --- logits ------------------------------------------------------------------------------------------------------- */

void autosplit_readout(const uint8_t *in, float *out, uint32_t elements, int zero, float scale) {
    for (uint32_t i = 0; i < elements; i++) out[i] = (float)(in[i] - zero) * scale;
}

/* e^x for x <= 0: 2^n times a polynomial of the rest, which lies within half of ln 2; off by a few units in the last
 * place, so that no mathematical library is needed. */
static float exponential(float x) {
    if (x < -87.0f) return 0.0f;
    int32_t n = (int32_t)(x * 1.44269504f - 0.5f);
    float r = (x - (float)n * 0.693359375f) + (float)n * 2.12194440e-4f;
    float p = 1.0f + r * (1.0f + r * (0.5f + r * (0.166666667f + r * (0.0416666667f + r * (0.00833333333f + r *
              (0.00138888889f + r * 0.000198412698f))))));
    union { uint32_t bits; float value; } power = {(uint32_t)(n + 127) << 23};
    return p * power.value;
}

unsigned autosplit_decide(float *logits, unsigned classes, float temperature, float *confidence) {
    unsigned best = 0;
    for (unsigned i = 0; i < classes; i++) {
        logits[i] = logits[i] / temperature;
        if (logits[i] > logits[best]) best = i;
    }
    float sum = 0;
    for (unsigned i = 0; i < classes; i++) sum += exponential(logits[i] - logits[best]);
    *confidence = 1.0f / sum;
    return best;
}
