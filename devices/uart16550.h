/*
 * uart16550.h: the PC16550D serial port (National Semiconductor, June 1995).
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "vmm/hv.h"

struct bus;
struct uart;

/* Both are called from vCPU threads. */
struct uart_ops {
    /* Where transmitted bytes go; with the UART's lock held; must not block for ever. */
    void (*tx)(void *opaque, const uint8_t *data, size_t len);
    /* The receiver has room again after uart_receive() took less than it was given; without the
     * lock. */
    void (*rx_ready)(void *opaque);
};

/* Registers eight ports at PORT on PIO. */
int uart_create(struct uart **out, struct bus *pio, uint16_t port, struct irq_line irq,
                const struct uart_ops *ops, void *opaque);
void uart_destroy(struct uart *uart);
void uart_reset(struct uart *uart);

/* Up to LEN bytes for the guest; returns how many the receiver takes now (any thread). */
size_t uart_receive(struct uart *uart, const uint8_t *data, size_t len);
