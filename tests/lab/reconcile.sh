# `vfprobe serve --policy`: a guest that starts, is reset and ends, a program that fights for an interrupt, a CPU that
# goes offline and comes back, a second controller, a policy that the host cannot meet, a controller that is killed in the
# middle of a change and one that keeps what it has done. In the end every mask is as it was.
# lab: limit=500
. /lab/support/lab.sh

cat >/tmp/policy.toml <<'POLICY'
name = "kept"
[[guest]]
name = "vm1"
cpus = "2-3"
placement = "own"
POLICY
LOG=/out/reconcile.log
vf_irqs() { awk -v vf="($(vf_bdf 0))" 'index($0, "vfio-msi") && index($0, vf) { sub(":", "", $1); print $1 }' /proc/interrupts; }
# placed: the VF has interrupts, and each goes to a CPU of its guest's vCPUs.
placed() {
  local irq list n=0
  for irq in $(vf_irqs); do
    list=$(</proc/irq/$irq/smp_affinity_list)
    [[ $list == 2 || $list == 3 ]] || return 1
    ((n += 1))
  done
  ((n > 0))
}
pinned() { [[ $(taskset -cp "$(vcpu_tid vm1 "$1")") == *": $2" ]]; }
in_force() { placed && pinned 0 2 && pinned 1 3 && vfprobe verify >/tmp/verify.log; }
logged() { grep -q "$1" "$LOG"; }
no_interrupt() { [[ -z $(vf_irqs) ]]; }
undone() { [[ ! -e /run/vfprobe/journal ]]; }
masks() { grep -H . /proc/irq/*/smp_affinity /proc/irq/default_smp_affinity 2>/dev/null; }
# changed FILE: masks that were there when FILE was written, are still there, and differ.
changed() { masks | awk -F: 'NR == FNR { was[$1] = $2; next } $1 in was && was[$1] != $2 { print $1 ": " was[$1] " is now " $2 }' "$1" -; }

check pf pf_up 1
masks >/out/before
equal bad-policy-is-usage 2 "$(vfprobe serve --policy /dev/null >/dev/null 2>&1; echo $?)"
vfprobe serve -v --policy /tmp/policy.toml 2>"$LOG" &
SERVE=$!
check keeping wait_for 30 "the controller" logged "keeping the policy"
equal nothing-changed-without-a-guest "" "$(changed /out/before)"

# A CPU of the host's own goes offline before the guest starts, and comes back.
echo 0 >/sys/devices/system/cpu/cpu1/online

# --- a guest comes -------------------------------------------------------------------------------------------------
check vm1-starts guest_vf vm1 192.168.0.101 2 0 -action reboot=reset
check follows-a-start wait_for 30 "the policy in force" in_force
echo 1 >/sys/devices/system/cpu/cpu1/online
check follows-a-cpu-of-the-hosts-own wait_for 30 "the policy in force" in_force
# CAP_SYS_NICE, CAP_NET_ADMIN, CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH.
equal controller-keeps-what-it-writes-with CapEff:0000000000881004 "$(grep -l '^Name:[[:space:]]controller$' \
  /proc/$SERVE/task/*/status | xargs grep -h ^CapEff | tr -d '\t')"
ping -q -i 0.2 192.168.0.101 >/dev/null 2>&1 &
equal second-controller 3 "$(vfprobe serve --listen 127.0.0.1:19818 --policy /tmp/policy.toml >/tmp/second.log 2>&1; echo $?)"
check second-is-told-why grep -q "held by another vfprobe (pid $SERVE)" /tmp/second.log
equal apply-beside-it 3 "$(vfprobe apply --guest vm1 --cpus 2-3 --yes >/dev/null 2>&1; echo $?)"

# --- it is reset: its interrupts go and come back with the default mask --------------------------------------------
guest_monitor vm1 system_reset >/dev/null
check interrupts-go wait_for 60 "the end of the interrupts" no_interrupt
check interrupts-come wait_for 120 "new interrupts" eval '[[ -n $(vf_irqs) ]]'
began=$SECONDS
check follows-a-reset wait_for 30 "the policy in force" in_force
echo "in force $((SECONDS - began)) s after the first new interrupt"

