#!/usr/bin/env bash
# style.sh: what the compilers do not check: every header stands alone, includes go down the
# layers, KVM and VFIO calls stay in their files, the README names things that exist, and every file.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

verdict() { # NAME OUTPUT: passes when there is no output
    if [ -z "$2" ]; then
        echo "PASS style/$1"
    else
        echo "FAIL style/$1: $(echo "$2" | tr '\n' ' ')"
    fi
}

headers() {
    for h in vmm/*.h vfio/*.h devices/{,virtio/}*.h boot/*.h; do
        echo "#include \"$h\"" |
            "${CC:-cc}" -std=gnu17 -D_GNU_SOURCE -I. -Wall -Wextra -fsyntax-only -x c - || echo "$h"
    done 2>&1
}

# Of the floor (vmm/) the other folders may use only this; the roof is main, options, machine.
FLOOR='util|topology|log|json|layout|hv|mem|bus|loop|entry|uapi'

includes() {
    grep -nE '#include "vmm/' devices/{,virtio/}*.[ch] vfio/*.[ch] boot/*.[ch] | grep -vE "\"vmm/($FLOOR)\.h\""
    grep -nE '#include "(vfio|boot)/' devices/{,virtio/}*.[ch]
    grep -nE '#include "boot/' vfio/*.[ch]
    grep -nE '#include "(devices|vfio)/' boot/*.[ch]
    grep -nE '#include <linux/kvm\.h>' devices/{,virtio/}*.[ch] vfio/*.[ch] boot/*.[ch]
    grep -lE '\bKVM_[A-Z0-9_]+\b' vmm/*.[ch] | grep -vE 'vmm/(kvm|vcpu|vcpu_state|cpuid|uapi)\.[ch]'
}

# Where system calls to KVM, VFIO and vhost are made: to narrate, count and fail them, few places.
ioctls() {
    grep -lE '\bioctl\(' ./*/*.c ./devices/virtio/*.c | grep -vE '^\./(vmm/(kvm|vcpu|vcpu_state)|devices/virtio/(net_tap|vhost_kernel)|vfio/vfio_(kernel|kernel_dev|container|iommufd))\.c$'
}

# `file.c` and `function()` in the README's and the guides' tours exist.
tour() {
    local name n=0
    for name in $(grep -ohE '`(vmm|vfio|devices|boot|tests)/[A-Za-z0-9_./-]+`' README.md ./*/README.md tests/*/README.md |
        tr -d '`' | sort -u); do
        [ -e "$name" ] || echo "$name"
        n=$((n + 1))
    done
    for name in $(grep -ohE '`[a-z][a-z0-9_]+\(\)`' README.md ./*/README.md | tr -d '`()' | sort -u); do
        grep -qE "\b$name\(" ./*/*.[ch] devices/virtio/*.[ch] tests/*/*.[ch] || echo "$name()"
        n=$((n + 1))
    done
    [ $n -gt 50 ] || echo "only $n names found"
}

# Every source file is in the map: the README, or the guide of its folder.
map() {
    local f
    for f in vmm/*.c vfio/*.c devices/{,virtio/}*.c boot/*.c; do
        grep -qsE "(^|[^a-z0-9_])${f##*/}" README.md "${f%%/*}/README.md" || echo "$f"
    done
}

# Every option of the program is in its help, its man page and the README.
options() {
    local o page n=0
    page=$(sed 's/\\-/-/g' vmm/minivmm.1)
    for o in $(sed -nE "s/^ +\{('.'|0), \"([a-z-]+)\",.*/\2/p" vmm/options.c); do
        grep -qE -- "--$o\b" README.md || echo "README: --$o"
        grep -qE -- "--$o\b" <<<"$page" || echo "minivmm.1: --$o"
        n=$((n + 1))
    done
    [ $n -gt 10 ] || echo "only $n options found in vmm/options.c"
}

verdict headers-alone "$(headers)"
verdict include-layers "$(includes)"
verdict ioctl-places "$(ioctls)"
verdict readme-tour "$(tour)"
verdict readme-map "$(map)"
verdict options-documented "$(options)"
