# QEMU's teaching device with tiny bare-metal guests (build/guests/edu*.elf): INTx,
# MSI, DMA both ways, without an operating system between. They end by the
# debug-exit port: status 1 is (0 << 1) | 1, all right.
edu=$(edu_address)
check "hand over" to_vfio "$edu"
found=
for guest in /guests/edu*.elf; do
    [ -e "$guest" ] || continue
    found=1 name=$(basename "$guest" .elf)
    for round in "" " again" " after kill -9"; do
        if [ "$round" = " after kill -9" ]; then
            # in the middle of its work, or just after: either way it was not asked
            vm_start "$name killed" --vfio "$edu" --debug-exit 0xf4 "$guest"
            usleep 100000
            vm_kill
        fi
        vm_start "$name$round" --vfio "$edu" --debug-exit 0xf4 "$guest"
        vm_end 60
        if [ "$status" = 1 ]; then
            pass "$name$round"
        else
            fail "$name$round" "status $status: $(grep -a '^FAIL' "$vm_out" | head -n 3 | tr -d '\r' | tr '\n' ' ') $(tail -n 2 "$vm_out" | tr -d '\r' | tr '\n' ' ') $(tail -n 1 "$vm_err")"
        fi
    done
done
[ "$found" ] || fail "tiny guests" "no edu*.elf in build/guests: run 'make guests'"
release "$edu"
