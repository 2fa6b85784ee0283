/*
 * options_test.c: the command line: every option's forms, and what has to be refused.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>

#include "devices/pci.h"
#include "vmm/layout.h"
#include "vmm/options.h"
#include "vmm/util.h"

static struct options parsed;

/* Parses up to seven arguments into `parsed` (one process a test case). */
#define PARSE(...) parse((char *[]){"minivmm", __VA_ARGS__, NULL})

static enum options_result parse(char *const *argv)
{
    int argc = 0;
    while (argv[argc])
        argc++;
    return options_parse(argc, argv, &parsed);
}

Test(options, size)
{
    static const struct {
        const char *text;
        int err;
        uint64_t size;
    } row[] = {
        {"0", 0, 0},
        {"4096", 0, 4096},
        {"1K", 0, KIB},
        {"512M", 0, 512 * MIB},
        {"512m", 0, 512 * MIB},
        {"3G", 0, 3 * GIB},
        {"16777215T", 0, 16777215 * TIB},
        {"18446744073709551615", 0, UINT64_MAX},
        {"18446744073709551616", -ERANGE, 0},
        {"16777216T", -ERANGE, 0},
        {"", -EINVAL, 0},
        {"M", -EINVAL, 0},
        {"-5", -EINVAL, 0},
        {"+5", -EINVAL, 0},
        {" 5", -EINVAL, 0},
        {"12Q", -EINVAL, 0},
        {"1MB", -EINVAL, 0},
        {"1.5G", -EINVAL, 0},
        {"0x10", -EINVAL, 0},
    };
    for (size_t i = 0; i < ARRAY_SIZE(row); i++) {
        uint64_t size = 0;
        cr_expect_eq(options_size(row[i].text, &size), row[i].err, "%s", row[i].text);
        cr_expect_eq(size, row[i].size, "%s", row[i].text);
    }
}

Test(options, defaults)
{
    cr_assert_eq(PARSE("kernel"), OPTIONS_RUN);
    cr_expect_str_eq(parsed.kernel, "kernel");
    cr_expect_null(parsed.initrd);
    cr_expect_str_eq(parsed.cmdline, "console=ttyS0");
    cr_expect_eq(parsed.memory, 512 * MIB);
    cr_expect_eq(parsed.cpus, 1);
    cr_expect_eq(parsed.vfios, 0);
    cr_expect_eq(parsed.force, BOOT_AUTO);
    cr_expect_eq(parsed.signature, CPUID_HIDDEN);
    cr_expect_eq(parsed.debug_exit, -1);
    cr_expect_not(parsed.no_reboot);
}

Test(options, all_four_forms_of_a_value)
{
    cr_assert_eq(PARSE("--memory", "1G", "k"), OPTIONS_RUN);
    cr_expect_eq(parsed.memory, GIB);
    cr_assert_eq(PARSE("--memory=2G", "k"), OPTIONS_RUN);
    cr_expect_eq(parsed.memory, 2 * GIB);
    cr_assert_eq(PARSE("k", "-m", "3G"), OPTIONS_RUN);
    cr_expect_eq(parsed.memory, 3 * GIB);
    cr_assert_eq(PARSE("-m4G", "k"), OPTIONS_RUN);
    cr_expect_eq(parsed.memory, 4 * GIB);
    cr_assert_eq(PARSE("--cmdline=", "k"), OPTIONS_RUN);
    cr_expect_str_eq(parsed.cmdline, "");
}

Test(options, usage_line)
{
    cr_assert_eq(PARSE("--vfio", "0000:42:00.0", "--initrd", "guest.img", "kernel.bin"),
                 OPTIONS_RUN);
    cr_expect_str_eq(parsed.vfio[0].device, "0000:42:00.0");
    cr_expect_eq(parsed.vfio[0].devfn, -1);
    cr_expect(parsed.vfio[0].mmap);
    cr_expect_str_eq(parsed.initrd, "guest.img");
    cr_expect_str_eq(parsed.kernel, "kernel.bin");
}

Test(options, vfio_user_socket)
{
    cr_assert_eq(PARSE("--vfio", "unix:/run/dev.sock,slot=4,mmap=off", "k"), OPTIONS_RUN);
    cr_expect_str_eq(parsed.vfio[0].device, "unix:/run/dev.sock");
    cr_expect_eq(parsed.vfio[0].devfn, PCI_DEVFN(4, 0));
    cr_expect_not(parsed.vfio[0].mmap);
}

