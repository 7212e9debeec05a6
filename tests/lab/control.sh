# The controller on a host with two VF guests: applied and read back by other means, undone, killed by SIGKILL at every
# place where it matters and undone, threads isolated under load, guests that go. Every mask ends as it was.
# lab: limit=500
. /lab/support/lab.sh

GUARDED=2-3
# By queue order: what it is about is the same, and takes no time.
own=(--guest vm1 --cpus $GUARDED --placement own --no-look)
# Fewer steps, so that the places to be killed at are gone through in reasonable time; one kind of each is left.
cat >/tmp/few.toml <<'POLICY'
irqs = "keep"
[[guest]]
name = "vm1"
cpus = "2-3"
placement = "own"
POLICY

# settings: all masks of interrupts and of the guests' threads, as the kernel writes them, `file:mask`.
settings() {
  grep -H . /proc/irq/*/smp_affinity /proc/irq/default_smp_affinity
  grep -H ^Cpus_allowed: $(for g in vm1 vm2; do echo /proc/$(guest_pid $g)/task/*/status; done)
} 2>/dev/null
# changed FILE: what is there now, was there when FILE was written, and differs.
changed() { settings | awk -F: 'NR == FNR { was[$1] = $0; next } $1 in was && was[$1] != $0 { print was[$1] " is now " $0 }' "$1" -; }
# strays: threads of vm1 with another mask than at the start, when all had the same: those that came later inherit.
strays() { grep -H ^Cpus_allowed: /proc/$(guest_pid vm1)/task/*/status | grep -v ":$(printf '\t')f$"; }
as_before() { equal "$1" "" "$(changed /out/before)$(strays)"; }
# exits NAME CODE COMMAND...
exits() {
  local name=$1 code=$2 output status
  shift 2
  output=$("$@" 2>&1)
  status=$?
  if ((status == code)); then pass "$name"; else fail "$name" "exit $status, expected $code: $(tr '\n' '|' <<<"$output")"; fi
}
cpus_of() { sed -n 's/^Cpus_allowed_list:\t//p' "/proc/$1/status"; }
vf_irqs() { awk -v vf="($1)" 'index($0, "vfio-msi") && index($0, vf) { sub(":", "", $1); print $1 }' /proc/interrupts; }
# intruders: interrupts with a handler that may fire on guarded CPUs and are not of vm1's VF, nor bound by the kernel.
intruders() {
  local dir irq own
  own=" $(vf_irqs "$(vf_bdf 0)" | tr '\n' ' ') "
  for dir in /proc/irq/[0-9]*; do
    irq=${dir##*/}
    # A handler has a folder there. The timer of interrupt 0 cannot be moved.
    [[ $irq == 0 || $own == *" $irq "* ]] || ! compgen -G "$dir/*/" >/dev/null && continue
    ((0x$(<"$dir/smp_affinity") & 0xc)) && echo "$irq"
  done
}

check pf pf_up 2
guest_vf_start vm1 192.168.0.101 2 0
guest_vf_start vm2 192.168.0.102 1 1
for g in vm1 vm2; do check "up-$g" guest_wait $g; done
# Interrupts of both VFs keep coming: a move that cannot be finished at once ends with the next one.
for ip in 101 102; do ping -q -i 1 192.168.0.$ip >/dev/null 2>&1 & done
settings >/out/before
equal threads-start-alike "" "$(strays)"

# --- in force, seen by other means ---------------------------------------------------------------------------------
vfprobe plan "${own[@]}" --json >/tmp/plan.json
check dry-run vfprobe apply "${own[@]}" --dry-run
as_before plan-changes-nothing
exits needs-yes 2 vfprobe apply "${own[@]}"
check apply vfprobe apply "${own[@]}" --yes
equal vcpu-0 2 "$(cpus_of "$(vcpu_tid vm1 0)")"
equal vcpu-1 3 "$(cpus_of "$(vcpu_tid vm1 1)")"
equal emulator 0-1 "$(cpus_of "$(guest_pid vm1)")"
equal default-mask 3 "$(</proc/irq/default_smp_affinity)"
equal intruders "" "$(intruders)"
order=0
for irq in $(vf_irqs "$(vf_bdf 0)"); do
  equal "slot-$order" "$((2 + order % 2))" "$(</proc/irq/$irq/smp_affinity_list)"
  ((order < 2)) && equal "slot-$order-fires" "$((2 + order % 2))" "$(</proc/irq/$irq/effective_affinity_list)"
  ((order += 1))
done
check verify vfprobe verify
check status vfprobe status
equal nothing-left-to-plan "nothing to change" "$(vfprobe plan "${own[@]}" | tail -n 1)"
exits saved-plan-is-stale 3 vfprobe apply /tmp/plan.json --yes
exits one-at-a-time 3 flock /run/vfprobe/lock vfprobe rollback
first=$(vf_irqs "$(vf_bdf 0)" | head -n 1)
echo 0 >/proc/irq/$first/smp_affinity_list
exits drift 1 vfprobe verify
echo 2 >/proc/irq/$first/smp_affinity_list
check rollback vfprobe rollback
as_before undone
check nothing-to-undo vfprobe rollback
check saved-plan vfprobe apply /tmp/plan.json --yes
check saved-plan-undone vfprobe rollback
as_before saved-plan-gone

# --- somebody else's value stays -----------------------------------------------------------------------------------
check apply-again vfprobe apply "${own[@]}" --yes
echo 1 >/proc/irq/$first/smp_affinity_list
exits foreign-is-reported 1 vfprobe rollback
equal foreign-stays 1 "$(</proc/irq/$first/smp_affinity_list)"
echo f >/proc/irq/$first/smp_affinity
as_before undone-but-foreign

