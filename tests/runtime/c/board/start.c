/* Start of a program on QEMU's mps2 boards: vectors, memory, FPU, SysTick as a counter of instructions, semihosting. */
#include "board.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PERIOD (1u << 24)
#define INSTRUCTIONS_PER_TICK 40u

#define SYSTICK_CONTROL (*(volatile uint32_t *)0xE000E010u)
#define SYSTICK_RELOAD (*(volatile uint32_t *)0xE000E014u)
#define SYSTICK_VALUE (*(volatile uint32_t *)0xE000E018u)
#define COPROCESSORS (*(volatile uint32_t *)0xE000ED88u)

extern uint32_t board_data_load[], board_data_start[], board_data_end[], board_bss_start[], board_bss_end[];
extern uint32_t board_stack[];
int main(void);
void initialise_monitor_handles(void);
void board_reset(void);

static volatile uint32_t periods;

static void count_period(void) {
    periods++;
}

static void fault(void) {
    puts("the processor faulted");
    exit(99);
}

uint64_t board_instructions(void) {
    uint32_t before, value;
    do {
        before = periods;
        value = SYSTICK_VALUE;
    } while (before != periods);
    return ((uint64_t)before * PERIOD + (PERIOD - 1u - value)) * INSTRUCTIONS_PER_TICK;
}

void board_reset(void) {
    COPROCESSORS |= 0xFu << 20; /* full access to the FPU, before anything may use it */
    __asm volatile("dsb\n\tisb" ::: "memory");
    memcpy(board_data_start, board_data_load, (size_t)((char *)board_data_end - (char *)board_data_start));
    memset(board_bss_start, 0, (size_t)((char *)board_bss_end - (char *)board_bss_start));
    SYSTICK_RELOAD = PERIOD - 1u;
    SYSTICK_VALUE = 0;
    SYSTICK_CONTROL = 7u; /* the processor's clock, with an interrupt at each wrap */
    initialise_monitor_handles();
    exit(main());
}

__attribute__((section(".vectors"), used)) static void (*const vectors[])(void) = {
    (void (*)(void))board_stack, board_reset, fault, fault, fault, fault, fault, /* bus, usage: 5, 6 */
    fault, fault, fault, fault, fault, fault, fault, fault, count_period,
};
