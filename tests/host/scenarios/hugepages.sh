# RAM on reserved huge pages under a device's DMA, taken at the start and all given back, also
# by a VM that is killed; too few of them; vCPUs on CPUs of the host, and in sockets.
disk=$(disk_address)
huge=/sys/kernel/mm/hugepages/hugepages-2048kB
pages() { # FILE
    local n
    read -r n <$huge/$1_hugepages && echo "$n"
}
allowed() { # NAME: the CPUs that the thread of this name may use
    local t comm
    for t in /proc/$vm_pid/task/*; do
        read -r comm <$t/comm
        [ "$comm" != "$1" ] || sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' $t/status
    done
}
check "hand over" to_vfio "$disk"
echo 140 >$huge/nr_hugepages
equal "reserved" "140 140" "$(pages nr) $(pages free)"

# Three cores in a socket: the second socket's APIC ids begin at 4. No threads of a core: this
# host's CPU has no TOPOEXT, without which AMD's have none and Linux takes them for cores.
vm_start "disk" -m 256M --hugepages=2M --numa auto --cpus 6,sockets=2,pin=0:0:0:0:0:0 --vfio "$disk" --initrd $GUEST \
    --cmdline "$QUIET t=topology topology=0:0:0+0:1:1+0:2:2+1:0:3+1:1:4+1:2:5 mb=2 then=wait" $KERNEL
vm_wait "@@ READY" 300
equal "all of RAM is on them" 12 "$(pages free)"
equal "first vCPU's CPU" 0 "$(allowed vcpu0)"
equal "last vCPU's CPU" 0 "$(allowed vcpu5)"
check "the node is told" grep -q -e '--numa: ' "$vm_err"
printf '\001x' >&6
vm_end 30
vm_results
equal "disk: exit status" 0 "$status"
equal "all come back" "140 140" "$(pages nr) $(pages free)"

vm_start "killed" -m 256M --hugepages --vfio "$disk" --initrd $GUEST --cmdline "$QUIET t=none then=wait" $KERNEL
vm_wait "@@ READY" 240
equal "a size of the host's own" 12 "$(pages free)"
vm_kill
equal "all come back after kill -9" 140 "$(pages free)"

vm_start "too few" -m 512M --hugepages=2M --vfio "$disk" --initrd $GUEST --cmdline "$QUIET t=none" $KERNEL
vm_end 30
equal "too few: exit status" 4 "$status"
check "how many more, and how" grep -q "256 huge pages .* 140 are free, 116 more .*; echo 256 > $huge/nr_hugepages" "$vm_err"
equal "none was taken" 140 "$(pages free)"
echo 0 >$huge/nr_hugepages
release "$disk"