# --- no room for the journal ---------------------------------------------------------------------------------------
mkdir /tmp/small && mount -t tmpfs -o size=8k small /tmp/small
exits disk-full 4 vfprobe --state-dir /tmp/small apply "${own[@]}" --yes
as_before undone-without-room
umount /tmp/small

# --- killed --------------------------------------------------------------------------------------------------------
# Plans are made once: only carrying them out is of interest here.
vfprobe plan "${own[@]}" --json >/tmp/all.json
vfprobe plan --policy /tmp/few.toml --json >/tmp/few.json
# killed_at POINT N LOG ARGUMENTS...: runs vfprobe, which is killed when it passes POINT for the N-th time. The shell's own
# word on that is not wanted.
killed_at() { { VFPROBE_FAULT=$1:$2 vfprobe-faults "${@:4}" >"$3" 2>&1; } 2>/dev/null; }
# kill_apply POINT PLAN: apply is killed when it passes POINT for the first time, the second, and so on until it gets
# through; each time rollback has to restore everything.
kill_apply() {
  local point=$1 plan=$2 n status difference
  for ((n = 1; n < 200; n++)); do
    killed_at $point $n /tmp/apply.log apply "$plan" --yes
    status=$?
    vfprobe rollback >/tmp/rollback.log 2>&1 || { fail "apply-killed-$point" "$n: rollback: $(tr '\n' '|' </tmp/rollback.log)"; return; }
    difference=$(changed /out/before)$(strays)
    [[ -z $difference && ! -e /run/vfprobe/journal ]] || { fail "apply-killed-$point" "$n: $difference"; return; }
    ((status == 0)) && { echo "$point: apply killed $((n - 1)) times"; pass "apply-killed-$point"; return; }
    ((status == 137)) || { fail "apply-killed-$point" "$n: exit $status: $(tr '\n' '|' </tmp/apply.log)"; return; }
  done
  fail "apply-killed-$point" "it never got through"
}
# The same for rollback, which has to finish when it is run again.
kill_rollback() {
  local point=$1 plan=$2 n status difference
  for ((n = 1; n < 200; n++)); do
    vfprobe apply "$plan" --yes >/tmp/apply.log 2>&1 || { fail "rollback-killed-$point" "$n: apply: $(tr '\n' '|' </tmp/apply.log)"; return; }
    killed_at $point $n /tmp/first.log rollback
    status=$?
    vfprobe rollback >/tmp/rollback.log 2>&1 || { fail "rollback-killed-$point" "$n: $(tr '\n' '|' </tmp/rollback.log)"; return; }
    difference=$(changed /out/before)$(strays)
    [[ -z $difference && ! -e /run/vfprobe/journal ]] || { fail "rollback-killed-$point" "$n: $difference"; return; }
    ((status == 0)) && { echo "$point: rollback killed $((n - 1)) times"; pass "rollback-killed-$point"; return; }
    ((status == 137)) || { fail "rollback-killed-$point" "$n: exit $status: $(tr '\n' '|' </tmp/first.log)"; return; }
  done
  fail "rollback-killed-$point" "it never got through"
}
# Every step of the whole plan, and the remaining kinds of places with the short one. (All kinds of places are gone through
# on threads alone by the package's own tests.)
kill_apply after-write /tmp/all.json
for point in torn-record after-sync after-done; do kill_apply $point /tmp/few.json; done
for point in after-sync after-write; do kill_rollback $point /tmp/few.json; done

# --- other threads, under load -------------------------------------------------------------------------------------
check load load_up
threads() { grep -H ^Cpus_allowed: /proc/[0-9]*/task/*/status 2>/dev/null; }
threads >/tmp/threads
check isolate vfprobe apply "${own[@]}" --isolate threads --yes
for worker in $(pgrep -P "$LOAD_PID"); do masks+=" $(cpus_of "$worker")"; done
equal load-is-kept-away " 0-1 0-1 0-1 0-1" "$masks"
sleep 1000 &
LATER=$!
equal later-ones-inherit 0-1 "$(cpus_of $LATER)"
check isolation-undone vfprobe rollback
equal later-ones-are-given-back 0-3 "$(cpus_of $LATER)"
kill $LATER
# A kernel thread that serves an interrupt follows it, at the next interrupt.
irq_threads=$(grep -l '^irq/' /proc/[0-9]*/comm | cut -d/ -f3 | tr '\n' '|')
equal all-threads-as-before "" "$(threads | awk -F: 'NR == FNR { was[$1] = $0; next } $1 in was && was[$1] != $0' /tmp/threads - | grep -v -E "^/proc/(${irq_threads}0)/")"
load_down
as_before isolation-gone

# --- a guest that goes ---------------------------------------------------------------------------------------------
check apply-before-end vfprobe apply "${own[@]}" --yes
check vm1-ends guest_down vm1
exits gone-is-drift 1 vfprobe verify
check undone-without-guest vfprobe rollback
equal the-rest-as-before "" "$(changed /out/before)"

# --- a guest that comes: its interrupts are born under the default mask of the time -------------------------------
check apply-for-vm2 vfprobe apply --guest vm2 --cpus 3 --placement own --yes
check vm1-comes-back guest_vf vm1 192.168.0.101 2 0
equal born-off-guarded-cpus 7 "$(for irq in $(vf_irqs "$(vf_bdf 0)"); do cat /proc/irq/$irq/smp_affinity; done | sort -u)"
check undone-for-vm2 vfprobe rollback
equal they-get-the-old-default f "$(for irq in $(vf_irqs "$(vf_bdf 0)"); do cat /proc/irq/$irq/smp_affinity; done | sort -u)"
equal vm2-as-before "" "$(changed /out/before)"
for g in vm1 vm2; do check $g-ends guest_down $g; done
