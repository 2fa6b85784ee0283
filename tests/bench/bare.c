/*
 * bare.c: the fewest KVM calls that run a guest: what a virtual machine monitor cannot be
 * faster than. A VM with its interrupt controllers, 64 MiB of memory, one vCPU; the flat binary
 * given as argument is entered in real mode at 1000:0000, its bytes to COM1 go to standard
 * output, a write to port 0xf4 ends it. No error is explained.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { COM1 = 0x3f8, COM1_LSR = 0x3fd, DEBUG_EXIT = 0xf4, FAILED = 4 };

#define MEMORY (64U << 20)
#define LOAD   0x10000U

static int load(const char *path, int vm)
{
    uint8_t *ram = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    struct kvm_userspace_memory_region slot = {.memory_size = MEMORY,
                                               .userspace_addr = (uintptr_t)ram};
    int fd = open(path, O_RDONLY);

    if (ram == MAP_FAILED || fd < 0 || read(fd, ram + LOAD, 0x80000) <= 0)
        return -1;
    return ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot);
}

static int enter(int vcpu)
{
    struct kvm_regs regs = {.rflags = 2, .rsp = 0xfff0};
    struct kvm_sregs sregs;

    if (ioctl(vcpu, KVM_GET_SREGS, &sregs) < 0)
        return -1;
    sregs.cs.base = sregs.ds.base = sregs.es.base = sregs.ss.base = LOAD;
    sregs.cs.selector = sregs.ds.selector = sregs.es.selector = sregs.ss.selector = LOAD >> 4;
    if (ioctl(vcpu, KVM_SET_SREGS, &sregs) < 0)
        return -1;
    return ioctl(vcpu, KVM_SET_REGS, &regs);
}

/* The guest's status, as minivmm gives it. */
static int serve(int vcpu, struct kvm_run *run)
{
    while (ioctl(vcpu, KVM_RUN, 0) == 0 && run->exit_reason == KVM_EXIT_IO) {
        uint8_t *data = (uint8_t *)run + run->io.data_offset;
        if (run->io.direction == KVM_EXIT_IO_IN)
            *data = run->io.port == COM1_LSR ? 0x60 : 0xff;
        else if (run->io.port == COM1 && write(STDOUT_FILENO, data, 1) != 1)
            break;
        else if (run->io.port == DEBUG_EXIT)
            return *data << 1 | 1;
    }
    return FAILED;
}

int main(int argc, char **argv)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    int vm = kvm < 0 ? -1 : ioctl(kvm, KVM_CREATE_VM, 0);

    if (argc != 2 || vm < 0 || ioctl(vm, KVM_CREATE_IRQCHIP, 0) < 0 || load(argv[1], vm) < 0)
        return FAILED;
    int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0), size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (vcpu < 0 || size < 0 || enter(vcpu) < 0)
        return FAILED;
    struct kvm_run *run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    return run == MAP_FAILED ? FAILED : serve(vcpu, run);
}
