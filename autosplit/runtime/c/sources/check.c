/* Does this machine give the answers that the bundle gives? Runs the images in vectors.h; the last line says it.
 *
 * With "-" as its argument (on machines that have a standard input) it reads images from there instead, one after the
 * other, and writes what it makes of each: the payload's length as two bytes, most significant first, the payload, and
 * the logits as they lie in memory where the device answers; then the same of the fallback. */
#include <stdio.h>
#include <string.h>

#include "autosplit.h"
#include "vectors.h"

static uint8_t payload[AUTOSPLIT_MAX_PAYLOAD_BYTES + 1];
static uint8_t image[AUTOSPLIT_IMAGE_BYTES];

static uint32_t crc32(const uint8_t *from, size_t n) {
    uint32_t crc = ~0u;
    while (n--) {
        crc ^= *from++;
        for (int i = 0; i < 8; i++) crc = crc >> 1 ^ (0xEDB88320u & (0u - (crc & 1)));
    }
    return ~crc;
}

static int check(void) {
    int wrong = 0;
    for (unsigned rate = 0; rate < AUTOSPLIT_RATES; rate++)
        for (unsigned i = 0; i < VECTORS; i++) {
            autosplit_answer answer = {0, 0, NULL};
            size_t n = autosplit_begin(vector_images[i], rate, payload, &answer);
            int right = n == vectors[rate][i].bytes && crc32(payload, n) == vectors[rate][i].crc &&
                        (n || answer.label == vectors[rate][i].label);
            printf("rate %u, image %u: %u bytes, label %u%s\n", rate, i, (unsigned)n, answer.label,
                   right ? "" : " DIFFERS");
            wrong += !right;
        }
    puts(wrong ? "DIFFERENT" : "EQUAL");
    return wrong != 0;
}

static void write_logits(const autosplit_answer *answer) {
    fwrite(answer->logits, sizeof *answer->logits, AUTOSPLIT_CLASSES, stdout);
}

static void stream(unsigned rate) {
    while (fread(image, sizeof image, 1, stdin) == 1) {
        autosplit_answer answer = {0, 0, NULL};
        size_t n = autosplit_begin(image, rate, payload, &answer);
        uint8_t head[2] = {(uint8_t)(n >> 8), (uint8_t)n};
        fwrite(head, sizeof head, 1, stdout);
        fwrite(payload, 1, n, stdout);
        if (!n) write_logits(&answer);
        if (autosplit_fallback(image, &answer)) write_logits(&answer);
    }
}

int main(int count, char **words) {
    if (count > 1 && !strcmp(words[1], "-")) {
        stream(count > 2 ? (unsigned)(words[2][0] - '0') : 0);
        return 0;
    }
    return check();
}