Test(options, vfio_suboptions_of_the_host_side)
{
    cr_assert_eq(PARSE("-v", "1:2.3,rom=/lib/card.rom,clique=15,iommufd,vga", "-v",
                       "1:2.4,rom=off,reset=off,iommufd=off", "-v", "1:2.5", "k"),
                 OPTIONS_RUN);
    const struct option_vfio *v = parsed.vfio;
    cr_expect_str_eq(v[0].rom, "/lib/card.rom");
    cr_expect_eq(v[0].clique, 15);
    cr_expect_eq(v[0].iommufd, IOMMUFD_ON);
    cr_expect(v[0].reset && !v[0].rom_off && v[0].vga);
    cr_expect(v[1].rom_off && !v[1].reset && !v[1].rom[0]);
    cr_expect_eq(v[1].iommufd, IOMMUFD_OFF);
    cr_expect_eq(v[1].clique, -1);
    cr_expect(v[2].reset && !v[2].vga && !v[2].rom_off && !v[2].rom[0]);
    cr_expect_eq(v[2].iommufd, IOMMUFD_AUTO);
}

Test(options, vfio_suboptions)
{
    cr_assert_eq(PARSE("-v", "1:2.3,mmap=off,slot=5.1", "-v", "1:2.4,slot=31", "k"),
                 OPTIONS_RUN);
    cr_expect_eq(parsed.vfios, 2);
    cr_expect_str_eq(parsed.vfio[0].device, "1:2.3");
    cr_expect_not(parsed.vfio[0].mmap);
    cr_expect_eq(parsed.vfio[0].devfn, PCI_DEVFN(5, 1));
    cr_expect_eq(parsed.vfio[1].devfn, PCI_DEVFN(31, 0));
    static const char *const bad[] = {"a,rom=", "a,clique=16", "a,iommufd=on", "a,reset=on",
                                      "a,vga=", "a,vga=off",   "a,vgax",       "a,mmap=off,",
                                      "",       ",",           "a,slot=0",     "a,slot=32",
                                      "a,slot", "a,slot=1.8",  "a,slot=1.",    "a,slot=1x",
                                      "a,",     "a,nonsense",  "a,mmap=yes",   "a,slot=-1"};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        cr_expect_eq(PARSE("-v", (char *)bad[i], "k"), OPTIONS_BAD, "%s", bad[i]);
}

Test(options, a_suboption_as_long_as_can_be)
{
    char text[2048] = "a,rom=";
    memset(text + 6, 'x', 255);
    cr_assert_eq(PARSE("-v", text, "k"), OPTIONS_RUN);
    cr_expect_eq(strlen(parsed.vfio[0].rom), 255);
    text[6 + 255] = 'x';
    cr_expect_eq(PARSE("-v", text, "k"), OPTIONS_BAD);
    memset(text + 6, 'x', 2000);
    cr_expect_eq(PARSE("-v", text, "k"), OPTIONS_BAD);
}

Test(options, entry)
{
    cr_assert_eq(PARSE("--entry", "real", "k"), OPTIONS_RUN);
    cr_expect_eq(parsed.force, BOOT_REAL);
    cr_expect_eq(parsed.flat_addr, LAYOUT_FLAT);
    cr_assert_eq(PARSE("--entry", "long@0x200000", "k"), OPTIONS_RUN);
    cr_expect_eq(parsed.force, BOOT_LONG);
    cr_expect_eq(parsed.flat_addr, 0x200000);
    cr_assert_eq(PARSE("--entry=protected", "k"), OPTIONS_RUN);
    cr_expect_eq(parsed.flat_addr, LAYOUT_HIGH_START);
}

Test(options, cpuid)
{
    cr_assert_eq(PARSE("--cpuid", "kvm", "k"), OPTIONS_RUN);
    cr_expect_eq(parsed.signature, CPUID_KVM);
    cr_assert_eq(PARSE("--cpuid", "vendor=TwelveChars!", "k"), OPTIONS_RUN);
    cr_expect_eq(parsed.signature, CPUID_VENDOR);
    cr_expect_arr_eq(parsed.vendor, "TwelveChars!", 12);
    cr_assert_eq(PARSE("--cpuid", "vendor=A", "k"), OPTIONS_RUN);
    cr_expect_arr_eq(parsed.vendor, "A\0\0\0\0\0\0\0\0\0\0\0", 12);
}

