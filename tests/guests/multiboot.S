/*
 * multiboot.S: a kernel made for GRUB, by Multiboot 1 or 2 (VERSION): it checks the state in
 * which it was entered, prints what it was told (command line, loader, its module and what is
 * in it) and counts the memory map's entries; with a module only. Built three times by
 * guests.mk: as an ELF64 file for each version, and without ELF around it, with load addresses
 * in the header (ADDRESSES).
 *
 * Whoever writes a Multiboot kernel: this is what its first instructions may rely on.
 */

#define COM1       0x3f8
#define COM1_LSR   (COM1 + 5)
#define DEBUG_EXIT 0xf4
#define CR0_PE     0x00000001
#define CR0_PG     0x80000000
#define EFLAGS_IF  0x200
#define FLAGS      0x24d /* memory, command line, modules, map, loader */

/* Ends with NUMBER unless CONDITION (as in jCC) holds. */
.macro expect condition, number
    movb $\number, %bl
    j\condition 7f
    jmp end
7:
.endm

/* A line: WHAT, then the text in %esi. */
.macro told what
    pushl %esi
    movl $8f, %esi
    call puts
    popl %esi
    call puts
    movl $newline, %esi
    call puts
    .section .rodata
8:  .asciz "hello: \what: "
    .text
.endm

    .text
    .code32
    .globl _start
_start:
    jmp entry

    .balign 8
header:
#if VERSION == 1
#define MAGIC   0x1badb002
#define ENTERED 0x2badb002
#ifdef ADDRESSES
#define DEMAND 0x10003
#else
#define DEMAND 3
#endif
    .long MAGIC, DEMAND, -(MAGIC + DEMAND)
#ifdef ADDRESSES
    .long header, _start, 0, _end, _start /* 0: to the end of the file */
#endif
#else
#define MAGIC   0xe85250d6
#define ENTERED 0x36d76289
    .long MAGIC, 0, header_end - header, -(MAGIC + header_end - header)
    .word 1, 0 /* information request: memory, map, RSDP */
    .long 20, 4, 6, 15, 0
    .word 6, 0 /* modules on page boundaries */
    .long 8
    .word 0, 0
    .long 8
header_end:
#endif

entry:
    movl $stack, %esp
    movl %ebx, %ebp
    cmpl $ENTERED, %eax
    expect e, 1
    movl %cr0, %eax
    andl $CR0_PE | CR0_PG, %eax
    cmpl $CR0_PE, %eax
    expect e, 2
    pushfl
    popl %eax
    testl $EFLAGS_IF, %eax
    expect z, 3
    cmpl $0, bss /* what nobody wrote is 0 */
    expect e, 4
    cld

#if VERSION == 1
    movl (%ebp), %eax
    andl $FLAGS, %eax
    cmpl $FLAGS, %eax
    expect e, 5
    movl 16(%ebp), %esi
    told "command line"
    movl 64(%ebp), %esi
    told "loader"
    cmpl $1, 20(%ebp)
    expect e, 6
    movl 24(%ebp), %edi
    movl 8(%edi), %esi
    call module
    movl 48(%ebp), %edi /* the map */
    movl 44(%ebp), %ecx
    addl %edi, %ecx
1:  incl entries
    addl (%edi), %edi
    addl $4, %edi
    cmpl %ecx, %edi
    jb 1b
    expect e, 7
#else
    testl $7, %ebp
    expect z, 5
    leal 8(%ebp), %edi
tag:
    movl (%edi), %eax
    cmpl $1, %eax
    jne 1f
    leal 8(%edi), %esi
    told "command line"
1:  cmpl $2, %eax
    jne 1f
    leal 8(%edi), %esi
    told "loader"
1:  cmpl $3, %eax
    jne 1f
    leal 16(%edi), %esi
    pushl %edi
    addl $8, %edi
    call module
    popl %edi
1:  cmpl $6, %eax
    jne 1f
    movl 4(%edi), %eax
    subl $16, %eax
    xorl %edx, %edx
    divl 8(%edi)
    movl %eax, entries
1:  cmpl $15, (%edi)
    jne 1f
    cmpl $0x20445352, 8(%edi) /* "RSD " */
    expect e, 6
    movl $rsdp, %esi
    call puts
1:  movl 4(%edi), %eax
    addl $7, %eax
    andl $~7, %eax
    movl (%edi), %ecx
    addl %eax, %edi
    testl %ecx, %ecx
    jnz tag
    subl %ebp, %edi
    cmpl (%ebp), %edi /* the last one ends where all does */
    expect e, 7
#endif
    cmpl $4, entries
    expect a, 8

    movl $pass, %esi
    call puts
    xorl %ebx, %ebx
end: /* %bl: the verdict */
    movb %bl, %al
    outb %al, $DEBUG_EXIT
1:  hlt
    jmp 1b

/* Its name in %esi, its first and last address at (%edi): on a page, above the kernel. */
module:
    pushl %eax
    told "module"
    movl (%edi), %esi
    testl $0xfff, %esi
    expect z, 9
    cmpl $_end, %esi
    expect ae, 10
    movl 4(%edi), %ecx
    subl %esi, %ecx
1:  lodsb
    call putc
    loop 1b
    popl %eax
    ret

puts: /* (%esi) up to its NUL */
    pushl %eax
1:  lodsb
    testb %al, %al
    jz 2f
    call putc
    jmp 1b
2:  popl %eax
    ret

putc: /* %al */
    movb %al, %ah
    movw $COM1_LSR, %dx
1:  inb %dx, %al
    testb $0x20, %al /* transmitter empty */
    jz 1b
    movb %ah, %al
    movw $COM1, %dx
    outb %al, %dx
    ret

    .section .rodata
newline:
    .asciz "\n"
#if VERSION == 1
pass: .asciz "hello: pass (Multiboot 1)\n"
#else
rsdp: .asciz "hello: RSDP\n"
pass: .asciz "hello: pass (Multiboot 2)\n"
#endif

    .bss
bss:
    .skip 4
entries:
    .skip 4
    .skip 4096
stack:

    .section .note.GNU-stack, "", @progbits
