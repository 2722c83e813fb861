/* The line as UART 0 of QEMU's mps2 boards, a "CMSDK APB UART" of Arm. */
#include "line.h"

#define DATA (*(volatile uint32_t *)0x40004000u)
#define STATE (*(volatile uint32_t *)0x40004004u)
#define CONTROL (*(volatile uint32_t *)0x40004008u)
#define DIVIDER (*(volatile uint32_t *)0x40004010u)
#define SEND_FULL 1u
#define RECEIVE_FULL 2u

#define PATIENCE 100000000u

int line_open(void) {
    DIVIDER = 25000000u / 115200u;
    CONTROL = 3u; /* sends and receives */
    return CONTROL == 3u;
}

void line_put(uint8_t byte) {
    while ((STATE & SEND_FULL) != 0u) {
    }
    DATA = byte;
}

int line_get(void) {
    for (uint32_t i = 0; i < PATIENCE; i++) {
        if ((STATE & RECEIVE_FULL) != 0u) {
            return (int)(DATA & 0xFFu);
        }
    }
    return -1;
}
