# A hundred VMs one after the other with one device: each has its MSI and its DMA
# (tests/guests/edu.c, "quick"). What the host counts must be as it was: pages pinned for DMA and
# released again, processes, users of the modules, open files; of its free memory less than
# four pages a cycle may be gone. Then the device still works.
edu=$(edu_address)
check "hand over" to_vfio "$edu"
cycles() { # HOW MANY: the statuses, each once
    local n=0
    while [ $n -lt "$1" ]; do
        minivmm -m 8M --vfio "$edu" --debug-exit 0xf4 --cmdline quick /guests/edu.elf \
            </dev/null >/tmp/one.out 2>/tmp/one.err
        echo $?
        n=$((n + 1))
    done | sort | uniq -c | tr -s ' '
}
# The kernel's numbers are exact once each CPU has handed in its own.
count() {
    echo 1 >/proc/sys/vm/stat_refresh
    echo 3 >/proc/sys/vm/drop_caches
    sed -n 's/^nr_foll_pin_\(acquired\|released\)/\1=/p' /proc/vmstat | tr -d ' ' >/tmp/pins
    . /tmp/pins
    read -r files _ </proc/sys/fs/file-nr
    # With those in the CPU's own list: tens of MiB come and go there.
    free=$(awk '$1 == "nr_free_pages" || $1 == "count:" { n += $2 } END { print n }' /proc/zoneinfo)
    state="pinned $((acquired - released)), processes $(cat /proc/[0-9]*/comm | grep -vc kworker), \
modules used $(cat /sys/module/vfio_pci/refcnt /sys/module/vfio_iommu_type1/refcnt /sys/module/kvm_amd/refcnt | tr '\n' ' ')"
    echo "$state, files $files, free pages $free, ever pinned $acquired"
}
below() { # NAME LIMIT GOT
    if [ "$3" -lt "$2" ]; then pass "$1"; else fail "$1" "$3, the limit is $2"; fi
}

cycles 3 # what is made once and kept
count
before=$state had=$free open=$files pinned=$acquired
equal "the same status 100 times" " 100 1" "$(cycles 100)"
cp /tmp/one.out /tmp/one.err "/out/$scenario/"
count
equal "pinned pages, processes and modules are as before" "$before" "$state"
check "all RAM was pinned each time" test $((acquired - pinned)) -ge $((100 * 2048))
below "open files (the kernel counts in steps of 32)" 64 $((files - open))
below "no memory is lost" 400 $((had - free))
tiny "all of it with the same device" 120 edu --vfio "$edu"
release "$edu"
