/*
 * uart16550.c: PC16550D universal asynchronous receiver/transmitter with FIFOs (National
 * Semiconductor, June 1995, section 8.0 "Registers"), wired as COM1 of a PC/AT: the interrupt
 * goes through a gate that OUT2 opens. Register and bit names are linux/serial_reg.h's.
 *
 * The line is infinitely fast: what is transmitted has left at once, and four character times
 * after the last reception are always over (the FIFO time-out of 8.11). Left out: what needs a
 * real line, that is breaks, parity and framing errors, and DMA mode.
 *
 * The lock guards everything. vCPU threads access registers, the console's thread receives.
 */
#include "devices/uart16550.h"

#include <errno.h>
#include <linux/serial_reg.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "vmm/bus.h"
#include "vmm/util.h"

#define UART_PORTS     8
#define UART_FIFO_SIZE 16
#define UART_IER_MASK  (UART_IER_RDI | UART_IER_THRI | UART_IER_RLSI | UART_IER_MSI)
#define UART_MCR_MASK \
    (UART_MCR_DTR | UART_MCR_RTS | UART_MCR_OUT1 | UART_MCR_OUT2 | UART_MCR_LOOP)
/* The other end is there and ready, always. */
#define UART_MSR_LINES (UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS)
#define UART_DIVISOR   1 /* 115200 baud; never 0, which early consoles divide by */

struct uart {
    pthread_mutex_t lock;
    struct bus *pio;
    uint16_t port;
    struct irq_line irq;
    const struct uart_ops *ops;
    void *opaque;

    uint8_t ier, fcr, lcr, mcr, msr, scr, dll, dlm;
    uint8_t lsr;       /* error bits; the rest follows from the FIFO's state */
    bool thr_empty;    /* its interrupt is pending: not reported by IIR yet */
    bool rx_throttled; /* uart_receive() took less than it was given */

    uint8_t fifo[UART_FIFO_SIZE]; /* receiver */
    unsigned head, count;
};

/* ---- interrupts ---- */

/* The pending source of highest priority (8.6 "Interrupt Identification Register"). */
static uint8_t uart_interrupt(const struct uart *u)
{
    static const uint8_t trigger[] = {1, 4, 8, 14};
    uint8_t enabled = u->ier;
    if ((enabled & UART_IER_RLSI) && (u->lsr & UART_LSR_BRK_ERROR_BITS))
        return UART_IIR_RLSI;
    if ((enabled & UART_IER_RDI) && u->count > 0) {
        bool fifo = u->fcr & UART_FCR_ENABLE_FIFO;
        return fifo && u->count < trigger[u->fcr >> 6] ? UART_IIR_RX_TIMEOUT : UART_IIR_RDI;
    }
    if ((enabled & UART_IER_THRI) && u->thr_empty)
        return UART_IIR_THRI;
    if ((enabled & UART_IER_MSI) && (u->msr & UART_MSR_ANY_DELTA))
        return UART_IIR_MSI;
    return UART_IIR_NO_INT;
}

/* In loopback the modem outputs are inactive (8.8 "Modem Control Register"), OUT2 too. */
static void uart_update_irq(struct uart *u)
{
    bool gate = (u->mcr & (UART_MCR_OUT2 | UART_MCR_LOOP)) == UART_MCR_OUT2;
    irq_line_set(&u->irq, gate && uart_interrupt(u) != UART_IIR_NO_INT);
}

/* ---- receiver ---- */

static unsigned uart_rx_room(const struct uart *u)
{
    unsigned size = u->fcr & UART_FCR_ENABLE_FIFO ? UART_FIFO_SIZE : 1;
    return size - u->count;
}

static void uart_rx_push(struct uart *u, uint8_t byte)
{
    if (uart_rx_room(u) == 0) {
        u->lsr |= UART_LSR_OE;
        if (u->fcr & UART_FCR_ENABLE_FIFO)
            return; /* a full FIFO keeps what it has, the single register is overwritten */
        u->count = 0;
    }
    u->fifo[(u->head + u->count++) % UART_FIFO_SIZE] = byte;
}

