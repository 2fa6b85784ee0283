/*
 * host_list.c: `minivmm host list`: the devices that could be passed through, a table for
 * people or JSON (RFC 8259) for scripts, both by one table of columns.
 *
 * From sysfs: Linux Documentation/ABI/testing/sysfs-bus-pci, and, for `resource`, the flags of
 * include/linux/ioport.h. Names come from the system's pci.ids (its format is explained at its
 * head) where that is installed. Whatever is read is shown as printable ASCII.
 * Platform devices are listed where an IOMMU isolates them.
 */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "vmm/host.h"
#include "vmm/log.h"
#include "vmm/util.h"

#define COLUMNS 12
#define CELL    512
#define NAME    128

/* include/linux/ioport.h, not part of the UAPI but shown by sysfs. */
enum {
    IORESOURCE_IO = 0x100,
    IORESOURCE_PREFETCH = 0x2000,
    IORESOURCE_MEM_64 = 0x100000,
};

struct row {
    const char *path; /* valid while it is filled */
    const char *ids;  /* pci.ids, NULL: not installed */
    char cell[COLUMNS][CELL];
};

/* ---- pci.ids ---- */

/* The names after KEY ("10de", "C 03") and, in the lines below it that begin with a tab, after
 * SUB; "" where there is none. */
static void look_up(const char *ids, const char *key, const char *sub, char *name,
                    char *subname)
{
    char head[16];
    name[0] = subname[0] = '\0';
    snprintf(head, sizeof(head), "\n%s  ", key);
    const char *line = strstr(ids, head);
    if (!line)
        return;
    line += strlen(head);
    int len = (int)strcspn(line, "\n");
    snprintf(name, NAME, "%.*s", len, line);
    snprintf(head, sizeof(head), "\n\t%s  ", sub);
    for (line += len; line[0] && (line[1] == '\t' || line[1] == '#');
         line += 1 + strcspn(line + 1, "\n")) {
        if (!strncmp(line, head, strlen(head))) {
            line += strlen(head);
            snprintf(subname, NAME, "%.*s", (int)strcspn(line, "\n"), line);
            return;
        }
    }
}

static char *load_ids(void)
{
    char *ids = vfio_sysfs_load("/usr/share/misc/pci.ids");
    return ids ? ids : vfio_sysfs_load("/usr/share/hwdata/pci.ids");
}

/* ---- columns: a cell is words with one blank in between, or empty ---- */

static void fill_id(const struct row *row, char *cell)
{
    if (vfio_sysfs_has(row->path, "vendor"))
        snprintf(cell, CELL, "%04x:%04x", vfio_sysfs_number(row->path, "vendor"),
                 vfio_sysfs_number(row->path, "device"));
}

/* "0:16M/32p 1:256G/64p 5:128/io": 32 and 64 bits wide, p for prefetchable. */
static void fill_bars(const struct row *row, char *cell)
{
    static const char *const bar[] = {"0", "1", "2", "3", "4", "5", "rom"};
    static const char *const unit[] = {"", "K", "M", "G", "T", "P"};
    char path[PATH_MAX], word[48];
    snprintf(path, sizeof(path), "%s/resource", row->path);
    char *text = vfio_sysfs_load(path), *line = text;
    for (size_t i = 0, u = 0; line && i < ARRAY_SIZE(bar); i++, u = 0) {
        unsigned long long start, end, flags;
        bool is_used = sscanf(line, "%llx %llx %llx", &start, &end, &flags) == 3 && flags;
        unsigned long long n = is_used ? end - start + 1 : 0;
        for (; n >= KIB && n % KIB == 0 && u < ARRAY_SIZE(unit) - 1; u++)
            n /= KIB;
        if (is_used) {
            snprintf(word, sizeof(word), "%s:%llu%s/%s%s", bar[i], n, unit[u],
                     flags & IORESOURCE_IO       ? "io"
                     : flags & IORESOURCE_MEM_64 ? "64"
                                                 : "32",
                     flags & IORESOURCE_PREFETCH ? "p" : "");
            vfio_sysfs_append(cell, CELL, " ", word);
        }
        line = strchr(line, '\n');
        line += line != NULL;
    }
    free(text);
}

