/* uart16550_test.c: the register model as drivers see it, Linux's 8250 probe among them. */
#include "devices/uart16550.h"

#include <errno.h>
#include <linux/serial_reg.h>
#include <string.h>

#include "tests/unit/device_test.h"

#define COM1 0x3f8
#define IRQ  4

static struct bus pio;
static struct fake_hv hv;
static struct uart *uart;
static struct {
    uint8_t data[64];
    size_t len;
} sent;
static unsigned readies;
static size_t refill; /* bytes that rx_ready() delivers at once */

static void tx(void *opaque, const uint8_t *data, size_t len)
{
    (void)opaque;
    cr_assert_leq(sent.len + len, sizeof(sent.data));
    memcpy(sent.data + sent.len, data, len);
    sent.len += len;
}

/* Called without the lock: receiving from here must not hang. */
static void rx_ready(void *opaque)
{
    static const uint8_t more[64] = {0};

    (void)opaque;
    readies++;
    uart_receive(uart, more, refill);
}

static const struct uart_ops ops = {.tx = tx, .rx_ready = rx_ready};

static uint8_t in(unsigned reg)
{
    return (uint8_t)port_in(&pio, (uint16_t)(COM1 + reg), 1);
}

static void out(unsigned reg, unsigned value)
{
    port_out(&pio, (uint16_t)(COM1 + reg), 1, value);
}

static size_t feed(const char *text)
{
    return uart_receive(uart, (const uint8_t *)text, strlen(text));
}

static void setup(void)
{
    struct irq_line irq = {.hv = &hv.hv, .gsi = IRQ};

    fake_hv_init(&hv);
    cr_assert_eq(bus_init(&pio), 0);
    cr_assert_eq(uart_create(&uart, &pio, COM1, irq, &ops, NULL), 0);
}

static void teardown(void)
{
    uart_destroy(uart);
    cr_expect_eq(pio.nr, 0);
    bus_fini(&pio);
}

TestSuite(uart16550, .init = setup, .fini = teardown);

/* The gate open and FIFOs on, as a driver runs it. */
static void open_port(unsigned ier)
{
    out(UART_FCR, UART_FCR_ENABLE_FIFO);
    out(UART_MCR, UART_MCR_OUT2);
    in(UART_MSR);
    out(UART_IER, ier);
}

Test(uart16550, power_on_state)
{
    cr_expect_eq(in(UART_IER), 0);
    cr_expect_eq(in(UART_IIR), UART_IIR_NO_INT);
    cr_expect_eq(in(UART_LCR), 0);
    cr_expect_eq(in(UART_MCR), 0);
    cr_expect_eq(in(UART_LSR), UART_LSR_THRE | UART_LSR_TEMT);
    cr_expect_eq(in(UART_MSR), UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS);
    cr_expect_not(hv.level[IRQ]);
}

/* The steps of Linux's autoconfig() and autoconfig_16550a() that tell the chips apart. */
Test(uart16550, linux_finds_a_16550a)
{
    out(UART_IER, 0);
    cr_expect_eq(in(UART_IER)&0x0f, 0);
    out(UART_IER, 0xff);
    cr_expect_eq(in(UART_IER), 0x0f, "the upper bits are an XScale's");
    out(UART_IER, 0);

    out(UART_MCR, UART_MCR_LOOP | UART_MCR_OUT2 | UART_MCR_RTS);
    cr_expect_eq(in(UART_MSR)&0xf0, UART_MSR_DCD | UART_MSR_CTS);
    out(UART_MCR, 0);

    out(UART_LCR, UART_LCR_CONF_MODE_B);
    out(UART_EFR, 0);
    out(UART_LCR, 0);
    out(UART_FCR, UART_FCR_ENABLE_FIFO);
    cr_expect_eq(in(UART_IIR) >> 6, 3, "FIFO that works");
    out(UART_LCR, UART_LCR_CONF_MODE_A);
    cr_expect_neq(in(UART_EFR), 0, "0 is a 16C950 or XR16C850");
    out(UART_LCR, UART_LCR_CONF_MODE_B);
    cr_expect_neq(in(UART_EFR), 0, "0 is a 16650");
    out(UART_LCR, 0);
    out(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR7_64BYTE);
    cr_expect_eq(in(UART_IIR) >> 5, 6, "7 is a 16750");
    out(UART_FCR, 0);
    cr_expect_eq(in(UART_IIR), UART_IIR_NO_INT);
}