Test(options, switches_and_numbers)
{
    cr_assert_eq(PARSE("--debug-exit=0xf4", "--no-reboot", "-c", "8", "--", "-odd-name"),
                 OPTIONS_RUN);
    cr_expect_eq(parsed.debug_exit, 0xf4);
    cr_expect(parsed.no_reboot);
    cr_expect_eq(parsed.cpus, 8);
    cr_expect_str_eq(parsed.kernel, "-odd-name");
}

Test(options, value_that_may_be_left_out)
{
    cr_assert_eq(PARSE("k"), OPTIONS_RUN);
    cr_expect_eq(parsed.hugepages, 0);
    cr_assert_eq(PARSE("--hugepages", "k"), OPTIONS_RUN);
    cr_expect_eq(parsed.hugepages, HUGEPAGES_DEFAULT);
    cr_expect_str_eq(parsed.kernel, "k");
    cr_assert_eq(PARSE("--hugepages=1G", "k"), OPTIONS_RUN);
    cr_expect_eq(parsed.hugepages, GIB);
    cr_assert_eq(PARSE("--hugepages=2M", "k"), OPTIONS_RUN);
    cr_expect_eq(parsed.hugepages, 2 * MIB);
}

Test(options, topology_of_the_cpus)
{
    static const struct {
        char *text;
        unsigned cpus, sockets, cores, threads;
    } row[] = {
        {"1", 1, 1, 1, 1},
        {"6", 6, 1, 6, 1},
        {"12,threads=2", 12, 1, 6, 2},
        {"12,sockets=2,threads=2", 12, 2, 3, 2},
        {"12,sockets=3", 12, 3, 4, 1},
        {"12,cores=4", 12, 3, 4, 1},
        {"12,cores=3,sockets=2", 12, 2, 3, 2},
        {"12,cores=3,threads=2", 12, 2, 3, 2},
        {"12,sockets=2,cores=3,threads=2", 12, 2, 3, 2},
    };
    cr_assert_eq(PARSE("k"), OPTIONS_RUN);
    cr_expect(parsed.topology.sockets == 1 && topology_cpus(&parsed.topology) == 1);
    for (size_t i = 0; i < ARRAY_SIZE(row); i++) {
        cr_assert_eq(PARSE("-c", row[i].text, "k"), OPTIONS_RUN, "%s", row[i].text);
        const struct topology *t = &parsed.topology;
        cr_expect_eq(parsed.cpus, row[i].cpus);
        cr_expect(t->sockets == row[i].sockets && t->cores == row[i].cores &&
                      t->threads == row[i].threads,
                  "%s: %u %u %u", row[i].text, t->sockets, t->cores, t->threads);
    }
}

Test(options, places_on_the_host)
{
    cr_assert_eq(PARSE("k"), OPTIONS_RUN);
    cr_expect_eq(parsed.numa, NUMA_NONE);
    cr_expect_eq(parsed.pin.nr, 0);
    cr_assert_eq(PARSE("--numa", "auto", "-c", "3,pin=2-3:8,threads=3", "k"), OPTIONS_RUN);
    cr_expect_eq(parsed.numa, NUMA_AUTO);
    cr_expect_eq(parsed.pin.nr, 3);
    cr_expect_eq(parsed.pin.cpu[2], 8);
    cr_expect_eq(parsed.topology.threads, 3);
    cr_assert_eq(PARSE("--numa=1", "-c", "2,pin=0-7", "-c", "2", "k"), OPTIONS_RUN);
    cr_expect_eq(parsed.numa, 1);
    cr_expect_eq(parsed.pin.nr, 0, "the last one counts");
}

