/*
 * start.S: from the first instruction to C: the entry of the boot processor, the entry of the
 * others, and the entry of every interrupt.
 *
 * The boot processor comes in by PVH (Xen's x86/HVM direct boot ABI): 32-bit flat protected
 * mode, paging off, interrupts off, EBX = physical address of the start info. The others come
 * in by a start-up IPI (Intel SDM volume 3, 9.4.4 "MP Initialization Example"): real mode at the
 * page the IPI names. Both get the same page tables (first 4 GiB identity-mapped) and the same
 * descriptors, and meet in enter_long.
 *
 * A guest is also a flat binary (objcopy makes it): its first instruction is then flat_start, in
 * real mode at CS:0000, and it copies itself to where it is linked.
 */

#define CR0_PE     0x00000001
#define CR0_PG     0x80000000
#define CR4_PAE    0x20
#define MSR_EFER   0xc0000080
#define EFER_LME   0x100

#define CODE32 0x08
#define DATA   0x10
#define CODE64 0x18

#define PTE_TABLE   0x03 /* present, writable */
#define PTE_2M      0x83 /* the same, and a 2 MiB page */
#define PTE_NOCACHE 0x18

    .section .note.Xen, "a", @note
    .balign 4
    .long 4, 8, 18 /* sizes of name and value; XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .quad pvh_start

    /* CS:0000, wherever CS is; ESI = address of Linux's boot parameters. */
    .section .flat, "ax"
    .code16
flat_start:
    cli
    cld
    movw %cs, %ax
    movw %ax, %ds
    movzwl %ax, %ebp
    shll $4, %ebp /* the file's address */
    addl %ebp, flat_gdt_pointer - flat_start + 2
    lgdtl flat_gdt_pointer - flat_start
    movl %cr0, %eax
    orl $CR0_PE, %eax
    movl %eax, %cr0
    leal flat_start32 - flat_start(%ebp), %eax
    pushl $CODE32
    pushl %eax
    lretl
    .balign 8
flat_gdt:
    .quad 0
    .quad 0x00cf9b000000ffff /* as in `gdt` below */
    .quad 0x00cf93000000ffff
flat_gdt_pointer:
    .word . - flat_gdt - 1
    .long flat_gdt - flat_start

    .code32
flat_start32:
    movl $DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %esi, %ebx
    movl %ebp, %esi
    movl $flat_start, %edi
    movl $image_end, %ecx
    subl %edi, %ecx
    rep movsb
    movl $bss_start, %edi
    movl $bss_end, %ecx
    subl %edi, %ecx
    xorl %eax, %eax
    rep stosb
    movl $pvh_start, %eax
    jmp *%eax

    .text
    .code32
    .globl pvh_start
pvh_start:
    movl $boot_stack_top, %esp
    movl %ebx, start_info

    /* One PML4 entry, one table of 1 GiB entries, and 5 tables of 2 MiB pages; the fifth, for
     * the GiB after the first four, is left empty: window() in lib.c. */
    movl $page_dir_ptr + PTE_TABLE, pml4
    movl $page_dir + PTE_TABLE, %eax
    xorl %ecx, %ecx
1:  movl %eax, page_dir_ptr(,%ecx,8)
    addl $0x1000, %eax
    incl %ecx
    cmpl $5, %ecx
    jb 1b

    movl $PTE_2M, %eax
    xorl %ecx, %ecx
2:  cmpl $1536, %ecx /* from 3 GiB on there are devices */
    jb 3f
    orl $PTE_NOCACHE, %eax
3:  movl %eax, page_dir(,%ecx,8)
    addl $0x200000, %eax
    incl %ecx
    cmpl $2048, %ecx
    jb 2b

    movl $boot_start64, %esi
    /* fall through */

enter_long: /* from flat 32-bit mode to 64-bit mode at %esi */
    lgdt gdt_pointer
    movl $CR4_PAE, %eax
    movl %eax, %cr4
    movl $pml4, %eax
    movl %eax, %cr3
    movl $MSR_EFER, %ecx
    rdmsr
    orl $EFER_LME, %eax
    wrmsr
    movl %cr0, %eax
    orl $CR0_PG | CR0_PE, %eax
    movl %eax, %cr0
    ljmp $CODE64, $1f
    .code64
1:  movl $DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movl %esi, %esi
    jmp *%rsi

boot_start64:
    movq $boot_stack_top, %rsp
    movl start_info, %edi
    call start_c

    /* The other processors: this code is copied to AP_PAGE, and reaches the rest by absolute
     * addresses. */
    .code16
    .globl ap_trampoline
ap_trampoline:
    cli
    movw %cs, %ax
    movw %ax, %ds
    lgdtl gdt_pointer_low - ap_trampoline
    movl %cr0, %eax
    orl $CR0_PE, %eax
    movl %eax, %cr0
    ljmpl $CODE32, $ap_start32
    .balign 8
gdt_pointer_low: /* the trampoline's own copy: the other one is beyond 16-bit reach */
    .word gdt_end - gdt - 1
    .long gdt
    .globl ap_trampoline_end
ap_trampoline_end:

    .code32
ap_start32:
    movl $DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $ap_start64, %esi
    jmp enter_long

    .code64
ap_start64:
    movl $1, %edi
    lock xaddl %edi, ap_tickets /* who comes first takes the first stack */
    leal 1(%edi), %eax
    shll $12, %eax
    leaq ap_stacks(%rax), %rsp
    call ap_c

    /* Interrupts. Every vector has a stub of 16 bytes which makes the stack look the same
     * whether or not the processor pushed an error code: struct trap in lib.h. */
    .balign 16
    .globl trap_stubs
trap_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)
    pushq $0
    .endif
    pushq $vector
    jmp trap_common
    .set vector, vector + 1
    .endr

trap_common:
    pushq %rax
    pushq %rcx
    pushq %rdx
    pushq %rbx
    pushq %rbp
    pushq %rsi
    pushq %rdi
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    cld
    movq %rsp, %rdi
    movq %rsp, %rbp /* the handler may leave the stack aligned otherwise */
    andq $-16, %rsp
    call trap
    movq %rbp, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rdi
    popq %rsi
    popq %rbp
    popq %rbx
    popq %rdx
    popq %rcx
    popq %rax
    addq $16, %rsp
    iretq

    .section .rodata
    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff /* CODE32: 4 GiB, readable */
    .quad 0x00cf93000000ffff /* DATA: 4 GiB, writable */
    .quad 0x00af9b000000ffff /* CODE64 */
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt

    .bss
    .balign 4096
pml4:
    .skip 4096
page_dir_ptr:
    .skip 4096
    .globl page_dir
page_dir:
    .skip 5 * 4096
    .skip 16384
boot_stack_top:
    .globl ap_stacks
ap_stacks: /* 4 KiB for each of AP_MAX */
    .skip 63 * 4096
start_info:
    .skip 4

    .section .note.GNU-stack, "", @progbits