Test(uart16550, scratch_and_divisor)
{
    for (unsigned v = 0; v < 0x100; v += 0x55) {
        out(UART_SCR, v);
        cr_expect_eq(in(UART_SCR), v);
    }
    out(UART_LCR, UART_LCR_DLAB | UART_LCR_WLEN8);
    cr_expect_eq(in(UART_DLL) | in(UART_DLM) << 8, 1, "never 0: drivers divide by it");
    out(UART_DLL, 0x34);
    out(UART_DLM, 0x12);
    cr_expect_eq(in(UART_DLL), 0x34);
    cr_expect_eq(in(UART_DLM), 0x12);
    out(UART_LCR, UART_LCR_WLEN8);
    cr_expect_eq(in(UART_LCR), UART_LCR_WLEN8);
    cr_expect_eq(in(UART_IER), 0, "not the divisor any more");
    cr_expect_eq(sent.len, 0);
}

Test(uart16550, transmits)
{
    out(UART_TX, 'h');
    out(UART_TX, 'i');
    cr_assert_eq(sent.len, 2);
    cr_expect_eq(memcmp(sent.data, "hi", 2), 0);
    cr_expect_eq(in(UART_LSR), UART_LSR_THRE | UART_LSR_TEMT);
}

Test(uart16550, transmitter_interrupt)
{
    open_port(0);
    cr_expect_eq(hv.raised[IRQ], 0);

    out(UART_IER, UART_IER_THRI); /* the transmitter is empty: at once */
    cr_expect(hv.level[IRQ]);
    cr_expect_eq(in(UART_IIR), 0xc0 | UART_IIR_THRI);
    cr_expect_not(hv.level[IRQ], "reading IIR clears it");
    cr_expect_eq(in(UART_IIR), 0xc0 | UART_IIR_NO_INT);
    out(UART_IER, UART_IER_THRI);
    cr_expect_not(hv.level[IRQ], "no change, no interrupt");

    out(UART_TX, 'a');
    cr_expect(hv.level[IRQ]);
    cr_expect_eq(hv.raised[IRQ], 2);
    out(UART_TX, 'b'); /* without reading IIR: a new edge all the same */
    cr_expect(hv.level[IRQ]);
    cr_expect_eq(hv.raised[IRQ], 3);

    out(UART_IER, 0);
    cr_expect_not(hv.level[IRQ]);
    out(UART_IER, UART_IER_THRI);
    cr_expect_eq(hv.raised[IRQ], 4);
}

/* Linux's test for UART_BUG_TXEN and UART_BUG_THRE. */
Test(uart16550, linux_finds_no_transmitter_bug)
{
    out(UART_IER, UART_IER_THRI);
    in(UART_LSR);
    cr_expect_eq(in(UART_IIR)&UART_IIR_NO_INT, 0);
    out(UART_IER, 0);
    out(UART_IER, UART_IER_THRI);
    cr_expect_eq(in(UART_IIR)&UART_IIR_NO_INT, 0);
}

Test(uart16550, receives_into_one_register_without_fifo)
{
    cr_expect_eq(feed("ab"), 1);
    cr_expect_eq(in(UART_LSR)&UART_LSR_DR, UART_LSR_DR);
    cr_expect_eq(feed("b"), 0);
    cr_expect_eq(readies, 0);
    cr_expect_eq(in(UART_RX), 'a');
    cr_expect_eq(readies, 1, "room again");
    cr_expect_eq(in(UART_LSR)&UART_LSR_DR, 0);
    cr_expect_eq(in(UART_RX), 0, "nothing there");
    cr_expect_eq(readies, 1);
}

