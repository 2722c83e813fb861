/* The line as an open file, whose descriptor is in the environment as LINE. */
#include "line.h"

#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#define PATIENCE_MS 20000

static int line;

int line_open(void) {
    const char *given = getenv("LINE");
    line = given == NULL ? -1 : atoi(given);
    return line >= 0;
}

void line_put(uint8_t byte) {
    while (write(line, &byte, 1) != 1) {
    }
}

int line_get(void) {
    struct pollfd waited = {.fd = line, .events = POLLIN};
    uint8_t byte;
    return poll(&waited, 1, PATIENCE_MS) == 1 && read(line, &byte, 1) == 1 ? byte : -1;
}
