/*
 * serial.c: COM1 is a 16550A (National Semiconductor PC16550D data sheet, 8): scratch, divisor
 * latch, loopback, FIFO, modem lines, interrupt identification; its interrupt comes through the
 * IOAPIC. With the word `input=N` on the command line it asks for N bytes from outside, the
 * alphabet over and over, and every one of them must arrive, in order.
 */
#include "lib.h"

enum { RBR, IER, IIR, LCR, MCR, LSR, MSR, SCR, THR = RBR, DLL = RBR, DLM = IER, FCR = IIR };
enum { IER_RX = 1, IER_TX = 2, IIR_NONE = 1, IIR_TX = 2 };
enum { LCR_8BITS = 3, LCR_DLAB = 0x80, MCR_OUT2 = 8, MCR_LOOP = 0x10 };
enum { LSR_DATA = 1, LSR_OVERRUN = 2, LSR_IDLE = 0x60 };

#define UART_GSI    4
#define UART_VECTOR 0x40

static volatile uint32_t irqs, received, wrong;

static uint8_t in(unsigned reg)
{
    return inb((uint16_t)(COM1 + reg));
}

static void out(unsigned reg, unsigned value)
{
    outb((uint16_t)(COM1 + reg), (uint8_t)value);
}

static void drain(void)
{
    for (unsigned i = 0; i < 1000 && (in(LSR)&LSR_IDLE) != LSR_IDLE; i++)
        cpu_relax();
}

static void registers(void)
{
    bool scratch = true;

    for (unsigned v = 0; v < 256; v += 51) {
        out(SCR, v);
        scratch &= in(SCR) == v;
    }
    check(scratch, "scratch register keeps what is written");

    uint8_t ier = in(IER);
    out(LCR, LCR_DLAB | LCR_8BITS);
    out(DLL, 0x0c);
    out(DLM, 0x5a);
    bool latch = in(DLL) == 0x0c && in(DLM) == 0x5a;
    out(DLM, 0); /* 9600 baud */
    out(LCR, LCR_8BITS);
    check(latch && in(IER) == ier, "divisor latch, apart from the registers it hides");

    out(IER, 0xff);
    check(in(IER) == 0x0f, "the upper half of IER reads zero");
    out(IER, 0);
    out(FCR, 0);
    check(in(IIR) == IIR_NONE, "no interrupt, no FIFO: IIR is %02x", in(IIR));
    out(FCR, 7);
    check((in(IIR)&0xc0) == 0xc0, "FIFO enabled shows in IIR");
}

/* In loopback nothing can be printed: the verdicts come afterwards. */
static void loopback(void)
{
    bool same = true, modem = true;

    drain();
    out(MCR, MCR_LOOP);
    for (unsigned v = 0; v < 256; v++) {
        out(THR, v);
        same &= (in(LSR)&LSR_DATA) && in(RBR) == v;
    }
    bool more = in(LSR)&LSR_DATA;

    for (unsigned i = 0; i < 16; i++)
        out(THR, 'a' + i);
    bool early = in(LSR)&LSR_OVERRUN;
    out(THR, 'z');
    bool overrun = in(LSR)&LSR_OVERRUN, sticks = in(LSR)&LSR_OVERRUN;
    out(FCR, 7);
    bool left = in(LSR)&LSR_DATA;

    static const uint8_t lines[][2] = {{1, 0x20}, {2, 0x10}, {4, 0x40}, {8, 0x80}};
    for (unsigned i = 0; i < ARRAY_SIZE(lines); i++) { /* DTR-DSR, RTS-CTS, OUT1-RI, OUT2-DCD */
        out(MCR, MCR_LOOP | lines[i][0]);
        modem &= (in(MSR)&0xf0) == lines[i][1];
    }
    out(MCR, MCR_OUT2);
    in(MSR);

    check(same && !more, "256 bytes come back in loopback, no more");
    check(!early && overrun && !sticks, "the 17th byte in the FIFO is an overrun, told once");
    check(!left, "the FIFO is empty after its reset");
    check(modem, "each modem output is seen at its input");
}

static void on_irq(struct trap *trap)
{
    (void)trap;
    irqs++;
    for (uint8_t id; !((id = in(IIR)) & IIR_NONE);) {
        for (; (id & 0xf) != IIR_TX && (in(LSR)&LSR_DATA); received++)
            wrong += in(RBR) != 'a' + received % 26;
    }
    lapic_eoi();
}

static void interrupts(void)
{
    lapic_enable();
    on_trap(UART_VECTOR, on_irq);
    ioapic_route(UART_GSI, UART_VECTOR, 0);
    drain();
    out(MCR, MCR_OUT2);

    out(IER, IER_TX);
    bool came = wait_irqs(&irqs, 1, 2000);
    check(came, "transmitter empty interrupts");
    out(IER, 0);
    out(IER, IER_TX);
    bool again = (in(IIR)&0xf) == IIR_TX, gone = (in(IIR)&0xf) == IIR_NONE;
    check(again && gone, "reading IIR takes it back");
    out(IER, 0);
}

static void input(uint32_t bytes)
{
    out(FCR, 7);
    out(IER, IER_RX);
    print("send %u bytes\n", bytes);
    bool came = wait_irqs(&received, bytes, 4000);
    check(came && received == bytes && !wrong, "%u bytes arrive, %u wrong", received, wrong);
    out(IER, 0);
}

int main(void)
{
    pic_init(0);
    registers();
    loopback();
    interrupts();
    if (arg("input"))
        input((uint32_t)arg_number("input", 0));
    finish("serial");
}
