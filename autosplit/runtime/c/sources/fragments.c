#include "fragments.h"

#define VERSION 1u
#define FRAGMENT (VERSION << 4)
#define ANSWER (VERSION << 4 | 1u)
#define HEADER_BYTES 5u
#define LAST 0x80u
#define INTACT 0xE2F0u   /* the checksum of content and checksum together, wherever it starts */
#define LONGEST_RUN 254u /* bytes without a zero that one code byte of a stuffed packet stands for */

/*
 * CRC-16 with the polynomial 0x1021, inverted (CRC-16/GENIBUS but for the start), bit by bit: a table would take 512
 * bytes of flash and save little beside the time that a radio takes.
 */
static uint16_t checksum(const uint8_t *bytes, size_t count, const uint8_t *key) {
    uint32_t crc = (uint32_t)key[0] << 8 | key[1];
    for (size_t i = 0; i < count; i++) {
        crc ^= (uint32_t)bytes[i] << 8;
        for (unsigned bit = 0; bit < 8u; bit++) {
            crc = (crc & 0x8000u) != 0u ? crc << 1 ^ 0x1021u : crc << 1;
        }
    }
    return (uint16_t)(~crc & 0xFFFFu);
}

static uint8_t high(uint16_t number) {
    return (uint8_t)(number >> 8);
}

static uint8_t low(uint16_t number) {
    return (uint8_t)(number & 0xFFu);
}

size_t autosplit_fragments(const autosplit_gateway *gateway, size_t payload_bytes) {
    if (gateway->packet_bytes < AUTOSPLIT_ANSWER_BYTES || payload_bytes == 0u) {
        return 0;
    }
    size_t room = gateway->packet_bytes - AUTOSPLIT_FRAGMENT_BYTES;
    size_t count = (payload_bytes - 1u) / room + 1u;
    return count <= AUTOSPLIT_MAX_FRAGMENTS ? count : 0;
}

size_t autosplit_fragment(const autosplit_gateway *gateway, uint8_t message, const uint8_t *payload,
                          size_t payload_bytes, size_t index, uint8_t *packet) {
    size_t count = autosplit_fragments(gateway, payload_bytes);
    if (index >= count) {
        return 0;
    }
    size_t room = gateway->packet_bytes - AUTOSPLIT_FRAGMENT_BYTES;
    size_t start = index * room;
    size_t length = payload_bytes - start < room ? payload_bytes - start : room;
    packet[0] = FRAGMENT;
    packet[1] = high(gateway->device);
    packet[2] = low(gateway->device);
    packet[3] = message;
    packet[4] = (uint8_t)(index | (index + 1u == count ? LAST : 0u));
    for (size_t i = 0; i < length; i++) {
        packet[HEADER_BYTES + i] = payload[start + i];
    }
    uint16_t crc = checksum(packet, HEADER_BYTES + length, gateway->key);
    packet[HEADER_BYTES + length] = high(crc);
    packet[HEADER_BYTES + length + 1u] = low(crc);
    return length + AUTOSPLIT_FRAGMENT_BYTES;
}

int autosplit_answer_read(const autosplit_gateway *gateway, uint8_t message, const uint8_t *packet, size_t packet_bytes,
                          autosplit_edge_answer *answer) {
    if (packet_bytes != AUTOSPLIT_ANSWER_BYTES || packet[0] != ANSWER || packet[1] != high(gateway->device) ||
        packet[2] != low(gateway->device) || packet[3] != message ||
        checksum(packet, packet_bytes, gateway->key) != INTACT) {
        return 0;
    }
    answer->status = packet[4];
    answer->label = (uint16_t)((unsigned)packet[5] << 8 | packet[6]);
    return 1;
}

size_t autosplit_line_write(const uint8_t *packet, size_t packet_bytes, uint8_t *stuffed) {
    size_t code = 1, length = 2; /* where the code byte of this run stands, and where its next byte goes */
    stuffed[0] = 0; /* ends whatever noise came on an idle line */
    for (size_t i = 0; i < packet_bytes; i++) {
        if (packet[i] != 0u) {
            stuffed[length] = packet[i];
            length++;
        }
        if (packet[i] == 0u || length - code > LONGEST_RUN) {
            stuffed[code] = (uint8_t)(length - code);
            code = length;
            length++;
        }
    }
    stuffed[code] = (uint8_t)(length - code);
    stuffed[length] = 0;
    return length + 1u;
}

/* Undoes the stuffing in place; the packet's length, or 0 where the bytes are no stuffed packet. */
static size_t unstuffed(uint8_t *bytes, size_t count) {
    size_t length = 0, start = 0;
    while (start < count) {
        size_t end = start + bytes[start];
        int zero_follows = bytes[start] <= LONGEST_RUN && end < count;
        if (end > count || end == start) {
            return 0;
        }
        for (size_t i = start + 1u; i < end; i++) {
            bytes[length] = bytes[i]; /* which lies before what is still to be read */
            length++;
        }
        if (zero_follows) {
            bytes[length] = 0;
            length++;
        }
        start = end;
    }
    return length;
}

int autosplit_line_read(autosplit_line *line, const autosplit_gateway *gateway, uint8_t message, uint8_t byte,
                        autosplit_edge_answer *answer) {
    if (byte != 0u) {
        if (line->length < sizeof line->held) {
            line->held[line->length] = byte;
        }
        if (line->length <= sizeof line->held) {
            line->length++;
        }
        return 0;
    }
    size_t count = line->length;
    line->length = 0;
    if (count > sizeof line->held) {
        return 0;
    }
    return autosplit_answer_read(gateway, message, line->held, unstuffed(line->held, count), answer);
}
