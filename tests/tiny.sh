#!/usr/bin/env bash
# tiny.sh [NAME...]: runs the tiny guests (guests/README.md) in minivmm on /dev/kvm, all of them
# or some: a table of runs. Verdicts, variables and log files are explained in guests/run.sh.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
KIND=tiny
. tests/guests/run.sh

tiny() {
    local name=$1 want=$2
    shift 2
    run "$name" "$want" --debug-exit 0xf4 "$@"
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

# said LOG TEXT [TIMES]: waits until it is there
said() {
    local i
    for ((i = 0; i < 400; i++)); do
        [ "$(grep -ca "$2" "$1")" -lt "${3:-1}" ] || return 0
        sleep 0.05
    done
    return 1
}

# The user's part where signals end the guest of guests/ends.c: when it listens, one of them;
# another when the first one has pressed the button.
signal_once() {
    said "$1" ^listening && kill -TERM "$(cat "$1.pid")"
}
signal_twice() {
    signal_once "$1" && said "$1" "pressed the guest's power button" && kill -INT "$(cat "$1.pid")"
}

# The same by the pidfile, which is gone when the VM is.
signal_pidfile() {
    said "$1" ^listening && kill -TERM "$(cat "$LOGS/pid")"
}
# The guest's words are in the same file: a line of minivmm's may begin inside one of theirs.
pidfile_gone() {
    [ ! -e "$LOGS/pid" ] || echo "the pidfile is still there"
    grep -q 'minivmm tiny: signal 15' "$1" || echo "its messages do not have its name"
}

# The terminal is closed on a VM that was started by nohup: SIGHUP, which it does not hear.
signal_hangup() {
    said "$1" ^listening && kill -HUP "$(cat "$1.pid")" && kill -TERM "$(cat "$1.pid")"
}
only_signal_15() {
    grep -q 'minivmm: signal 15: pressed' "$1" || echo "it is not signal 15 that it hears first"
}

# What minivmm ctl says while guests/ends.c waits for its button, polling the port all the time.
ctl() { "$MINIVMM" ctl "$LOGS/control" "$@"; }
polls() { ctl counters | grep -o '"name":"acpi-pm"[^}]*'; }
answers() { # COMMAND TEXT
    local is
    is=$(ctl "$1" 2>&1)
    [[ $is == *"$2"* ]] || echo "$1: $is"
}
control_all() {
    local before
    {
        said "$1" ^listening
        answers status '"status":"running","name":"tiny"'
        answers pause '{"return":{}}'
        answers status '"status":"paused"'
        before=$(polls)
        [ "$before" ] || echo "counters: $(ctl counters)"
        [ "$before" = "$(polls)" ] || echo "it goes on while it is paused"
        answers resume '{"return":{}}'
        for _ in {1..200}; do [ "$before" = "$(polls)" ] || break; done
        [ "$before" != "$(polls)" ] || echo "it does not go on"
        answers counters '"exits":{"port":'
        answers frobnicate "no such command"
        [[ $(ctl status 2>&1 >/dev/full) == *"cannot print the answer: No space"* ]] || echo "/dev/full has room"
        answers powerdown '{"return":{}}'
    } >"$1.ctl" 2>&1
}
control_reset() { # it stays paused
    {
        said "$1" ^listening
        answers pause '{"return":{}}'
        answers reset '{"return":{}}'
        answers status '"status":"paused"'
        [ "$(grep -ca ^listening "$1")" = 1 ] || echo "it runs"
        answers resume '{"return":{}}'
        said "$1" ^listening 2
        answers quit '{"return":{}}'
    } >"$1.ctl" 2>&1
}
holds() { # files and mappings of PID
    echo "$(ls "/proc/$1/fd" | wc -l) files, $(wc -l <"/proc/$1/maps") mappings"
}
control_reboots() { # a hundred in one process leave nothing open
    local n held
    {
        said "$1" ^listening
        held=$(holds "$(cat "$1.pid")")
        for n in {2..101}; do
            answers reset '{"return":{}}'
            said "$1" ^listening "$n"
        done
        [ "$held" = "$(holds "$(cat "$1.pid")")" ] || echo "$held before, $(holds "$(cat "$1.pid")") after"
        answers quit '{"return":{}}'
    } >"$1.ctl" 2>&1
}
control_reset_ends() {
    { said "$1" ^listening && answers reset '{"return":{}}'; } >"$1.ctl" 2>&1
}
control_unheard() {
    {
        said "$1" ^listening
        answers powerdown "does not listen"
        answers quit '{"return":{}}'
    } >"$1.ctl" 2>&1
}
signal_paused() {
    {
        said "$1" ^listening
        answers pause '{"return":{}}'
        kill -TERM "$(cat "$1.pid")"
    } >"$1.ctl" 2>&1
}
control_well() {
    head -n1 "$1.ctl"
    [ ! -e "$LOGS/control" ] || echo "the socket is still there"
}
control() { # NAME STATUS INPUT WORD ARGUMENT...
    local input=$3 also=control_well
    guest "$1" "$2" ends "$4" --control "$LOGS/control" --name tiny "${@:5}"
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

# lines WORD FIRST END: sectors of guests/virtio.c's text.
lines() {
    awk -v w="$1" -v s="$2" -v end="$3" 'BEGIN { for (; s < end; s++) for (i = 0; i < 32; i++) printf "%s %08d\n", w, s }'
}

# What has become of the disk $image of the guest that left LOG, which wrote or could not.
written() {
    cmp "$image" <(
        lines before 0 1000
        lines guest. 1000 1128
        lines before 1128 1504
        head -c 4096 /dev/zero
        lines before 1512 2048
    ) 2>&1
}
unwritten() {
    cmp "$image" <(lines before 0 2048) 2>&1
}

# disk NAME EXPECTED SUBOPTIONS WORDS ARGUMENT...: guests/virtio.c with a disk.
disk() {
    local name=$1 also=$2 image=$LOGS/$1.raw sub=$3 words=$4
    shift 4
    wanted "$name" || return 0
    lines before 0 2048 >"$image"
    if [[ $sub == *direct* ]] && ! dd if="$image" iflag=direct of=/dev/null count=8 status=none; then
        verdict "SKIP tiny/$name: no O_DIRECT in $LOGS"
    else
        guest "$name" 1 virtio "$words" --disk "$image$sub" "$@"
    fi
    rm "$image"
}

tiny hello-real 1 "$G/hello-real.bin"
tiny hello-real-moved 5 --entry real@0x20000 "$G/hello-real.bin" # it notices
tiny hello-protected 1 --entry protected@0x100000 "$G/hello-protected.bin"
tiny hello-long 1 --entry long@0x100000 "$G/hello-long.bin"
tiny hello-vmlinux 1 "$G/hello-vmlinux.elf"

# What the Multiboot guests were told: command line, loader, module and what is in it.
module=$LOGS/module.txt
echo "hello: inside" >"$module"
told() { # LOG
    local line
    for line in "command line: one two" "loader: minivmm" "module: module.txt" inside; do
        grep -qa "^hello: $line" "$1" || echo "it was not told: $line"
    done | head -n1
}
multiboot() {
    also=told tiny "$1" 1 --initrd "$module" --cmdline "one two" "$G/$1${2:-.elf}"
}
multiboot hello-multiboot1
multiboot hello-multiboot2
multiboot hello-addresses .bin

guest serial 1 serial ""
input=alphabet guest serial-input 1 serial "input=5200"
guest timer 1 timer ""
guest smp-1 1 smp "cpus=1"
guest smp-2 1 smp "cpus=2" --cpus 2
guest smp-4 1 smp "cpus=4" --cpus 4
guest cpuid 1 cpuid "" --cpus 1
guest cpuid-smp 1 cpuid "" --cpus 3
guest cpuid-sockets 1 cpuid "sockets=2" --cpus 6,sockets=2
guest cpuid-threads 1 cpuid "sockets=2 threads=2" --cpus 12,sockets=2,threads=2
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
guest hostile-disk 1 hostile "" --disk "$G/virtio.elf,ro"

disk disk written "" ""
disk disk-reboot written "" "reboot" --cpus 2
disk disk-direct written ,direct ""
disk disk-ro unwritten ,ro "ro"
disk disk-second written "" "disks=2" --disk "$G/virtio.elf,ro"

guest exit-value 43 ends "exit=21"
guest poweroff 0 ends poweroff
guest reset-keyboard 6 ends reset-keyboard --no-reboot
guest reset-cf9 6 ends reset-cf9 --no-reboot
guest reset-acpi 6 ends reset-acpi --no-reboot
input=signal_once guest button 0 ends button
input=signal_once guest button-reset 143 ends button-reset
input=signal_once guest button-reset-ends 143 ends button-reset --no-reboot
input=signal_once guest button-unknown 143 ends button-unknown
input=signal_once guest button-now 143 ends button --stop-timeout 0
input=signal_once guest button-late 143 ends button-ignored --stop-timeout 1
input=signal_twice guest button-twice 130 ends button-ignored --stop-timeout 1000
printf '#!/bin/sh\ntrap "" HUP\nexec "%s" "$@"\n' "$MINIVMM" >"$LOGS/nohup"
chmod +x "$LOGS/nohup"
MINIVMM=$LOGS/nohup input=signal_hangup also=only_signal_15 guest button-nohup 0 ends button
echo 12345 >"$LOGS/pid" # left over
input=signal_pidfile also=pidfile_gone \
    guest button-pidfile 0 ends button --pidfile "$LOGS/pid" --name tiny
control control 0 control_all button
control control-smp 0 control_all button --cpus 3
control control-reset 0 control_reset button
truncate -s 1M "$LOGS/reboots.raw"
control control-reboots 0 control_reboots button --cpus 2 --disk "$LOGS/reboots.raw"
control control-reset-ends 6 control_reset_ends button --no-reboot
control control-unheard 0 control_unheard button-unknown
control control-signal 0 signal_paused button
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

# A kernel of other people, from a Debian package: it runs until TEXT is on its console. Those that
# a software /dev/kvm cannot carry out run in the software host (tests/host/scenarios/kernels.sh).
kernel() { # NAME TEXT FILE ARGUMENT...
    local name=$1 text=$2 file=$3 log=$LOGS/$1.log pid begin took
    shift 3
    wanted "$name" || return 0
    if [ "$no_kvm" ]; then
        verdict "SKIP tiny/$name: $no_kvm"
        return
    fi
    [ "$kernels" ] || kernels=$(tests/host/fetch.sh kernels 2>"$LOGS/fetch.log")
    if ! [ "$kernels" ]; then
        verdict "SKIP tiny/$name: its package cannot be fetched: $(tail -n1 "$LOGS/fetch.log")"
        return
    fi
    # shellcheck disable=SC2086 # a pattern, for the version
    gzip -dcf "$kernels"/boot/$file >"$LOGS/$name.kernel"
    : >"$log"
    begin=${EPOCHREALTIME/[.,]/}
    timeout "$PATIENCE" "$MINIVMM" "$@" "$LOGS/$name.kernel" </dev/null >"$log" 2>&1 &
    pid=$!
    while kill -0 $pid 2>/dev/null && ! grep -qa "$text" "$log"; do sleep 0.1; done
    kill $pid 2>/dev/null
    wait $pid
    took=$((${EPOCHREALTIME/[.,]/} - begin))
    if grep -qa "$text" "$log"; then
        verdict "PASS tiny/$name ($(printf '%d.%03d' $((took / 1000000)) $((took / 1000 % 1000))) s)"
    else
        verdict "FAIL tiny/$name: \"$text\" is not on its console ($log)"
    fi
}
kernels=
kernel gnumach "biosmem: 0000000000e0000000:0000000000f0000000, reserved" \
    'gnumach-*.gz' -m 32M --cmdline console=com0
exit $failed