Test(uart16550, fifo_holds_sixteen_in_order)
{
    open_port(0);
    cr_expect_eq(feed("0123456789abcdefXYZ"), 16);
    for (int i = 0; i < 16; i++) {
        cr_expect(in(UART_LSR)&UART_LSR_DR);
        cr_expect_eq(in(UART_RX), "0123456789abcdef"[i]);
        cr_expect_eq(readies, 1, "once, at the first room");
    }
    cr_expect_eq(in(UART_LSR), UART_LSR_THRE | UART_LSR_TEMT);
    cr_expect_eq(feed("z"), 1);
    cr_expect_eq(in(UART_RX), 'z');
    cr_expect_eq(readies, 1, "nobody waits");
}

Test(uart16550, rx_ready_may_receive)
{
    open_port(0);
    cr_expect_eq(feed("0123456789abcdefX"), 16);
    refill = 5;
    in(UART_RX);
    cr_expect_eq(readies, 1);
    in(UART_RX);
    cr_expect_eq(readies, 2, "the refill did not fit either");
}

Test(uart16550, empty_receive_means_nothing)
{
    cr_expect_eq(uart_receive(uart, NULL, 0), 0);
    cr_expect_eq(feed("a"), 1);
    cr_expect_eq(uart_receive(uart, NULL, 0), 0);
    in(UART_RX);
    cr_expect_eq(readies, 0);
}

Test(uart16550, trigger_levels)
{
    static const struct {
        uint8_t fcr;
        unsigned level;
    } row[] = {
        {UART_FCR_TRIGGER_1, 1},
        {UART_FCR_TRIGGER_4, 4},
        {UART_FCR_TRIGGER_8, 8},
        {UART_FCR_TRIGGER_14, 14},
    };

    open_port(UART_IER_RDI);
    for (unsigned r = 0; r < 4; r++) {
        out(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR | row[r].fcr);
        cr_expect_not(hv.level[IRQ]);
        for (unsigned n = 1; n <= 16; n++) {
            feed("x");
            cr_expect(hv.level[IRQ]);
            cr_expect_eq(in(UART_IIR),
                         0xc0 | (n < row[r].level ? UART_IIR_RX_TIMEOUT : UART_IIR_RDI),
                         "trigger %u, %u in the FIFO", row[r].level, n);
        }
    }
}

Test(uart16550, receiver_interrupt_lasts_until_read)
{
    open_port(UART_IER_RDI);
    feed("ab");
    cr_expect_eq(hv.raised[IRQ], 1);
    in(UART_IIR);
    in(UART_RX);
    cr_expect(hv.level[IRQ]);
    in(UART_RX);
    cr_expect_not(hv.level[IRQ]);
    feed("c");
    cr_expect_eq(hv.raised[IRQ], 2);
}

/* A burst while the handler runs: reading the last byte lets the line fall, so that the next
 * byte is an edge again. */
Test(uart16550, no_interrupt_is_lost_between_reads)
{
    open_port(UART_IER_RDI | UART_IER_THRI);
    in(UART_IIR);
    for (int i = 0; i < 20; i++) {
        unsigned before = hv.raised[IRQ];

        feed("x");
        out(UART_TX, 'y');
        while (!(in(UART_IIR)&UART_IIR_NO_INT)) {
            if (in(UART_LSR)&UART_LSR_DR)
                in(UART_RX);
        }
        cr_expect_not(hv.level[IRQ]);
        cr_expect_gt(hv.raised[IRQ], before);
    }
}

Test(uart16550, interrupt_priorities)
{
    open_port(0);
    out(UART_MCR, UART_MCR_OUT2 | UART_MCR_LOOP); /* a delta, and then an overrun */
    for (int i = 0; i < 17; i++)
        out(UART_TX, 'x');
    out(UART_IER, UART_IER_RDI | UART_IER_THRI | UART_IER_RLSI | UART_IER_MSI);
    cr_expect_eq(in(UART_IIR)&0x0f, UART_IIR_RLSI);
    cr_expect_eq(in(UART_LSR)&UART_LSR_OE, UART_LSR_OE);
    cr_expect_eq(in(UART_LSR)&UART_LSR_OE, 0, "read once");
    cr_expect_eq(in(UART_IIR)&0x0f, UART_IIR_RDI);
    for (int i = 0; i < 16; i++)
        in(UART_RX);
    cr_expect_eq(in(UART_IIR)&0x0f, UART_IIR_THRI);
    cr_expect_eq(in(UART_IIR)&0x0f, UART_IIR_MSI);
    cr_expect_neq(in(UART_MSR)&0x0f, 0);
    cr_expect_eq(in(UART_IIR)&0x0f, UART_IIR_NO_INT);
}

