/* A serial line of a test's device: on this machine a file descriptor, on the emulated board its UART. */
#ifndef LINE_H
#define LINE_H

#include <stdint.h>

int line_open(void);
void line_put(uint8_t byte);
int line_get(void); /* -1 where nothing has come for a moment */

#endif
