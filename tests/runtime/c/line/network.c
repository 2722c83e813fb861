/* A device with a camera that sees the images of vectors.h: network, payload, packets, the label from the edge. */
#include "autosplit.h"
#include "fragments.h"
#include "line.h"
#include "vectors.h"

#include <stdio.h>

#define PACKET_BYTES 20u
#define IMAGES 4u

static uint8_t payload[AUTOSPLIT_MAX_PAYLOAD_BYTES];

int main(void) {
    static const autosplit_gateway gateway = {AUTOSPLIT_KEY, 7u, PACKET_BYTES};
    if (!line_open()) {
        puts("no line");
        return 1;
    }
    for (unsigned n = 0; n < IMAGES; n++) {
        autosplit_answer here;
        autosplit_edge_answer there;
        size_t length = autosplit_begin(vector_images[n], 0, payload, &here);
        uint8_t packet[PACKET_BYTES], stuffed[AUTOSPLIT_LINE_BYTES(PACKET_BYTES)];
        size_t count = autosplit_fragments(&gateway, length);
        for (size_t i = 0; i < count; i++) {
            size_t size = autosplit_fragment(&gateway, (uint8_t)n, payload, length, i, packet);
            size = autosplit_line_write(packet, size, stuffed);
            for (size_t j = 0; j < size; j++) {
                line_put(stuffed[j]);
            }
        }
        autosplit_line line = {0};
        int byte = 0, answered = 0;
        while (!answered && (byte = line_get()) >= 0) {
            answered = autosplit_line_read(&line, &gateway, (uint8_t)n, (uint8_t)byte, &there);
        }
        if (answered) {
            printf("%u: status %u, label %u\n", n, there.status, there.label);
        } else {
            printf("%u: no answer\n", n);
        }
    }
    return 0;
}