Test(uart16550, out2_gates_the_interrupt)
{
    out(UART_IER, UART_IER_THRI);
    cr_expect_not(hv.level[IRQ]);
    cr_expect_eq(hv.calls[FAKE_IRQ_LINE], 0);
    out(UART_MCR, UART_MCR_OUT2);
    cr_expect(hv.level[IRQ]);
    out(UART_MCR, UART_MCR_OUT2 | UART_MCR_LOOP);
    cr_expect_not(hv.level[IRQ], "OUT2 is inactive in loopback");
    out(UART_MCR, UART_MCR_OUT2);
    cr_expect(hv.level[IRQ]);
}

Test(uart16550, loopback_data_and_overrun)
{
    out(UART_MCR, UART_MCR_LOOP);
    out(UART_TX, 'a');
    cr_expect_eq(sent.len, 0);
    out(UART_TX, 'b'); /* 16450 mode: the register is overwritten */
    cr_expect_eq(in(UART_LSR), UART_LSR_THRE | UART_LSR_TEMT | UART_LSR_DR | UART_LSR_OE);
    cr_expect_eq(in(UART_RX), 'b');
    cr_expect_eq(in(UART_LSR), UART_LSR_THRE | UART_LSR_TEMT);

    out(UART_FCR, UART_FCR_ENABLE_FIFO); /* FIFO mode: what is in it stays */
    for (int i = 0; i < 20; i++)
        out(UART_TX, 'A' + i);
    cr_expect(in(UART_LSR)&UART_LSR_OE);
    for (int i = 0; i < 16; i++)
        cr_expect_eq(in(UART_RX), 'A' + i);
    cr_expect_not(in(UART_LSR)&UART_LSR_DR);
}

Test(uart16550, loopback_disconnects_the_line)
{
    out(UART_MCR, UART_MCR_LOOP);
    cr_expect_eq(feed("a"), 0);
    cr_expect_not(in(UART_LSR)&UART_LSR_DR);
    cr_expect_eq(readies, 0);
    out(UART_MCR, 0);
    cr_expect_eq(readies, 1);
    cr_expect_eq(feed("a"), 1);
}

Test(uart16550, modem_lines_and_their_changes)
{
    static const struct {
        uint8_t mcr, msr, delta_on, delta_off;
    } row[] = {
        {UART_MCR_RTS, UART_MSR_CTS, UART_MSR_DCTS, UART_MSR_DCTS},
        {UART_MCR_DTR, UART_MSR_DSR, UART_MSR_DDSR, UART_MSR_DDSR},
        {UART_MCR_OUT1, UART_MSR_RI, 0, UART_MSR_TERI}, /* the trailing edge only */
        {UART_MCR_OUT2, UART_MSR_DCD, UART_MSR_DDCD, UART_MSR_DDCD},
    };

    out(UART_MCR, UART_MCR_LOOP);
    cr_expect_eq(in(UART_MSR), UART_MSR_DCTS | UART_MSR_DDSR | UART_MSR_DDCD);
    cr_expect_eq(in(UART_MSR), 0, "reading clears the changes");
    for (unsigned i = 0; i < 4; i++) {
        out(UART_MCR, UART_MCR_LOOP | row[i].mcr);
        cr_expect_eq(in(UART_MSR), row[i].msr | row[i].delta_on, "row %u", i);
        out(UART_MCR, UART_MCR_LOOP);
        cr_expect_eq(in(UART_MSR), row[i].delta_off, "row %u", i);
    }
    out(UART_MCR, 0xff);
    cr_expect_eq(in(UART_MCR), 0x1f, "three bits are always 0");
    out(UART_MSR, 0xff);
    out(UART_LSR, 0xff);
    cr_expect_eq(in(UART_MSR) >> 4, 0xf);
    cr_expect_eq(in(UART_LSR), UART_LSR_THRE | UART_LSR_TEMT);
}

