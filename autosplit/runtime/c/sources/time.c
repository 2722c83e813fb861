/* How long does each step of the networks take? Runs the images in vectors.h and prints the median of each step.
 *
 * Compile it with network.c, kernels.c and payload.c, all with -DAUTOSPLIT_TIMED. On a board define AUTOSPLIT_TICKS as
 * what reads a counter, for example '-DAUTOSPLIT_TICKS=(*(volatile uint32_t *)0xE0001004)' for the cycles of a Cortex-M
 * (which the firmware has to start), and give what it prints to `python -m coinference profile --ticks`. */
#include <stdio.h>
#include <string.h>

#include "autosplit.h"
#include "vectors.h"

#ifdef AUTOSPLIT_TICKS
static uint32_t ticks(void) { return (uint32_t)AUTOSPLIT_TICKS; }
#else
#include <time.h>
static uint32_t ticks(void) { /* nanoseconds, of which 4 s fit */
    struct timespec now;
    timespec_get(&now, TIME_UTC);
    return (uint32_t)now.tv_sec * 1000000000u + (uint32_t)now.tv_nsec;
}
#endif

#define SAMPLES 15
#define SLOTS (AUTOSPLIT_STEPS + AUTOSPLIT_RATES) /* the payload coder's of each rate come last */

static uint8_t payload[AUTOSPLIT_MAX_PAYLOAD_BYTES + 1];
static uint32_t samples[SLOTS][SAMPLES]; /* the last ones of each slot */
static uint32_t counts[SLOTS], last;

void autosplit_step(unsigned slot) {
    uint32_t spent = ticks() - last;
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
    for (unsigned slot = 0; slot < SLOTS; slot++) {
        unsigned n = counts[slot] < SAMPLES ? counts[slot] : SAMPLES;
        if (!n) continue;
        int coder = slot >= AUTOSPLIT_STEPS;
        printf("%s %u %lu\n", coder ? "payload" : "step", coder ? slot - AUTOSPLIT_STEPS : slot,
               (unsigned long)median(samples[slot], n));
    }
    puts("timed");
    return 0;
}