static void fill_mdev(const struct row *row, char *cell)
{
    char dir[PATH_MAX];
    snprintf(dir, sizeof(dir), "%s/mdev_supported_types", row->path);
    vfio_sysfs_names(dir, cell, CELL);
}

/* As lspci(8): the class, the vendor, the device. */
static void fill_name(const struct row *row, char *cell)
{
    char key[8], sub[8], class[NAME], subclass[NAME], vendor[NAME], device[NAME];
    unsigned code = vfio_sysfs_number(row->path, "class") >> 8;
    if (!row->ids)
        return;
    snprintf(key, sizeof(key), "C %02x", code >> 8 & 0xff);
    snprintf(sub, sizeof(sub), "%02x", code & 0xff);
    look_up(row->ids, key, sub, class, subclass);
    snprintf(key, sizeof(key), "%04x", vfio_sysfs_number(row->path, "vendor") & 0xffff);
    snprintf(sub, sizeof(sub), "%04x", vfio_sysfs_number(row->path, "device") & 0xffff);
    look_up(row->ids, key, sub, vendor, device);
    vfio_sysfs_append(cell, CELL, "", subclass[0] ? subclass : class);
    vfio_sysfs_append(cell, CELL, ": ", vendor);
    vfio_sysfs_append(cell, CELL, " ", device);
}

enum kind { TEXT, NUMBER, WORDS }; /* what a cell is in JSON */

/* A cell comes from a function, from an attribute, link or file, or it is the device's name. */
static const struct column {
    const char *title, *key;
    enum kind kind;
    const char *attribute;
    void (*fill)(const struct row *row, char *cell);
} column[] = {
    {"ADDRESS", "address", TEXT, NULL, NULL},
    {"ID", "id", TEXT, NULL, fill_id},
    {"CLASS", "class", TEXT, "class", NULL},
    {"GROUP", "iommu_group", NUMBER, "iommu_group", NULL},
    {"DRIVER", "driver", TEXT, "driver", NULL},
    {"RESET", "reset_methods", WORDS, "reset_method", NULL},
    {"BARS", "bars", WORDS, NULL, fill_bars},
    {"VFS", "vfs", NUMBER, "sriov_numvfs", NULL},
    {"MOST", "vfs_max", NUMBER, "sriov_totalvfs", NULL},
    {"VF OF", "physfn", TEXT, "physfn", NULL},
    {"MDEV TYPES", "mdev_types", WORDS, NULL, fill_mdev},
    {"NAME", "name", TEXT, NULL, fill_name},
};

_Static_assert(ARRAY_SIZE(column) == COLUMNS, "a row has room");

static void fill_row(struct row *row)
{
    for (size_t i = 0; i < COLUMNS; i++) {
        const struct column *c = &column[i];
        char *cell = row->cell[i];
        if (c->fill)
            c->fill(row, cell);
        else if (!c->attribute)
            snprintf(cell, CELL, "%s", vfio_sysfs_name(row->path));
        else if (vfio_sysfs_link(row->path, c->attribute, cell, CELL))
            vfio_sysfs_line(row->path, c->attribute, cell, CELL);
        for (; *cell; cell++) {
            if (*cell < ' ' || *cell > '~')
                *cell = '?';
        }
    }
}

/* ---- output ---- */

/* Columns as wide as their widest cell; those without any are left out. */
static void print_table(const struct row *row, size_t rows)
{
    int width[COLUMNS] = {0};
    size_t last = 0;
    for (size_t c = 0; c < COLUMNS; c++) {
        for (size_t r = 0; r < rows; r++)
            width[c] = MAX(width[c], (int)strlen(row[r].cell[c]));
        if (width[c])
            width[c] = MAX(width[c], (int)strlen(column[last = c].title));
    }
    for (size_t r = 0; r <= rows; r++) {
        for (size_t c = 0; c <= last; c++) {
            const char *cell = r == 0 ? column[c].title : row[r - 1].cell[c];
            if (width[c])
                printf("%-*s%s", c == last ? 0 : width[c], *cell ? cell : "-",
                       c == last ? "\n" : "  ");
        }
    }
}

