#!/usr/bin/env bash
# tiny.sh [NAME...]: runs the tiny guests (guests/README.md) in minivmm on /dev/kvm, all of them
# or some. A guest proves one thing, prints a line for each check and gives its verdict by the
# debug-exit port, so a status of 1 is a pass; how a virtual machine ends is tested by status.
#
# Prints and writes to build/results/tiny.txt (or $RESULT) a verdict a line:
#     PASS tiny/NAME (SECONDS)     FAIL tiny/NAME: WHY (LOG)     SKIP tiny/NAME: WHY
# $MINIVMM is the program to test.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

MINIVMM=${MINIVMM:-build/minivmm}
RESULT=${RESULT:-build/results/tiny.txt}
LOGS=${RESULT%.txt}
G=build/guests
PATIENCE=60 # seconds for one guest; they take fractions of one
failed=0

verdict() {
    echo "$1" | tee -a "$RESULT"
    [[ $1 != FAIL* ]] || failed=1
}

# The bytes that serial.elf asks for, when it asks.
alphabet() {
    local log=$1 i
    for ((i = 0; i < 200; i++)); do
        if grep -q '^send' "$log"; then
            printf 'abcdefghijklmnopqrstuvwxyz%.0s' {1..200}
            return
        fi
        sleep 0.05
    done
}

# tiny NAME STATUS ARGUMENT...: one run; STATUS may be several, as in "8|10".
tiny() {
    local name=$1 want=$2 log=$LOGS/$1.log status begin took why=
    shift 2
    if [ ${#only[@]} -gt 0 ] && [[ " ${only[*]} " != *" $name "* ]]; then return; fi
    if [ "$no_kvm" ]; then
        verdict "SKIP tiny/$name: $no_kvm"
        return
    fi
    : >"$log"
    if [ "$name" = serial-input ]; then exec 3< <(alphabet "$log"); else exec 3</dev/null; fi
    begin=${EPOCHREALTIME/[.,]/}
    timeout "$PATIENCE" "$MINIVMM" --debug-exit 0xf4 "$@" <&3 >"$log" 2>&1
    status=$?
    took=$((${EPOCHREALTIME/[.,]/} - begin))
    if [ $status -eq 124 ]; then
        why="did not end within $PATIENCE s"
    elif [[ ! $status =~ ^($want)$ ]]; then
        why="status $status, not $want: $({ grep -a -m1 '^FAIL\|^minivmm:' "$log" || tail -n1 "$log"; } | tr -d '\r')"
    elif [ "$status" -eq 1 ] && ! tail -n1 "$log" | grep -qa '^[a-z]*: pass'; then
        why="its last line is not a pass"
    elif grep -qa '^FAIL' "$log"; then
        why=$(grep -a -m1 '^FAIL' "$log")
    elif grep -qa 'ERROR: .*Sanitizer\|runtime error:' "$log"; then
        why=$(grep -a -m1 'ERROR: .*Sanitizer\|runtime error:' "$log")
    fi
    if [ "$why" ]; then
        verdict "FAIL tiny/$name: $why ($log)"
    else
        verdict "PASS tiny/$name ($(printf '%d.%03d' $((took / 1000000)) $((took / 1000 % 1000))) s)"
    fi
}

# Guests that are told things by their command line.
guest() {
    local name=$1 want=$2 file=$3 words=$4
    shift 4
    tiny "$name" "$want" -m 64M "$@" --cmdline "$words" "$G/$file.elf"
}

ram() {
    local name=$1 mib=$2 have
    have=$(awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo)
    if [ "$have" -lt "$mib" ]; then
        verdict "SKIP tiny/$name: this machine has $have MiB of memory, not $mib"
    else
        tiny "$name" 1 -m "${mib}M" --cmdline "mib=$mib" "$G/ram.elf"
    fi
}

only=("$@")
no_kvm=
if ! [ -e /dev/kvm ]; then
    no_kvm="no /dev/kvm"
elif ! (: <>/dev/kvm) 2>/dev/null; then
    no_kvm="no permission to use /dev/kvm"
fi
mkdir -p "$LOGS" "$(dirname "$RESULT")"
: >"$RESULT"
make -s guests || exit 1
if ! [ -x "$MINIVMM" ]; then
    verdict "FAIL tiny: there is no $MINIVMM; run make"
    exit 1
fi

tiny hello-real 1 "$G/hello-real.bin"
tiny hello-real-moved 5 --entry real@0x20000 "$G/hello-real.bin" # it notices
tiny hello-protected 1 --entry protected@0x100000 "$G/hello-protected.bin"
tiny hello-long 1 --entry long@0x100000 "$G/hello-long.bin"
tiny hello-vmlinux 1 "$G/hello-vmlinux.elf"

guest serial 1 serial ""
guest serial-input 1 serial "input=5200"
guest timer 1 timer ""
guest smp-1 1 smp "cpus=1"
guest smp-2 1 smp "cpus=2" --cpus 2
guest smp-4 1 smp "cpus=4" --cpus 4
guest cpuid 1 cpuid "" --cpus 1
guest cpuid-smp 1 cpuid "" --cpus 3
guest cpuid-kvm 1 cpuid "kvm" --cpus 2 --cpuid kvm
guest cpuid-vendor 1 cpuid "vendor=tinytinytiny" --cpuid vendor=tinytinytiny
guest cpuid-vendor-short 1 cpuid "vendor=tiny" --cpuid vendor=tiny
guest acpi 1 acpi "cpus=1"
guest acpi-smp 1 acpi "cpus=8" --cpus 8
guest pci 1 pci ""
ram ram-64M 64
ram ram-3G 3072
ram ram-5G 5120
guest hostile 1 hostile ""
guest hostile-seed 1 hostile "seed=$((RANDOM + 1))" # another one each time; the log has it
guest hostile-smp 1 hostile "" --cpus 2

guest exit-value 43 ends "exit=21"
guest poweroff 0 ends poweroff
guest reset-keyboard 6 ends reset-keyboard --no-reboot
guest reset-cf9 6 ends reset-cf9 --no-reboot
guest reset-acpi 6 ends reset-acpi --no-reboot
guest reboot 1 ends reboot
guest reboot-smp 1 ends reboot --cpus 2
guest nowhere 10 ends nowhere
# A software /dev/kvm may take the triple fault for an instruction that it cannot emulate.
if grep -qwE 'vmx|svm' /proc/cpuinfo; then
    guest triple 8 ends triple
else
    echo "this processor has neither VMX nor SVM: a triple fault may also show as status 10"
    guest triple '8|10' ends triple
fi
exit $failed
