# run.sh: what tests/tiny.sh and tests/emulated.sh have in common: a guest run in minivmm, its
# verdict. Sourced, with the names of the runs that are wanted (none: all) as arguments and
# KIND=tiny or emulated; the current folder is the project's.
#
# A guest proves one thing, prints a line for each check and gives its verdict by the debug-exit
# port, so a status of 1 is a pass; how a virtual machine ends is tested by status. Verdicts are
# printed and written to build/results/KIND.txt (or $RESULT), a line each, and put into $failed:
#     PASS KIND/NAME (SECONDS)     FAIL KIND/NAME: WHY (LOG)     SKIP KIND/NAME: WHY
# $MINIVMM is the program to test.

MINIVMM=${MINIVMM:-build/minivmm}
RESULT=${RESULT:-build/results/$KIND.txt}
LOGS=${RESULT%.txt}
G=build/guests
PATIENCE=60 # seconds for one guest; they take fractions of one
failed=0
only=("$@")
input=  # a command that is given the log's name and writes what the guest is to read on COM1
also=   # a command that is given the log's name and prints what else is wrong

verdict() {
    echo "$1" | tee -a "$RESULT"
    [[ $1 != FAIL* ]] || failed=1
}

wanted() { # NAME
    [ ${#only[@]} -eq 0 ] || [[ " ${only[*]} " == *" $1 "* ]]
}

# run NAME STATUS ARGUMENT...: one run; STATUS may be several, as in "8|10".
run() {
    local name=$1 want=$2 log=$LOGS/$1.log status begin took why= with_pid=()
    shift 2
    wanted "$name" || return 0
    if [ "$no_kvm" ]; then
        verdict "SKIP $KIND/$name: $no_kvm"
        return
    fi
    : >"$log"
    if [ "$input" ]; then
        with_pid=(bash -c 'echo $$ >"$0"; exec "$@"' "$log.pid") # for the command
        exec 3< <("$input" "$log")
    else
        exec 3</dev/null
    fi
    begin=${EPOCHREALTIME/[.,]/}
    # SIGKILL after it: a guest may listen to the power button, which is what SIGTERM presses.
    timeout -k 5 "$PATIENCE" "${with_pid[@]}" "$MINIVMM" "$@" <&3 >"$log" 2>&1
    status=$?
    took=$((${EPOCHREALTIME/[.,]/} - begin))
    if [ $status -eq 124 ] || [ $status -eq 137 ]; then
        why="did not end within $PATIENCE s"
    elif [[ ! $status =~ ^($want)$ ]]; then
        why="status $status, not $want: $({ grep -a -m1 '^FAIL' "$log" || grep -a -m1 '^minivmm: .*cannot' "$log" || tail -n1 "$log"; } | tr -d '\r')"
    elif [ "$status" -eq 1 ] && ! tail -n1 "$log" | grep -qa '^[a-z]*: pass'; then
        why="its last line is not a pass"
    elif grep -qa '^FAIL' "$log"; then
        why=$(grep -a -m1 '^FAIL' "$log")
    elif grep -qa 'ERROR: .*Sanitizer\|runtime error:' "$log"; then
        why=$(grep -a -m1 'ERROR: .*Sanitizer\|runtime error:' "$log")
    elif [ "$also" ]; then
        why=$("$also" "$log")
    fi
    if [ "$why" ]; then
        verdict "FAIL $KIND/$name: $why ($log)"
    else
        verdict "PASS $KIND/$name ($(printf '%d.%03d' $((took / 1000000)) $((took / 1000 % 1000))) s)"
    fi
}

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
    verdict "FAIL $KIND: there is no $MINIVMM; run make"
    exit 1
fi
