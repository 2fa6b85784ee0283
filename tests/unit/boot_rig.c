/* boot_rig.c: see boot_rig.h. */
#include "boot_rig.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/util.h"

/* Standard error goes nowhere: thousands of lines, from the hostile files. */
static void quiet(void)
{
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    dup2(null, STDERR_FILENO);
    close(null);
}

void rig_init(struct boot_rig *rig, uint64_t ram)
{
    *rig = (struct boot_rig){0};
    quiet();
    cr_assert_eq(mem_init(&rig->mem, ram), 0);
    rig->config.kernel_name = "kernel.bin";
    rig->config.cmdline = "quiet";
    rig->config.initrd_fd = -1;
    rig->config.rsdp = 0xe0000;
}

void rig_fini(struct boot_rig *rig)
{
    free(rig->file);
    if (rig->config.initrd_fd >= 0)
        close(rig->config.initrd_fd);
    mem_fini(&rig->mem);
}

void rig_file(struct boot_rig *rig, const void *from, size_t size)
{
    uint8_t *file = calloc(1, size ? size : 1);
    cr_assert_not_null(file);
    if (from)
        memcpy(file, from, size);
    free(rig->file);
    rig->file = file;
    rig->config.kernel = file;
    rig->config.kernel_size = size;
}

struct setup_header *rig_header(struct boot_rig *rig)
{
    return (struct setup_header *)(rig->file + 0x1f1);
}

void rig_bzimage(struct boot_rig *rig, unsigned sects, size_t code)
{
    size_t setup = ((sects ? sects : 4) + 1) * 512;
    rig_file(rig, NULL, setup + code);
    *rig_header(rig) = (struct setup_header){
        .setup_sects = (uint8_t)sects,
        .syssize = (uint32_t)(code / 16),
        .boot_flag = 0xaa55,
        .jump = 0x6aeb, /* the header ends at 0x202 + 0x6a */
        .header = 0x53726448,
        .version = 0x020f,
        .loadflags = LOADED_HIGH,
        .code32_start = 0x100000,
        .initrd_addr_max = 0x7fffffff,
        .kernel_alignment = 0x200000,
        .relocatable_kernel = 1,
        .xloadflags = XLF_KERNEL_64,
        .cmdline_size = 2047,
        .pref_address = 0x1000000,
        .init_size = 0x100000,
        .kernel_info_offset = 0x1234,
    };
    memset(rig->file + setup, 0xc0, code);
}

void rig_initrd(struct boot_rig *rig, size_t size)
{
    uint8_t *bytes = malloc(size + 1);
    cr_assert_not_null(bytes);
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(i % 251);
    rig->config.initrd_fd = memfd_create("initrd", MFD_CLOEXEC);
    cr_assert_eq(write(rig->config.initrd_fd, bytes, size), (ssize_t)size);
    rig->config.initrd_name = "initrd.img";
    rig->config.initrd_size = size;
    free(bytes);
}

int rig_load(struct boot_rig *rig)
{
    return boot_load(&rig->config, &rig->mem, &rig->entry);
}

void rig_refused(struct boot_rig *rig, int err, const char *text)
{
    char line[1024] = "";
    int out = memfd_create("stderr", MFD_CLOEXEC), saved = dup(STDERR_FILENO);
    dup2(out, STDERR_FILENO);
    int got = rig_load(rig);
    dup2(saved, STDERR_FILENO);
    ssize_t len = pread(out, line, sizeof(line) - 1, 0);
    close(saved);
    close(out);
    cr_assert_eq(got, err, "%d, not %d: %s", got, err, line);
    cr_assert(len > 0 && strchr(line, '\n') == line + len - 1, "not one line: %s", line);
    cr_assert_eq(strncmp(line, "minivmm: ", 9), 0, "%s", line);
    cr_assert_not_null(strstr(line, "cannot "), "%s", line);
    cr_assert_not_null(strstr(line, "; "), "does not say what to do: %s", line);
    cr_assert_not_null(strstr(line, text), "\"%s\" is not in: %s", text, line);
}

void *rig_at(const struct boot_rig *rig, uint64_t gpa, uint64_t size)
{
    void *hva = mem_at(&rig->mem, gpa, size);
    cr_assert_not_null(hva, "no RAM at 0x%llx", (unsigned long long)gpa);
    return hva;
}

const struct boot_params *rig_params(const struct boot_rig *rig)
{
    return rig_at(rig, 0x7000, sizeof(struct boot_params));
}
