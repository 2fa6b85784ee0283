#!/usr/bin/env bash
# demo-ci.sh (make demo-ci): what a CI job does with an emulated device: a server process that is
# the device, a virtual machine whose guest drives it, a verdict by exit status. No GPU, no IOMMU,
# no root: only /dev/kvm. Shows each command before it runs it; ends with 0 when all passed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

no_kvm() {
    echo "demo-ci: cannot run here: $1; $2" >&2
    exit 1
}
[ -e /dev/kvm ] ||
    no_kvm "there is no /dev/kvm" "load the module kvm_intel or kvm_amd (on a virtual machine: switch nested virtualization on)"
(: <>/dev/kvm) 2>/dev/null ||
    no_kvm "no permission to use /dev/kvm" "run 'sudo usermod -aG kvm $(id -un)' and log in again, or run this as root"

T=build/demo-ci
rm -rf $T
mkdir -p $T
server=
trap '[ ! "$server" ] || kill $server 2>/dev/null' EXIT
passed=0 failed=0 began=${EPOCHREALTIME/[.,]/}

seconds() { # since MICROSECONDS
    local us=$((${EPOCHREALTIME/[.,]/} - $1))
    printf '%d.%02d s' $((us / 1000000)) $((us / 10000 % 100))
}

# demo DEVICE STATUS ARGUMENT...: the server, the guest, its verdict.
demo() {
    local device=$1 want=$2 status start
    shift 2
    echo "\$ build/vfio-emu --socket $T/dev.sock --once $device &"
    build/vfio-emu --socket $T/dev.sock --once "$device" >$T/server 2>&1 &
    server=$!
    echo "\$ build/minivmm --vfio unix:$T/dev.sock $*"
    start=${EPOCHREALTIME/[.,]/}
    timeout 60 build/minivmm --vfio unix:$T/dev.sock "$@" </dev/null 2>&1 | sed 's/\r$//;s/^/    /'
    status=${PIPESTATUS[0]}
    if [ "$status" -eq "$want" ]; then
        passed=$((passed + 1))
        echo "passed: status $status, $(seconds "$start")"
    else
        failed=$((failed + 1))
        echo "FAILED: status $status, not $want, $(seconds "$start")"
        sed 's/^/    /' $T/server
    fi
    echo
    kill $server 2>/dev/null
    wait $server 2>/dev/null
    server=
}

# A flat binary that powers off when all is well, and an ELF file that says so by a port.
demo platform 0 build/guests/platform.bin
demo gpu,vram=8G 1 --debug-exit 0xf4 --cmdline vram=8192 build/guests/gpu.elf
echo "demo-ci: $passed passed, $failed failed, $(seconds "$began") in all"
[ $failed -eq 0 ]