Test(options, refused)
{
    static char *const row[][4] = {
        {NULL},
        {"--unknown", "k"},
        {"-x", "k"},
        {"-", "k"},
        {"--mem", "1G", "k"},
        {"--memory"},
        {"-m"},
        {"--no-reboot=1", "k"},
        {"k1", "k2"},
        {"host"},
        {"-m", "1G", "host", "list"},
        {"-m", "0", "k"},
        {"-m", "1", "k"},
        {"-m", "1048577", "k"},
        {"--hugepages=4M", "k"},
        {"--hugepages=", "k"},
        {"--hugepages", "1G", "k"}, /* two kernels */
        {"-c", "0", "k"},
        {"-c", "99999999999", "k"},
        {"-c", "2x", "k"},
        {"-c", "1048577", "k"},
        {"-c", "4,cores=3", "k"},
        {"-c", "4,cores=2,sockets=2,threads=2", "k"},
        {"-c", "4,cores=2,sockets=1,threads=1", "k"},
        {"-c", "4,cores=8", "k"},
        {"-c", "4,cores=0", "k"},
        {"-c", "4,cores=1048576,sockets=1048576,threads=1048576", "k"},
        {"-c", "4,dies=2", "k"},
        {"-c", "4,pin=0-2", "k"},
        {"-c", "4,pin=x", "k"},
        {"-c", "4,pin=", "k"},
        {"--numa", "-1", "k"},
        {"--numa", "near", "k"},
        {"--numa", "", "k"},
        {"--numa", "4294967296", "k"},
        {"--cpuid", "xen", "k"},
        {"--cpuid", "vendor=", "k"},
        {"--cpuid", "vendor=ThirteenChars", "k"},
        {"--debug-exit", "0x10000", "k"},
        {"--debug-exit", "0x", "k"},
        {"--debug-exit", "f4", "k"},
        {"--entry", "virtual", "k"},
        {"--entry", "long@", "k"},
        {"--entry", "long@0x100000000", "k"},
        {"--log-level", "loud", "k"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(row); i++) {
        char *argv[] = {"minivmm", row[i][0], row[i][1], row[i][2], NULL};
        cr_expect_eq(parse(argv), OPTIONS_BAD, "row %zu: %s", i, row[i][0]);
    }
}

Test(options, too_many_devices)
{
    char *argv[2 * OPTIONS_VFIO_MAX + 5] = {"minivmm", "kernel"};
    for (unsigned i = 0; i <= OPTIONS_VFIO_MAX; i++) {
        argv[2 + 2 * i] = "-v";
        argv[3 + 2 * i] = "0000:00:01.0";
        argv[4 + 2 * i] = NULL;
        cr_expect_eq(parse(argv), i < OPTIONS_VFIO_MAX ? OPTIONS_RUN : OPTIONS_BAD);
    }
}

Test(options, disks)
{
    cr_assert_eq(PARSE("-d", "a.raw", "--disk=/b/c,ro", "-dd,direct,ro", "k"), OPTIONS_RUN);
    cr_assert_eq(parsed.disks, 3);
    cr_expect_str_eq(parsed.disk[0].path, "a.raw");
    cr_expect_not(parsed.disk[0].ro || parsed.disk[0].direct);
    cr_expect_str_eq(parsed.disk[1].path, "/b/c");
    cr_expect(parsed.disk[1].ro && !parsed.disk[1].direct);
    cr_expect_str_eq(parsed.disk[2].path, "d");
    cr_expect(parsed.disk[2].ro && parsed.disk[2].direct);
}

Test(options, bad_disks)
{
    static char longest[1100];
    static const char *const bad[] = {"",      ",ro",   "a,",  "a,rw",
                                      "a,ro,", "a,roo", "a,r", "a,ro=1"};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        cr_expect_eq(PARSE("--disk", (char *)bad[i], "k"), OPTIONS_BAD, "%s", bad[i]);
    memset(longest, 'x', 1023);
    cr_expect_eq(PARSE("--disk", longest, "k"), OPTIONS_RUN);
    longest[1023] = 'x';
    cr_expect_eq(PARSE("--disk", longest, "k"), OPTIONS_BAD);

    char *argv[2 * OPTIONS_DISK_MAX + 5] = {"minivmm"};
    for (unsigned i = 0; i <= OPTIONS_DISK_MAX; i++) {
        argv[2 * i + 1] = "-d";
        argv[2 * i + 2] = "a";
        argv[2 * i + 3] = "k";
        argv[2 * i + 4] = NULL;
        cr_expect_eq(parse(argv), i < OPTIONS_DISK_MAX ? OPTIONS_RUN : OPTIONS_BAD, "%u", i);
    }
}

Test(options, nets)
{
    static const uint8_t mac[6] = {0x52, 0x54, 0x00, 0xab, 0xcd, 0xef};
    cr_assert_eq(PARSE("-n", "tap=tap0,queues=4,vhost=off,mac=52:54:00:ab:CD:ef", "--net=passt",
                       "-npasst=/run/a b,mac=02:00:00:00:00:01", "k"),
                 OPTIONS_RUN);
    cr_assert_eq(parsed.nets, 3);
    cr_expect_str_eq(parsed.net[0].where, "tap=tap0");
    cr_expect_eq(parsed.net[0].queues, 4);
    cr_expect(parsed.net[0].no_vhost);
    cr_expect_arr_eq(parsed.net[0].mac, mac, 6);
    cr_expect_str_eq(parsed.net[1].where, "passt");
    cr_expect_not(parsed.net[1].no_vhost || parsed.net[1].forwards);
    cr_expect_str_eq(parsed.net[2].where, "passt=/run/a b");
    cr_assert_eq(PARSE("-n", "passt,tcp=2222:22,udp=53:65535,tcp=65535:1", "k"), OPTIONS_RUN);
    const struct option_forward *f = parsed.net[0].forward;
    cr_assert_eq(parsed.net[0].forwards, 3);
    cr_expect(!f[0].udp && f[0].host == 2222 && f[0].guest == 22);
    cr_expect(f[1].udp && f[1].host == 53 && f[1].guest == 65535);
    cr_expect(!f[2].udp && f[2].host == 65535 && f[2].guest == 1);
}

Test(options, bad_nets)
{
    static const char *const bad[] = {
        "",
        "tap",
        "tap=",
        "tap=a123456789012345",
        "tap=a,queues=0",
        "tap=a,queues=5",
        "tap=a,vhost=on",
        "tap=a,vhost",
        "tap=a,tcp=1:2",
        "tap=a,mac=52:54:00:ab:cd",
        "tap=a,mac=52:54:00:ab:cd:ef:01",
        "tap=a,mac=52:54:00:ab:cd:e",
        "tap=a,mac=53:54:00:ab:cd:ef",
        "tap=a,mac=00:00:00:00:00:00",
        "passt=",
        "passt,queues=2",
        "passt,vhost=off",
        "passt=s,tcp=1:2",
        "passt,tcp=1",
        "passt,tcp=1:",
        "passt,tcp=:1",
        "passt,tcp=0:1",
        "passt,tcp=1:65536",
        "passt,tcp=1:2:3",
        "passt,udp=1-2:3",
        "passtx",
        "user",
    };
    char text[16 + 17 * 10] = "passt";
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        cr_expect_eq(PARSE("--net", (char *)bad[i], "k"), OPTIONS_BAD, "%s", bad[i]);
    for (unsigned i = 0; i < 17; i++) {
        strcat(text, ",tcp=1:2");
        cr_expect_eq(PARSE("-n", text, "k"), i < 16 ? OPTIONS_RUN : OPTIONS_BAD, "%u", i);
    }
    cr_expect_eq(PARSE("-ntap=a", "-ntap=b", "-ntap=c", "-ntap=d", "-ntap=e", "-ntap=f", "k"),
                 OPTIONS_RUN);
    char *argv[] = {"minivmm", "-npasst", "-npasst", "-npasst", "-npasst", "-npasst",
                    "-npasst", "-npasst", "-npasst", "-npasst", "k",       NULL};
    cr_expect_eq(parse(argv), OPTIONS_BAD);
}

Test(options, shares_and_vsock)
{
    static const char *const bad[] = {"",
                                      "dir",
                                      ":tag",
                                      "dir:",
                                      "a,b:tag",
                                      "dir:t,x",
                                      "dir:0123456789012345678901234567890123456"};
    cr_assert_eq(
        PARSE("--share", "./work:/work", "--share=unix:/run/a:b:t", "--vsock", "3", "k"),
        OPTIONS_RUN);
    cr_assert_eq(parsed.shares, 2);
    cr_expect_str_eq(parsed.share[0].dir, "./work");
    cr_expect_str_eq(parsed.share[0].tag, "/work");
    cr_expect_str_eq(parsed.share[1].dir, "unix:/run/a:b");
    cr_expect_str_eq(parsed.share[1].tag, "t");
    cr_expect_eq(parsed.vsock_cid, 3);
    cr_expect_eq(PARSE("--share", "dir:012345678901234567890123456789012345", "k"),
                 OPTIONS_RUN);
    cr_expect_eq(parsed.vsock_cid, 0);
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        cr_expect_eq(PARSE("--share", (char *)bad[i], "k"), OPTIONS_BAD, "%s", bad[i]);
    cr_expect_eq(PARSE("--vsock", "4294967294", "k"), OPTIONS_RUN);
    cr_expect_eq(parsed.vsock_cid, 4294967294);
    cr_expect_eq(PARSE("--vsock", "4294967295", "k"), OPTIONS_BAD, "any");
    cr_expect_eq(PARSE("--vsock", "2", "k"), OPTIONS_BAD, "the host");
}

Test(options, too_many_shares)
{
    cr_expect_eq(PARSE("--share=d:0", "--share=d:1", "--share=d:2", "--share=d:3",
                       "--share=d:4", "--share=d:5", "--share=d:6", "--share=d:7", "k"),
                 OPTIONS_RUN);
    cr_expect_eq(PARSE("--share=d:0", "--share=d:1", "--share=d:2", "--share=d:3",
                       "--share=d:4", "--share=d:5", "--share=d:6", "--share=d:7",
                       "--share=d:8", "k"),
                 OPTIONS_BAD);
}

Test(options, a_folder_with_a_long_name)
{
    char text[1023 + 2 + 1 + 1]; /* the longest, ":t", one more, NUL */
    memset(text, 'x', 1023);
    snprintf(text + 1023, sizeof(text) - 1023, ":t");
    cr_expect_eq(PARSE("--share", text, "k"), OPTIONS_RUN);
    cr_expect_eq(strlen(parsed.share[0].dir), 1023);
    snprintf(text + 1023, sizeof(text) - 1023, "x:t");
    cr_expect_eq(PARSE("--share", text, "k"), OPTIONS_BAD);
}

Test(options, of_the_process)
{
    static const char *const level[] = {"error", "warn", "note", "debug"};
    cr_assert_eq(PARSE("--control=c", "--pidfile=p", "--log-file=l", "-i", "i", "k"),
                 OPTIONS_RUN);
    cr_expect_str_eq(parsed.control, "c");
    cr_expect_str_eq(parsed.pidfile, "p");
    cr_expect_str_eq(parsed.log_file, "l");
    cr_expect_str_eq(parsed.initrd, "i");
    cr_expect_eq(parsed.stop_timeout, 60);
    cr_expect_eq(parsed.log_level, LOG_NOTE);
    for (unsigned i = 0; i < ARRAY_SIZE(level); i++) {
        cr_assert_eq(PARSE("--log-level", (char *)level[i], "k"), OPTIONS_RUN);
        cr_expect_eq(parsed.log_level, i);
    }
    cr_assert_eq(PARSE("--stop-timeout", "4294967295", "-m", "1M", "k"), OPTIONS_RUN);
    cr_expect_eq(parsed.stop_timeout, UINT32_MAX);
    cr_expect_eq(parsed.memory, MIB);
    cr_expect_eq(PARSE("--stop-timeout", "4294967296", "k"), OPTIONS_BAD);
    cr_expect_eq(PARSE("--stop-timeout", "soon", "k"), OPTIONS_BAD);
}

Test(options, name)
{
    static const char longest[] =
        "0123456789012345678901234567890123456789012345678901234567890123";
    static const char *const bad[] = {"", "a b", "a/b", "a\"", "\303\244"};
    char longer[sizeof(longest) + 1];
    cr_assert_eq(PARSE("--name", "vm-1_A.b", "k"), OPTIONS_RUN);
    cr_expect_str_eq(parsed.name, "vm-1_A.b");
    cr_expect_eq(PARSE("--name", (char *)longest, "k"), OPTIONS_RUN);
    snprintf(longer, sizeof(longer), "%sx", longest);
    cr_expect_eq(PARSE("--name", longer, "k"), OPTIONS_BAD);
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
        cr_expect_eq(PARSE("--name", (char *)bad[i], "k"), OPTIONS_BAD, "%s", bad[i]);
}