/* Of printable ASCII. */
static void print_string(const char *text)
{
    putchar('"');
    for (; *text; text++)
        printf(*text == '"' || *text == '\\' ? "\\%c" : "%c", *text);
    putchar('"');
}

/* Takes the cell's words apart. */
static void print_value(enum kind kind, char *cell)
{
    const char *separator = "[";
    char *rest;
    if (kind == WORDS) {
        for (char *w = strtok_r(cell, " ", &rest); w; w = strtok_r(NULL, " ", &rest)) {
            printf("%s", separator);
            print_string(w);
            separator = ", ";
        }
        printf(separator[0] == '[' ? "[]" : "]");
    } else if (!*cell || (kind == NUMBER && cell[strspn(cell, "0123456789")])) {
        printf("null");
    } else if (kind == NUMBER) {
        printf("%lu", strtoul(cell, NULL, 10));
    } else {
        print_string(cell);
    }
}

static void print_json(struct row *row, size_t rows)
{
    printf("[");
    for (size_t r = 0; r < rows; r++) {
        for (size_t c = 0; c < COLUMNS; c++) {
            printf("%s\"%s\": ", c ? ",\n  " : r ? ",\n {" : "\n {", column[c].key);
            print_value(column[c].kind, row[r].cell[c]);
        }
        printf("}");
    }
    printf("\n]\n");
}

/* ---- devices ---- */

struct list {
    struct row *row;
    size_t rows;
    const char *ids;
};

/* Once: a parent of mediated devices may be a PCI device. */
static int add_row(struct list *l, const char *path)
{
    for (size_t r = 0; r < l->rows; r++) {
        if (!strcmp(l->row[r].cell[0], vfio_sysfs_name(path)))
            return 0;
    }
    struct row *row = realloc(l->row, (l->rows + 1) * sizeof(*row));
    if (!row)
        return -ENOMEM;
    l->row = row;
    row += l->rows++;
    *row = (struct row){.path = path, .ids = l->ids};
    fill_row(row);
    return 0;
}

/* A platform device that no IOMMU isolates cannot be passed through. */
static bool is_isolated(const char *path)
{
    char bus[16];
    vfio_sysfs_bus(path, bus, sizeof(bus));
    return strcmp(bus, "platform") != 0 || vfio_sysfs_group(path) >= 0;
}

static int add_all(struct list *l, const char *dir)
{
    struct dirent **entry;
    int err = 0;
    int nr = scandir(dir, &entry, NULL, alphasort);
    for (int i = 0; i < nr; i++) {
        char path[PATH_MAX];
        snprintf(path, sizeof(path), "%s/%s", dir, entry[i]->d_name);
        if (!err && entry[i]->d_name[0] != '.' && is_isolated(path))
            err = add_row(l, path);
        free(entry[i]);
    }
    if (nr >= 0)
        free(entry);
    return err;
}

int host_list(const struct host_devices *named, bool json)
{
    static const char *const dir[] = {"/sys/bus/pci/devices", "/sys/bus/platform/devices",
                                      "/sys/class/mdev_bus"};
    char *ids = load_ids();
    struct list l = {.ids = ids};
    int err = 0;
    for (unsigned i = 0; i < named->nr && !err; i++)
        err = add_row(&l, named->at[i].text);
    for (size_t i = 0; i < ARRAY_SIZE(dir) && !named->nr && !err; i++)
        err = add_all(&l, dir[i]);
    if (err)
        log_error("host list", "cannot list devices: %s; free some memory", strerror(-err));
    else if (json)
        print_json(l.row, l.rows);
    else
        print_table(l.row, l.rows);
    free(l.row);
    free(ids);
    return err;
}