static uint8_t uart_rx_pop(struct uart *u)
{
    if (u->count == 0)
        return 0;
    uint8_t byte = u->fifo[u->head];
    u->head = (u->head + 1) % UART_FIFO_SIZE;
    u->count--;
    return byte;
}

static void uart_rx_clear(struct uart *u)
{
    u->head = u->count = 0;
}

size_t uart_receive(struct uart *u, const uint8_t *data, size_t len)
{
    size_t n = 0;
    pthread_mutex_lock(&u->lock);
    /* In loopback the receiver's pin is disconnected. */
    while (n < len && !(u->mcr & UART_MCR_LOOP) && uart_rx_room(u) > 0)
        uart_rx_push(u, data[n++]);
    u->rx_throttled = n < len;
    uart_update_irq(u);
    pthread_mutex_unlock(&u->lock);
    return n;
}

/* ---- modem lines ---- */

/* The modem inputs, which in loopback are the modem outputs (8.8). */
static uint8_t uart_modem_lines(const struct uart *u)
{
    static const struct {
        uint8_t out, in;
    } loop[] = {
        {UART_MCR_RTS, UART_MSR_CTS},
        {UART_MCR_DTR, UART_MSR_DSR},
        {UART_MCR_OUT1, UART_MSR_RI},
        {UART_MCR_OUT2, UART_MSR_DCD},
    };
    uint8_t lines = 0;

    if (!(u->mcr & UART_MCR_LOOP))
        return UART_MSR_LINES;
    for (size_t i = 0; i < ARRAY_SIZE(loop); i++) {
        if (u->mcr & loop[i].out)
            lines |= loop[i].in;
    }
    return lines;
}

/* Each delta bit is its line's bit shifted down by four; RI counts when it goes away only. */
static void uart_write_mcr(struct uart *u, uint8_t value)
{
    uint8_t before = u->msr & 0xf0;
    u->mcr = value & UART_MCR_MASK;
    uint8_t now = uart_modem_lines(u), changed = before ^ now;
    if (now & UART_MSR_RI)
        changed &= (uint8_t)~UART_MSR_RI;
    u->msr = (uint8_t)(now | (u->msr & UART_MSR_ANY_DELTA) | changed >> 4);
}

/* ---- registers ---- */

static void uart_write_thr(struct uart *u, uint8_t byte)
{
    u->thr_empty = false;
    uart_update_irq(u); /* falls and rises: the line is edge-triggered */
    if (u->mcr & UART_MCR_LOOP)
        uart_rx_push(u, byte);
    else
        u->ops->tx(u->opaque, &byte, 1);
    u->thr_empty = true;
}

/* Enabling the interrupt of an empty transmitter raises it (8.7 "Interrupt Enable Register"
 * and Linux's test for it). */
static void uart_write_ier(struct uart *u, uint8_t value)
{
    value &= UART_IER_MASK;
    if (value & ~u->ier & UART_IER_THRI)
        u->thr_empty = true;
    u->ier = value;
}

/* 8.5: the other bits are programmed only together with FIFO enable; a change of that clears.
 */
static void uart_write_fcr(struct uart *u, uint8_t value)
{
    if (((value ^ u->fcr) & UART_FCR_ENABLE_FIFO) || (value & UART_FCR_CLEAR_RCVR))
        uart_rx_clear(u);
    u->fcr =
        value & UART_FCR_ENABLE_FIFO ? value & (UART_FCR_ENABLE_FIFO | UART_FCR_TRIGGER_14) : 0;
}

static uint8_t uart_read_iir(struct uart *u)
{
    uint8_t source = uart_interrupt(u);
    if (source == UART_IIR_THRI)
        u->thr_empty = false;
    return source | (u->fcr & UART_FCR_ENABLE_FIFO ? UART_FCR_TRIGGER_14 : 0);
}

static uint8_t uart_read_lsr(struct uart *u)
{
    uint8_t value = u->lsr | UART_LSR_THRE | UART_LSR_TEMT;
    u->lsr = 0;
    return value | (u->count > 0 ? UART_LSR_DR : 0);
}

