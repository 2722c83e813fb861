/* How long does each step of the networks take? Runs the images in vectors.h and prints the median of each step.
 *
 * Compile it with network.c, kernels.c and payload.c, all with -DAUTOSPLIT_TIMED. On a board define AUTOSPLIT_TICKS as
 * what reads a counter that counts up, for example '-DAUTOSPLIT_TICKS=DWT->CYCCNT' for the cycles of a Cortex-M4, which
 * the firmware has to start; and AUTOSPLIT_TICKS_MASK where it has fewer than 32 bits: '-DAUTOSPLIT_TICKS=(-SysTick->VAL)'
 * -DAUTOSPLIT_TICKS_MASK=0xFFFFFF for the timer of a Cortex-M0+, which counts down, with its reload value at 0xFFFFFF.
 * Give all that it prints to `python -m coinference profile --ticks`. */
#if defined(__unix__) || defined(__APPLE__)
#define _POSIX_C_SOURCE 199309L
#endif
#include <stdio.h>
#include <string.h>

#include "autosplit.h"
#include "vectors.h"

#ifndef AUTOSPLIT_TICKS_MASK
#define AUTOSPLIT_TICKS_MASK 0xFFFFFFFFu
#endif

#ifdef AUTOSPLIT_TICKS
static uint32_t ticks(void) { return (uint32_t)(AUTOSPLIT_TICKS); }
#elif defined(_POSIX_C_SOURCE)
#include <time.h>
static uint32_t ticks(void) { /* nanoseconds, of which 4 s fit */
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint32_t)now.tv_sec * 1000000000u + (uint32_t)now.tv_nsec;
}
#else
#error "define AUTOSPLIT_TICKS as what reads a counter of this board; see above"
#endif

#define SAMPLES 15
#define SLOTS (AUTOSPLIT_STEPS + AUTOSPLIT_RATES) /* the payload coder's of each rate come last */

static uint8_t payload[AUTOSPLIT_MAX_PAYLOAD_BYTES + 1];
static uint32_t samples[SLOTS][SAMPLES]; /* the last ones of each slot */
static uint32_t counts[SLOTS], last;

void autosplit_step(unsigned slot) {
    uint32_t spent = (ticks() - last) & AUTOSPLIT_TICKS_MASK;
    samples[slot][counts[slot]++ % SAMPLES] = spent;
    last = ticks();
}

static uint32_t median(uint32_t *of, unsigned n) {
    for (unsigned i = 1; i < n; i++)
        for (unsigned j = i; j > 0 && of[j - 1] > of[j]; j--) {
            uint32_t other = of[j];
            of[j] = of[j - 1];
            of[j - 1] = other;
        }
    return of[n / 2];
}

int main(void) {
    static const uint8_t key[] = AUTOSPLIT_KEY;
    autosplit_answer answer = {0, 0, NULL};
    for (unsigned pass = 0; pass < SAMPLES; pass++) {
        unsigned i = pass % VECTORS;
        for (unsigned rate = 0; rate < AUTOSPLIT_RATES; rate++)
            for (unsigned tries = 0; tries < VECTORS; tries++) { /* until one is sent */
                last = ticks();
                size_t n = autosplit_begin(vector_images[(i + tries) % VECTORS], rate, payload, &answer);
                if (n || !AUTOSPLIT_MAX_PAYLOAD_BYTES) break;
            }
        last = ticks();
        autosplit_fallback(vector_images[i], &answer);
    }
    printf("bundle ");
    for (unsigned i = 0; i < sizeof key; i++) printf("%02x", key[i]);
    puts("");
    for (unsigned slot = 0; slot < SLOTS; slot++) {
        unsigned n = counts[slot] < SAMPLES ? counts[slot] : SAMPLES;
        int coder = slot >= AUTOSPLIT_STEPS;
        printf("%s %u ", coder ? "payload" : "step", coder ? slot - AUTOSPLIT_STEPS : slot);
        if (n)
            printf("%lu\n", (unsigned long)median(samples[slot], n));
        else
            puts("-"); /* it never ran */
    }
    puts("timed");
    return 0;
}