Test(uart16550, fifo_control_needs_its_enable_bit)
{
    open_port(0);
    feed("abc");
    out(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_TRIGGER_8);
    cr_expect(in(UART_LSR)&UART_LSR_DR, "only a change of the mode clears");
    out(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR);
    cr_expect_not(in(UART_LSR)&UART_LSR_DR);
    feed("abc");
    out(UART_FCR, UART_FCR_TRIGGER_14);
    cr_expect_not(in(UART_LSR)&UART_LSR_DR);
    cr_expect_eq(in(UART_IIR), UART_IIR_NO_INT);
    feed("a");
    out(UART_IER, UART_IER_RDI);
    cr_expect_eq(in(UART_IIR), UART_IIR_RDI, "no trigger level without FIFO");
}

Test(uart16550, clearing_the_fifo_makes_room)
{
    open_port(0);
    cr_expect_eq(feed("0123456789abcdefX"), 16);
    out(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR);
    cr_expect_eq(readies, 1);
}

Test(uart16550, wide_accesses_are_bytes_of_the_ports)
{
    port_out(&pio, COM1 + UART_LCR, 2, UART_MCR_RTS << 8 | UART_LCR_WLEN8);
    cr_expect_eq(in(UART_LCR), UART_LCR_WLEN8);
    cr_expect_eq(in(UART_MCR), UART_MCR_RTS);
    out(UART_SCR, 0xa5);
    cr_expect_eq(port_in(&pio, COM1, 8), 0xa5b0600203010000);
    cr_expect_eq(port_in(&pio, COM1 + 7, 2), 0xffa5, "past the end is nobody's");
    port_out(&pio, COM1, 8, 0x5a00000000000041);
    cr_expect_eq(sent.data[0], 0x41);
    cr_expect_eq(in(UART_SCR), 0x5a);
}

Test(uart16550, reset_lowers_the_line_and_forgets)
{
    open_port(UART_IER_RDI);
    feed("0123456789abcdefX");
    out(UART_LCR, UART_LCR_DLAB);
    out(UART_DLL, 12);
    uart_reset(uart);
    cr_expect_not(hv.level[IRQ]);
    cr_expect_eq(in(UART_LSR), UART_LSR_THRE | UART_LSR_TEMT);
    cr_expect_eq(in(UART_IIR), UART_IIR_NO_INT);
    cr_expect_eq(readies, 1, "who waited for room hears of it");
    out(UART_LCR, UART_LCR_DLAB);
    cr_expect_eq(in(UART_DLL), 1);
}

Test(uart16550, two_are_apart)
{
    struct irq_line irq = {.hv = &hv.hv, .gsi = 3};
    struct uart *second = NULL;

    cr_expect_eq(uart_create(&second, &pio, COM1 + 4, irq, &ops, NULL), -EEXIST);
    cr_expect_null(second);
    cr_assert_eq(uart_create(&second, &pio, 0x2f8, irq, &ops, NULL), 0);
    port_out(&pio, 0x2f8 + UART_MCR, 1, UART_MCR_OUT2);
    port_out(&pio, 0x2f8 + UART_IER, 1, UART_IER_THRI);
    cr_expect(hv.level[3]);
    cr_expect_not(hv.level[IRQ]);
    cr_expect_eq(in(UART_IER), 0);
    uart_destroy(second);
    uart_destroy(NULL);
}

/* Whatever is written where, the device answers, and its line agrees with its registers. */
Test(uart16550, arbitrary_accesses)
{
    uint32_t seed = 1;

    for (int i = 0; i < 100000; i++) {
        seed = seed * 1664525 + 1013904223;
        unsigned reg = seed >> 29, size = 1U << (seed >> 27 & 3);

        sent.len = 0;
        if (seed & 1 << 20)
            port_in(&pio, (uint16_t)(COM1 + reg), size);
        else
            port_out(&pio, (uint16_t)(COM1 + reg), size, seed >> 5);
        if (seed & 1 << 19)
            feed("0123456789");
    }
    out(UART_LCR, 0);
    out(UART_IER, 0);
    cr_expect_not(hv.level[IRQ]);
    cr_expect_eq(hv.calls[FAKE_IRQ_LINE] & 1, 0, "only changes of the line are told");
}