static uint8_t uart_read_msr(struct uart *u)
{
    uint8_t value = u->msr;
    u->msr &= (uint8_t)~UART_MSR_ANY_DELTA;
    return value;
}

static uint8_t uart_read_register(struct uart *u, unsigned reg)
{
    bool dlab = u->lcr & UART_LCR_DLAB;
    switch (reg) {
    case UART_RX:
        return dlab ? u->dll : uart_rx_pop(u);
    case UART_IER:
        return dlab ? u->dlm : u->ier;
    case UART_IIR:
        return uart_read_iir(u);
    case UART_LCR:
        return u->lcr;
    case UART_MCR:
        return u->mcr;
    case UART_LSR:
        return uart_read_lsr(u);
    case UART_MSR:
        return uart_read_msr(u);
    default:
        return u->scr;
    }
}

static void uart_write_register(struct uart *u, unsigned reg, uint8_t value)
{
    bool dlab = u->lcr & UART_LCR_DLAB;
    switch (reg) {
    case UART_TX:
        if (dlab)
            u->dll = value;
        else
            uart_write_thr(u, value);
        break;
    case UART_IER:
        if (dlab)
            u->dlm = value;
        else
            uart_write_ier(u, value);
        break;
    case UART_FCR:
        uart_write_fcr(u, value);
        break;
    case UART_LCR:
        u->lcr = value;
        break;
    case UART_MCR:
        uart_write_mcr(u, value);
        break;
    case UART_SCR:
        u->scr = value;
        break;
    default: /* LSR and MSR are for reading */
        break;
    }
}

/* ---- the bus: a wider access is one byte for each port, as on an 8-bit ISA card ---- */

/* After every access: interrupts follow the state, and the sender hears of new room. */
static void uart_unlock(struct uart *u)
{
    bool ready = u->rx_throttled && !(u->mcr & UART_MCR_LOOP) && uart_rx_room(u) > 0;
    if (ready)
        u->rx_throttled = false;
    uart_update_irq(u);
    pthread_mutex_unlock(&u->lock);
    if (ready)
        u->ops->rx_ready(u->opaque);
}

static uint64_t uart_read(void *opaque, uint64_t offset, unsigned size)
{
    struct uart *u = opaque;
    uint64_t value = 0;
    pthread_mutex_lock(&u->lock);
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)uart_read_register(u, (unsigned)offset + i) << 8 * i;
    uart_unlock(u);
    return value;
}

static void uart_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    struct uart *u = opaque;
    pthread_mutex_lock(&u->lock);
    for (unsigned i = 0; i < size; i++)
        uart_write_register(u, (unsigned)offset + i, (uint8_t)(value >> 8 * i));
    uart_unlock(u);
}

static const struct bus_ops uart_bus_ops = {.read = uart_read, .write = uart_write};

/* ---- life ---- */

/* The data sheet's table of reset functions; the divisor is as firmware leaves it. */
void uart_reset(struct uart *u)
{
    pthread_mutex_lock(&u->lock);
    u->ier = u->fcr = u->lcr = u->mcr = u->lsr = u->scr = u->dlm = 0;
    u->dll = UART_DIVISOR;
    u->msr = UART_MSR_LINES;
    u->thr_empty = false;
    uart_rx_clear(u);
    uart_unlock(u);
}

int uart_create(struct uart **out, struct bus *pio, uint16_t port, struct irq_line irq,
                const struct uart_ops *ops, void *opaque)
{
    struct uart *u = calloc(1, sizeof(*u));
    const struct bus_range range = {port, UART_PORTS, &uart_bus_ops, u, "uart"};
    if (!u)
        return -ENOMEM;
    *u = (struct uart){.lock = PTHREAD_MUTEX_INITIALIZER,
                       .pio = pio,
                       .port = port,
                       .irq = irq,
                       .ops = ops,
                       .opaque = opaque};
    uart_reset(u);
    int err = bus_add(pio, &range);
    if (err) {
        free(u);
        return err;
    }
    *out = u;
    return 0;
}

void uart_destroy(struct uart *u)
{
    if (!u)
        return;
    bus_remove(u->pio, u->port);
    free(u);
}
