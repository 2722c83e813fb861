/* A device that sends the payloads of messages.h by a serial line, one after the other, and prints what it is told. */
#include "fragments.h"
#include "line.h"
#include "messages.h"

#include <stdio.h>

int main(void) {
    static const autosplit_gateway gateway = {KEY, DEVICE, PACKET_BYTES};
    if (!line_open()) {
        puts("no line");
        return 1;
    }
    for (unsigned n = 0; n < MESSAGES; n++) {
        uint8_t message = (uint8_t)(FIRST_MESSAGE + n);
        uint8_t packet[PACKET_BYTES], stuffed[AUTOSPLIT_LINE_BYTES(PACKET_BYTES)];
        size_t count = autosplit_fragments(&gateway, lengths[n]);
        for (size_t i = 0; i < count; i++) {
            size_t length = autosplit_fragment(&gateway, message, payloads[n], lengths[n], i, packet);
            length = autosplit_line_write(packet, length, stuffed);
            for (size_t j = 0; j < length; j++) {
                line_put(stuffed[j]);
            }
        }
        autosplit_line line = {0};
        autosplit_edge_answer answer;
        int byte = 0, answered = 0;
        while (!answered && (byte = line_get()) >= 0) {
            answered = autosplit_line_read(&line, &gateway, message, (uint8_t)byte, &answer);
        }
        if (answered) {
            printf("%u: status %u, label %u\n", message, answer.status, answer.label);
        } else {
            printf("%u: no answer\n", message);
        }
    }
    return 0;
}
