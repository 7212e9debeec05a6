# Settings of the host that others have a hand in: knobs, irqbalance as a real daemon, guests that are reset or end in the
# middle of apply, and a damaged journal. What is seen is seen by other means than vfprobe's; in the end everything is as
# it was found.
# lab: limit=500
. /lab/support/lab.sh

WQ=/sys/devices/virtual/workqueue/cpumask
WATCHDOG=/proc/sys/kernel/watchdog_cpumask
POLL=/sys/module/kvm/parameters/halt_poll_ns
idle() { echo /sys/devices/system/cpu/cpu$1/power/pm_qos_resume_latency_us; }
# knobs: every knob that a policy can name, as the kernel writes it, `file:value`.
knobs() {
  grep -H . $WQ $WATCHDOG $POLL /sys/devices/system/cpu/cpu*/power/pm_qos_resume_latency_us \
    /sys/class/net/eth0/queues/*/[rx]ps_cpus 2>/dev/null
}
masks() { grep -H . /proc/irq/*/smp_affinity /proc/irq/default_smp_affinity 2>/dev/null; }
# changed FILE: masks that were there when FILE was written, are still there, and differ.
changed() { masks | awk -F: 'NR == FNR { was[$1] = $2; next } $1 in was && was[$1] != $2 { print $1 ": " was[$1] " is now " $2 }' "$1" -; }
# exits NAME CODE COMMAND...
exits() {
  local name=$1 code=$2 output status
  shift 2
  output=$("$@" 2>&1)
  status=$?
  echo "$output" >/tmp/exits
  if ((status == code)); then pass "$name"; else fail "$name" "exit $status, expected $code: $(tr '\n' '|' <<<"$output")"; fi
}
vf_irqs() { awk -v vf="($(vf_bdf 0))" 'index($0, "vfio-msi") && index($0, vf) { sub(":", "", $1); print $1 }' /proc/interrupts; }
no_interrupt() { [[ -z $(vf_irqs) ]]; }
threads_of_vm1() { grep -H ^Cpus_allowed: /proc/$(guest_pid vm1)/task/*/status | grep -v ":$(printf '\t')f$"; }

check pf pf_up 1
check vm1 guest_vf vm1 192.168.0.101 2 0 -action reboot=reset
own=(--guest vm1 --cpus 2-3 --placement own --no-look)
masks >/out/before

# --- knobs ---------------------------------------------------------------------------------------------------------
cat >/tmp/knobs.toml <<'POLICY'
irqs = "keep"
default-affinity = "keep"
[knobs]
halt-poll-ns = 50000
workqueues = "move"
watchdogs = "move"
idle-latency-us = 0
rps = ["eth0"]
xps = ["eth0", "eth9"]
[[guest]]
name = "vm1"
cpus = "2-3"
placement = "keep"
POLICY
# A queue that hands packets to all CPUs; those that hand on nothing stay so.
echo f >/sys/class/net/eth0/queues/rx-0/rps_cpus
knobs >/out/knobs-before
vfprobe plan --policy /tmp/knobs.toml >/out/knobs-plan
check what-is-not-there-is-noted grep -q "no device eth9" /out/knobs-plan
check knobs vfprobe apply --policy /tmp/knobs.toml --yes
equal halt-poll 50000 "$(<$POLL)"
equal workqueues 3 "$(<$WQ)"
equal watchdogs 0-1 "$(<$WATCHDOG)"
equal idle-latency "0 0 n/a n/a" "$(echo $(cat $(idle 0) $(idle 1) $(idle 2) $(idle 3)))"
equal rps 3 "$(</sys/class/net/eth0/queues/rx-0/rps_cpus)"
equal no-guarded-cpu-sends "" "$(for f in /sys/class/net/eth0/queues/tx-*/xps_cpus; do ((0x$(<$f) & 0xc)) && echo $f; done)"
check knobs-verify vfprobe verify
echo 60000 >$POLL
exits drift-of-a-knob 1 vfprobe verify
echo 50000 >$POLL
check knobs-undone vfprobe rollback
knobs >/out/knobs-after
equal knobs-as-before "" "$(diff /out/knobs-before /out/knobs-after)"

