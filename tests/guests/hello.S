/*
 * hello.S: a flat binary that checks whether it was entered as `--entry` promises. Built three
 * times, with MODE = 16, 32 or 64 (linked for 0, 1 MiB and 1 MiB by guests.mk). It prints a
 * line and ends by the debug-exit port with 0, or with the number of the check that failed. A
 * fourth build (MODE = 64 and VMLINUX, an ELF file without a PVH note) is entered as Linux's
 * vmlinux is, with the address of the boot parameters in RSI.
 *
 * Whoever writes a kernel.bin of his own: this is the smallest example.
 */

#define COM1       0x3f8
#define COM1_LSR   (COM1 + 5)
#define DEBUG_EXIT 0xf4
#define CR0_PE     0x00000001
#define CR0_PG     0x80000000
#define EFLAGS_IF  0x200
#define MSR_EFER   0xc0000080
#define EFER_LONG  0x500 /* LME and LMA */

/* Ends with NUMBER unless CONDITION (as in jCC) holds. */
.macro expect condition, number
    movb $\number, %bl
    j\condition 7f
    jmp end
7:
.endm

/* The descriptor of the selector in %eax, from the table at %edi: flat, HIGH its upper half with
 * "accessed" left out. Read from memory: a software KVM may know no LAR and LSL. */
.macro expect_descriptor high, number
    andl $0xfff8, %eax
    addl %edi, %eax
    cmpl $0x0000ffff, (%eax)
    expect e, \number
    movl 4(%eax), %ecx
    andb $0xfe, %ch
    cmpl $\high, %ecx
    expect e, \number
.endm

    .text
    .globl _start
_start:

#if MODE == 16
    .code16
    call 1f
1:  popw %ax /* the address of this instruction */
    cmpw $1b, %ax
    expect e, 1
    movw %cs, %ax
    cmpw $0x1000, %ax
    expect e, 2
    movw %ds, %dx
    cmpw %ax, %dx
    expect e, 3
    movw %es, %dx
    cmpw %ax, %dx
    expect e, 4
    movw %ss, %dx
    cmpw %ax, %dx
    expect e, 5
    movl %cr0, %eax
    testl $CR0_PE | CR0_PG, %eax
    expect z, 6
    pushfw
    popw %ax
    testw $EFLAGS_IF, %ax
    expect z, 7
    movl $MSR_EFER, %ecx
    rdmsr
    testl $EFER_LONG, %eax
    expect z, 8
    movw $text, %si
#endif

#if MODE == 32
    .code32
    call 1f
1:  popl %eax
    cmpl $1b, %eax
    expect e, 1
    sgdt -8(%esp)
    movl -6(%esp), %edi
    movl %cs, %eax
    expect_descriptor 0x00cf9a00, 2 /* 4 KiB units, 32-bit; present, code, readable */
    movl %ds, %eax
    expect_descriptor 0x00cf9200, 3 /* data, writable */
    movl %es, %eax
    expect_descriptor 0x00cf9200, 4
    movl %ss, %eax
    expect_descriptor 0x00cf9200, 5
    movl %cr0, %eax
    andl $CR0_PE | CR0_PG, %eax
    cmpl $CR0_PE, %eax
    expect e, 6
    pushfl
    popl %eax
    testl $EFLAGS_IF, %eax
    expect z, 7
    movl $MSR_EFER, %ecx
    rdmsr
    testl $EFER_LONG, %eax
    expect z, 8
    movl $text, %esi
#endif

#if MODE == 64
    .code64
#ifdef VMLINUX
    cmpl $0x53726448, 0x202(%rsi) /* "HdrS" in the setup header */
    expect e, 9
    cmpb $0, 0x1e8(%rsi) /* the memory map has entries */
    expect ne, 10
#endif
    call 1f
1:  popq %rax
    cmpq $1b, %rax
    expect e, 1
    sgdt -16(%rsp)
    movl -14(%rsp), %edi
    movl %cs, %eax
    expect_descriptor 0x00af9a00, 2 /* 4 KiB units, 64-bit; present, code, readable */
    movl %ss, %eax
    expect_descriptor 0x00cf9200, 5
    movq %cr0, %rax
    andl $CR0_PE | CR0_PG, %eax
    cmpl $CR0_PE | CR0_PG, %eax
    expect e, 6
    pushfq
    popq %rax
    testl $EFLAGS_IF, %eax
    expect z, 7
    movl $MSR_EFER, %ecx
    rdmsr
    notl %eax
    testl $EFER_LONG, %eax
    expect z, 8
    /* Every GiB of the first four is mapped, each to itself: this text, seen at its physical
     * address, and the interrupt controllers, near the top. */
    movl $0x7ffffff8, %eax
    movq (%rax), %rax
    movl $0xbffffff8, %eax
    movq (%rax), %rax
    movl $0xfee00030, %eax /* the local APIC's version: some entries */
    testl $0x00ff0000, (%rax)
    expect nz, 3
    movq $text, %rsi
#endif

    cld
    xorl %ebx, %ebx
print: /* LODSB takes its address from SI, ESI or RSI: the same source in every mode */
    lodsb
    testb %al, %al
    jz end
    movb %al, %bh
    movw $COM1_LSR, %dx
1:  inb %dx, %al
    testb $0x20, %al /* transmitter empty */
    jz 1b
    movb %bh, %al
    movw $COM1, %dx
    outb %al, %dx
    jmp print

end: /* %bl: the verdict */
    movb %bl, %al
    outb %al, $DEBUG_EXIT
1:  hlt
    jmp 1b

text:
#ifdef VMLINUX
    .asciz "hello: pass (64-bit entry of an ELF file)\n"
#elif MODE == 16
    .asciz "hello: pass (flat binary in real mode)\n"
#elif MODE == 32
    .asciz "hello: pass (flat binary in protected mode)\n"
#else
    .asciz "hello: pass (flat binary in long mode)\n"
#endif

    .section .note.GNU-stack, "", @progbits
