/*
 * uart16550.h: the PC16550D serial port (National Semiconductor, June 1995).
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "vmm/hv.h"

struct bus;
struct uart;

/* Where transmitted bytes go; from a vCPU thread, with the UART's lock held; must not block for
 * ever. */
typedef void uart_tx_fn(void *opaque, const uint8_t *data, size_t len);

/* Registers eight ports at PORT on PIO. */
int uart_create(struct uart **out, struct bus *pio, uint16_t port, struct irq_line irq,
                uart_tx_fn *tx, void *opaque);
void uart_destroy(struct uart *uart);
void uart_reset(struct uart *uart);

/* Up to LEN bytes for the guest; returns how many the receiver takes now (any thread). */
size_t uart_receive(struct uart *uart, const uint8_t *data, size_t len);
/* RX_READY is called (from a vCPU thread, without the lock) when the receiver has room again
 * after uart_receive() took less than it was given. */
void uart_set_rx_ready(struct uart *uart, void (*rx_ready)(void *opaque), void *opaque);