# --- somebody else writes every 50 ms: corrected three times, then let be ------------------------------------------
irq=$(vf_irqs | head -n 1)
while sleep 0.05; do echo 0 >/proc/irq/$irq/smp_affinity_list; done &
WRITER=$!
check lets-go wait_for 60 "the release" logged "irq $irq .*vfprobe lets it go"
equal three-strikes 3 "$(grep -c "irq $irq .*somebody else set it" "$LOG")"
kill $WRITER
equal left-alone 0 "$(</proc/irq/$irq/smp_affinity_list)"
kill -HUP $SERVE
check taken-up-again-by-sighup wait_for 30 "the policy in force" in_force

# --- a promised CPU goes offline -----------------------------------------------------------------------------------
echo 0 >/sys/devices/system/cpu/cpu3/online
began=$EPOCHREALTIME
check offline-is-said wait_for 30 "the complaint" logged "CPU 3 is offline"
echo "cpu-offline: said $(awk "BEGIN { print $EPOCHREALTIME - $began }") s after it was"
check offline-is-heard wait_for 30 "the event" logged "heard: a CPU went online or offline"
echo 1 >/sys/devices/system/cpu/cpu3/online
began=$EPOCHREALTIME
check follows-online wait_for 30 "the policy in force" in_force
echo "cpu-online: followed $(awk "BEGIN { print $EPOCHREALTIME - $began }") s after it was"

# --- a policy that this host cannot meet ---------------------------------------------------------------------------
sed -i 's/"2-3"/"2-9"/' /tmp/policy.toml
kill -HUP $SERVE
check refusal-is-said wait_for 30 "the refusal" logged "the former policy is kept: CPU 4 does not exist"
check refused-policy-costs-nothing in_force
sed -i 's/"2-9"/"2-3"/; 1a on-stop = "keep"' /tmp/policy.toml
kill -HUP $SERVE
read_twice() { [[ $(grep -c "the policy was read again" "$LOG") == 2 ]]; }
check taken-up-with-another-end wait_for 30 "the policy" read_twice
check in-force-after-it wait_for 30 "the policy in force" in_force

# --- it ends and leaves what it has done; the next one goes on, and is killed in the middle of a change ------------
kill $SERVE
wait $SERVE
equal stops-and-keeps 0 "$?"
check kept-without-it in_force
lines=$(wc -l </run/vfprobe/journal)
LOG=/out/reconcile-killed.log
VFPROBE_FAULT=after-write:2 vfprobe-faults serve -v --policy /tmp/policy.toml 2>"$LOG" &
SERVE=$!
check goes-on wait_for 30 "its first look" logged "compared in"
equal nothing-is-written-again "$lines" "$(wc -l </run/vfprobe/journal)"
guest_monitor vm1 system_reset >/dev/null
ended() { ! kill -0 $SERVE; }
check dies-in-a-change wait_for 180 "its end" ended
wait $SERVE
equal killed 137 "$?"
LOG=/out/reconcile-again.log
vfprobe serve -v --policy /tmp/policy.toml 2>"$LOG" &
SERVE=$!
check half-a-change-is-undone wait_for 30 "the undoing" logged "a change was cut short"
check follows-after-the-kill wait_for 60 "the policy in force" in_force

# --- what somebody has applied is not taken for its own ------------------------------------------------------------
kill $SERVE
wait $SERVE
check undone-by-hand vfprobe rollback
check applied-by-hand vfprobe apply --policy /tmp/policy.toml --yes
equal not-gone-on-with 3 "$(vfprobe serve --policy /tmp/policy.toml >/tmp/by-hand.log 2>&1; echo $?)"
check by-hand-is-said grep -q "kept is in force, applied by hand" /tmp/by-hand.log
check still-as-applied vfprobe verify
check by-hand-undone vfprobe rollback
sed -i '/^on-stop/d' /tmp/policy.toml
LOG=/out/reconcile-last.log
vfprobe serve --policy /tmp/policy.toml 2>"$LOG" &
SERVE=$!
check in-force-in-the-end wait_for 60 "the policy in force" in_force

# --- the guest goes, and with it what was done for it --------------------------------------------------------------
check vm1-ends guest_down vm1
check undone-with-the-guest wait_for 30 "the end of the journal" undone
equal masks-without-the-guest "" "$(changed /out/before)"
kill "$SERVE"
wait "$SERVE"
equal clean-stop 0 "$?"
