/*
 * placement.h: where guest RAM and vCPUs are on the host, by --hugepages, --numa and the
 * devices. Main thread, before RAM is taken.
 */
#pragma once

struct mem_backing;
struct options;

/* What RAM will be made of. Huge pages are counted first, so that too few are told with how
 * many are missing and how they are reserved. Logs its own errors. */
int placement_memory(const struct options *options, struct mem_backing *out);