# --- irqbalance ----------------------------------------------------------------------------------------------------
mkdir -p /run/irqbalance
irqbalance --foreground --debug --interval=1 >/tmp/irqbalance.log 2>&1 &
BALANCER=$!
SOCKET=/run/irqbalance/irqbalance$BALANCER.sock
check irqbalance-runs wait_for 30 "its socket" test -S $SOCKET
tell() { echo -n "$*" | socat -t 5 - UNIX-CONNECT:$SOCKET; }
# bans: interrupts that irqbalance says it leaves alone.
bans() { tell setup | grep -o 'IRQ [0-9]*' | cut -d' ' -f2 | sort -n | tr '\n' ' '; }
scans() { grep -c '^----' /tmp/irqbalance.log; }
scanned() { (($(scans) > $1)); }
# three_scans NAME: irqbalance has looked at the host three times since.
three_scans() { check "$1" wait_for 60 "three scans" scanned $(($(scans) + 3)); }
three_scans irqbalance-scans
tell "settings ban irqs 1 9"
equal somebody-has-banned "1 9 " "$(bans)"
ping -q -i 0.1 192.168.0.101 >/dev/null 2>&1 &
PING=$!
check apply-beside-irqbalance vfprobe apply "${own[@]}" --yes
missing=$(for irq in 1 9 $(vf_irqs); do [[ " $(bans)" == *" $irq "* ]] || echo $irq; done)
equal list-is-extended "" "$missing"
three_scans irqbalance-goes-on
check irqbalance-moves-nothing vfprobe verify
check undone-beside-irqbalance vfprobe rollback
equal list-is-restored "1 9 " "$(bans)"
# It ends, and with it its list.
check apply-once-more vfprobe apply "${own[@]}" --yes
kill $BALANCER && wait $BALANCER 2>/dev/null
check an-ended-irqbalance-is-no-drift vfprobe verify
check undone-without-irqbalance vfprobe rollback
# One that cannot be asked is named, and nothing is pretended.
irqbalance --foreground --interval=1 >/dev/null 2>&1 &
BALANCER=$!
check irqbalance-runs-again wait_for 30 "its socket" test -S /run/irqbalance/irqbalance$BALANCER.sock
rm /run/irqbalance/irqbalance$BALANCER.sock
vfprobe plan "${own[@]}" >/tmp/plan
check a-mute-irqbalance-is-named grep -q "irqbalance (pid $BALANCER) runs and cannot be told" /tmp/plan
kill $BALANCER && wait $BALANCER 2>/dev/null
kill $PING
# What irqbalance has moved meanwhile is its own doing.
masks >/out/before

# --- a damaged journal ---------------------------------------------------------------------------------------------
JOURNAL=/run/vfprobe/journal
check apply-before-damage vfprobe apply "${own[@]}" --yes
cp $JOURNAL /tmp/journal
sed -i '3s/record/rekord/' $JOURNAL
exits damage-is-refused 3 vfprobe rollback
exits damage-is-refused-by-apply 3 vfprobe apply --guest vm1 --cpus 2-3 --placement near --yes
exits salvaged 5 vfprobe rollback --salvage
check what-is-lost-is-named grep -q "line 3 of the journal .* may still be in force" /tmp/exits
# The damaged step is the only one that is left.
cp /tmp/journal $JOURNAL
check undone-by-the-whole-journal vfprobe rollback
equal masks-after-damage "" "$(changed /out/before)"
check apply-before-truncation vfprobe apply "${own[@]}" --yes
truncate -s -7 $JOURNAL
check a-cut-record-is-passed-over vfprobe rollback
equal masks-after-truncation "" "$(changed /out/before)$(threads_of_vm1)"

# --- the guest is reset between plan and apply, and during apply ---------------------------------------------------
vfprobe plan "${own[@]}" --json >/tmp/plan.json
guest_monitor vm1 system_reset >/dev/null
check interrupts-go wait_for 60 "the end of the interrupts" no_interrupt
masks >/tmp/masks
exits plan-without-its-interrupts 3 vfprobe apply /tmp/plan.json --yes
equal nothing-was-changed "" "$(changed /tmp/masks)$(threads_of_vm1)"
check interrupts-come wait_for 120 "new interrupts" eval '[[ $(vf_irqs | wc -l) -ge 2 ]]'
up() { ping -c 1 -W 1 192.168.0.101; }
check answers-again wait_for 120 "vm1" up
# stopped_at POINT N: apply stops itself there.
stopped() { [[ $(sed 's/.*) //' "/proc/$1/stat" | cut -d' ' -f1) == T ]]; }
apply_stopped() {
  VFPROBE_FAULT=before-write:2:stop vfprobe-faults apply "${own[@]}" --yes >/tmp/apply.log 2>&1 &
  APPLY=$!
  wait_for 60 "apply to stop" stopped $APPLY
}
masks >/out/before
check stopped-before-reset apply_stopped
guest_monitor vm1 system_reset >/dev/null
check interrupts-go-during-apply wait_for 60 "the end of the interrupts" no_interrupt
kill -CONT $APPLY
wait $APPLY
equal reset-during-apply 4 "$?"
cp /tmp/apply.log /out/apply-reset.log
equal rolled-back-after-reset "" "$(changed /out/before)$(threads_of_vm1)"
check no-journal-after-reset test ! -e $JOURNAL
check comes-back wait_for 120 "vm1" up

# --- and it ends during apply --------------------------------------------------------------------------------------
masks >/out/before
check stopped-before-end apply_stopped
check vm1-ends guest_down vm1
kill -CONT $APPLY
wait $APPLY
equal end-during-apply 4 "$?"
cp /tmp/apply.log /out/apply-end.log
equal rolled-back-after-end "" "$(changed /out/before)"
check no-journal-after-end test ! -e $JOURNAL
