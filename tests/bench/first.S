/*
 * first.S: a guest of a few instructions: '!' on COM1, then the end, by whatever port the
 * machine has for it. Built as a flat binary (real mode) and as an ELF file with a PVH note
 * (32-bit); its instructions mean the same in both modes.
 */
    .section .note.Xen, "a", @note
    .balign 4
    .long 4, 8, 18 /* sizes of name and value; XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .quad _start

    .text
    .code32
    .globl _start
_start:
    xorl %edx, %edx
    movb $0x03, %dh
    movb $0xf8, %dl /* COM1 */
    movb $'!', %al
    outb %al, %dx
    xorl %eax, %eax
    outb %al, $0xf4 /* isa-debug-exit, --debug-exit: status 1 */
    movb $0xfe, %al
    outb %al, $0x64 /* keyboard controller: reset, which ends kvmtool */
1:  hlt
    jmp 1b

    .section .note.GNU-stack, "", @progbits
