/*
 * Payloads in packets of a few dozen bytes, for a device that has only a radio or a serial line.
 *
 * The format is described in docs/protocol.md of autosplit, section "Fragments for radio and serial lines"; the other
 * end is `autosplit gateway`. C11; nothing is allocated, nothing is kept between calls but in structs of the caller,
 * and all numbers are integers.
 *
 * To send a payload by radio:
 *
 *     size_t count = autosplit_fragments(&gateway, length);
 *     for (size_t i = 0; i < count; i++) {
 *         radio_send(packet, autosplit_fragment(&gateway, message, payload, length, i, packet));
 *     }
 *
 * then wait for packets, and give each to autosplit_answer_read until it returns 1 or the device's patience is over; a
 * device that gets no answer, or one without a label, answers by itself. Over a serial line each packet goes through
 * autosplit_line_write, and each byte that comes back to autosplit_line_read. `message` is one more for each payload.
 */
#ifndef AUTOSPLIT_FRAGMENTS_H
#define AUTOSPLIT_FRAGMENTS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define AUTOSPLIT_FRAGMENT_BYTES 7u  /* of a packet beside the payload's: header and checksum */
#define AUTOSPLIT_ANSWER_BYTES 9u    /* of an answer's packet */
#define AUTOSPLIT_MAX_FRAGMENTS 128u /* of one payload */

/* Bytes of a packet on a serial line, at most. */
#define AUTOSPLIT_LINE_BYTES(packet_bytes) ((size_t)(packet_bytes) + (size_t)(packet_bytes) / 254u + 3u)

/* Status of an answer; others are the reasons of refusals in docs/protocol.md, such as 13 (rate) and 14 (busy). */
#define AUTOSPLIT_ANSWERED 0u
#define AUTOSPLIT_AWAY 255u /* the gateway cannot ask the edge just now */

/* What device and gateway agree on. */
typedef struct {
    uint8_t key[4];        /* AUTOSPLIT_KEY of autosplit.h; `autosplit gateway` prints it when it starts */
    uint16_t device;       /* number of this device, not shared with another one at the gateway */
    uint16_t packet_bytes; /* of the longest packet that the link carries: at least 9, for an answer */
} autosplit_gateway;

typedef struct {
    uint8_t status; /* AUTOSPLIT_ANSWERED where there is a label */
    uint16_t label;
} autosplit_edge_answer;

/* What has come of an answer by a serial line; begins as {0}. */
typedef struct {
    uint8_t held[AUTOSPLIT_ANSWER_BYTES + 1u];
    uint8_t length; /* one more than fits where what has come is too long */
} autosplit_line;

/* Packets that a payload takes; 0 where it is empty or takes more than AUTOSPLIT_MAX_FRAGMENTS. */
size_t autosplit_fragments(const autosplit_gateway *gateway, size_t payload_bytes);

/*
 * Makes one packet of a payload.
 *
 * message: number of the payload, 0 to 255; the next one has the next number, and after 255 comes 0.
 * index: of the packet, 0 to autosplit_fragments() - 1.
 * packet: gateway->packet_bytes bytes, apart from the payload.
 *
 * Returns the packet's length, or 0 where there is no such packet.
 */
size_t autosplit_fragment(const autosplit_gateway *gateway, uint8_t message, const uint8_t *payload,
                          size_t payload_bytes, size_t index, uint8_t *packet);

/*
 * Reads a packet that came.
 *
 * Returns 1 where it is the answer to this message of this device, which is then in `answer`; else 0.
 */
int autosplit_answer_read(const autosplit_gateway *gateway, uint8_t message, const uint8_t *packet, size_t packet_bytes,
                          autosplit_edge_answer *answer);

/*
 * Makes what a packet is on a serial line: consistent overhead byte stuffing (COBS) between two zero bytes.
 *
 * stuffed: AUTOSPLIT_LINE_BYTES(packet_bytes) bytes, apart from the packet.
 *
 * Returns the number of bytes.
 */
size_t autosplit_line_write(const uint8_t *packet, size_t packet_bytes, uint8_t *stuffed);

/*
 * Takes a byte that came by a serial line.
 *
 * Returns 1 where it ends the answer to this message of this device, which is then in `answer`; else 0.
 */
int autosplit_line_read(autosplit_line *line, const autosplit_gateway *gateway, uint8_t message, uint8_t byte,
                        autosplit_edge_answer *answer);

#ifdef __cplusplus
}
#endif

#endif
