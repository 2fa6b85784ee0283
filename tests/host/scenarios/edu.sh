# QEMU's teaching device with a tiny bare-metal guest (tests/guests/edu.c): INTx, MSI, DMA both
# ways, without an operating system between. Again in a new process, after a reset of the
# guest, and after kill -9. It ends by the debug-exit port: status 1 is (0 << 1) | 1, all right.
edu=$(edu_address)
check "hand over" to_vfio "$edu"
guest() { # NAME [OPTION...]
    local name=$1
    shift
    vm_start "$name" --vfio "$edu" --debug-exit 0xf4 "$@" /guests/edu.elf
    vm_end 120
    if [ "$status" = 1 ]; then
        pass "$name"
    else
        fail "$name" "status $status: $(grep -a '^FAIL' "$vm_out" | head -n 3 | tr -d '\r' | tr '\n' ' ') $(tail -n 2 "$vm_out" | tr -d '\r' | tr '\n' ' ') $(tail -n 1 "$vm_err")"
    fi
}
guest "INTx, MSI, DMA"
guest "guest reset" --cmdline reboot
equal "guest reset: all of it twice" 2 "$(grep -c -a 'ok .*edu device' "$vm_out")"
vm_start killed --vfio "$edu" --debug-exit 0xf4 /guests/edu.elf
vm_wait "ok" 60 # in the middle of its work
vm_kill
guest "after kill -9"
release "$edu"
