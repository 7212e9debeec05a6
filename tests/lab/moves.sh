# `vfprobe serve --policy` beside guests that change while they run: interrupts that go to the other vCPU inside the guests, a
# vCPU that is added, a guest that ends while the other one stays as it is, and comes back. Before that a guest whose vCPUs
# have no names. What is seen is seen by other means than vfprobe's; in the end everything is as it was found.
# lab: limit=500
# lab: cpus=6
. /lab/support/lab.sh

masks() { grep -H . /proc/irq/*/smp_affinity /proc/irq/default_smp_affinity 2>/dev/null; }
# changed FILE: masks that were there when FILE was written, are still there, and differ.
changed() { masks | awk -F: 'NR == FNR { was[$1] = $2; next } $1 in was && was[$1] != $2 { print $1 ": " was[$1] " is now " $2 }' "$1" -; }
# vf_irqs INDEX: interrupts of a VF.
vf_irqs() { awk -v vf="($(vf_bdf $1))" 'index($0, "vfio-msi") && index($0, vf) { sub(":", "", $1); print $1 }' /proc/interrupts; }

check pf pf_up 2

# --- vCPUs without names: a QEMU that is asked on its monitor ------------------------------------------------------
# Nothing but its firmware runs. 2 sockets of 3 cores: its vCPU 3 has the APIC id 4.
qemu-system-x86_64 -M q35 -accel kvm -smp 6,sockets=2,cores=3 -m 64M -name guest=vm9,debug-threads=off -nodefaults \
  -display none -qmp unix:/tmp/vm9.qmp,server=on,wait=off -pidfile /tmp/vm9.pid 2>/tmp/vm9.qemu &
QEMU=$!
qmp() { echo '{"execute":"qmp_capabilities"}{"execute":"query-cpus-fast"}' | socat -t 5 - UNIX-CONNECT:/tmp/vm9.qmp; }
# The properties of a CPU have a thread-id too: that of its core.
tids() { grep -o '"thread-id": [1-9][0-9]*' | cut -d' ' -f2; }
there_are_six() { [[ $(qmp | tids | wc -l) == 6 ]]; }
check unnamed-guest-runs wait_for 60 "its threads" there_are_six
# What QEMU says to others, and what vfprobe makes of it: `INDEX TID` of each.
qmp >/out/qmp
grep -o '"cpu-index": [0-9]*' /out/qmp | cut -d' ' -f2 >/tmp/indices
said=$(tids </out/qmp | paste -d' ' /tmp/indices -)
shown() { vfprobe topology --guest vm9 >/out/topology-vm9 2>&1; sed -n 's/^ *vCPU \([0-9]*\)  *thread \([0-9]*\) .*/\1 \2/p' /out/topology-vm9; }
indices() { shown | cut -d' ' -f1 | tr '\n' ' '; }
equal six-are-said 6 "$(grep -c . <<<"$said")"
equal debugfs-has-apic-ids "0 1 2 4 5 6 " "$(ls -d /sys/kernel/debug/kvm/$QEMU-*/vcpu* | sed 's/.*vcpu//' | sort -n | tr '\n' ' ')"
equal qemus-numbers-beside-debugfs "$said" "$(shown)"
umount -l /sys/kernel/debug
equal qemus-numbers-without-debugfs "$said" "$(shown)"
# Somebody else has the monitor.
sleep 60 | socat - UNIX-CONNECT:/tmp/vm9.qmp >/tmp/vm9.taken 2>&1 &
check monitor-is-taken wait_for 30 "its greeting" test -s /tmp/vm9.taken
equal a-taken-monitor-tells-nothing "" "$(shown)"
check a-taken-monitor-is-named grep -q "its monitor /tmp/vm9.qmp was not asked: it gives no answer" /out/topology-vm9
mount -t debugfs d /sys/kernel/debug
equal without-the-monitor-kvms-numbers "0 1 2 4 5 6 " "$(indices)"
check by-apic-id-is-said grep -q "by APIC id, and not as QEMU does" /out/topology-vm9
kill $QEMU
wait $QEMU

# === a policy that is kept ==========================================================================================
cat >/tmp/policy.toml <<'POLICY'
name = "kept"
[[guest]]
name = "vm1"
cpus = "1-3"
placement = "own"
[[guest]]
name = "vm2"
cpus = "4-5"
placement = "own"
POLICY
LOG=/out/moves.log
# go_to VF CPU: both queue interrupts of the VF go to that CPU. The third one tells of errors, and does not come.
go_to() {
  local irq
  for irq in $(vf_irqs $1 | head -n 2); do [[ $(</proc/irq/$irq/smp_affinity_list) == "$2" ]] || return 1; done
  [[ -n $irq ]]
}
# in_place VF CPUS: each interrupt of the VF goes to one of these CPUs, a pattern.
in_place() { local irq; for irq in $(vf_irqs $1); do [[ $(</proc/irq/$irq/smp_affinity_list) == $2 ]] || return 1; done; }
pinned() { [[ $(taskset -cp "$(vcpu_tid $1 $2)") == *": $3" ]]; }
all_pinned() { pinned vm1 0 1 && pinned vm1 1 2 && pinned vm2 0 4 && pinned vm2 1 5; }
# What the kernel says of the VFs' interrupts, where they are for and where they are put, by its own clock.
MOVES=/sys/kernel/tracing/instances/moves
watch_moves() {
  mkdir $MOVES && echo mono >$MOVES/trace_clock && echo 'name ~ "vfio-msix*"' >$MOVES/events/irq/irq_handler_entry/filter &&
    echo 1 >$MOVES/events/irq/irq_handler_entry/enable && echo 1 >$MOVES/events/kvm/kvm_msi_set_irq/enable &&
    echo 1 >$MOVES/events/irq_vectors/vector_config/enable
}
# first_moved VF VCPU: when the first interrupt of the VF came that was for that vCPU: both events are on one CPU.
first_moved() {
  awk -v vf="($1)" -v dst="$2" '
    { match($0, /\[[0-9]+\]/); cpu = substr($0, RSTART, RLENGTH); match($0, /[0-9]+\.[0-9]+:/); at = substr($0, RSTART, RLENGTH - 1) }
    / irq_handler_entry: / { of[cpu] = index($0, vf) ? at : ""; next }
    / kvm_msi_set_irq: / && of[cpu] != "" { if ($0 ~ ("dst " dst " ")) { print at; exit } of[cpu] = "" }' $MOVES/trace
}
# last_placed VF CPU: when the last of the VF's interrupts was given a vector on that CPU.
last_placed() {
  awk -v irqs=" $(vf_irqs $1 | tr '\n' ' ')" -v cpu="cpu=$2" '
    / vector_config: / && index($0, cpu " ") { match($0, /irq=[0-9]+/); if (index(irqs, " " substr($0, RSTART + 4, RLENGTH - 4) " ")) {
      match($0, /[0-9]+\.[0-9]+:/); at = substr($0, RSTART, RLENGTH - 1) } } END { print at }' $MOVES/trace
}
# follow NAME VCPU CPU1 CPU2: inside one guest after the other all interrupts of the card go to that vCPU; on the host they
# follow. How soon is printed: from the first interrupt for that vCPU until the kernel had moved the last one.
follow() {
  local name=$1 vcpu=$2 guest vf cpus=("$3" "$4")
  for vf in 0 1; do
    guest=vm$((vf + 1))
    echo >$MOVES/trace
    guest_do $guest 'for i in $(/bin/busybox grep eth /proc/interrupts | /bin/busybox cut -d: -f1); do echo '$((1 << vcpu))' >/proc/irq/$i/smp_affinity; done' &
    check $name-$guest wait_for 30 "the interrupts on CPU ${cpus[vf]}" go_to $vf ${cpus[vf]}
    echo "$name-$guest: followed $(awk "BEGIN { print $(last_placed $vf ${cpus[vf]}) - $(first_moved "$(vf_bdf $vf)" $vcpu) }") s after the first interrupt"
    wait $!
  done
}
logged() { grep -q "$1" "$LOG"; }
undone() { [[ ! -e /run/vfprobe/journal ]]; }
# writes NAME VF: how often a pin of that guest or an interrupt of its VF was written, by the log.
writes() { grep -c -E "($1 vCPU|VF $2 ).* -> " $LOG; }

masks >/out/before
# The same policy with another placement is only told: that takes no lock and changes nothing.
sed 's/"own"/"housekeeping"/; s/"kept"/"told"/' /tmp/policy.toml >/tmp/told.toml
vfprobe serve --dry-run --listen 127.0.0.1:19819 --policy /tmp/told.toml 2>/out/told.log &
TELLER=$!
told() { grep -q "$1" /out/told.log; }
check dry-run-tells wait_for 30 "its word" told "no guest of the policy is running"
vfprobe serve -v --policy /tmp/policy.toml 2>"$LOG" &
SERVE=$!
check keeping wait_for 30 "the controller" logged "keeping the policy"
guest_vf_start vm1 192.168.0.101 2,maxcpus=3 0 $(guest_port vm1)
guest_vf_start vm2 192.168.0.102 2 1 $(guest_port vm2)
for g in vm1 vm2; do check "up-$g" guest_wait $g; done
for ip in 101 102; do ping -q -i 0.05 192.168.0.$ip >/dev/null 2>&1 & done
check pins wait_for 30 "the pins" all_pinned
equal default-mask-without-both 01 "$(</proc/irq/default_smp_affinity)"

check dry-run-tells-what-it-would-set wait_for 60 "its word" told "would set irq .* slot 0: .* -> 0 "
kill $TELLER
wait $TELLER
equal dry-run-stops 0 "$?"
check dry-run-has-changed-nothing vfprobe verify

# --- nothing happens: it wakes for its audits --------------------------------------------------------------------
check probes-ring logged "the probes ring when"
heard() { logged "heard: $1"; }
check machines-are-heard heard "a virtual machine"
# naps: how often the controller has slept so far.
naps() { awk '/^voluntary_ctxt_switches:/ { print $2 }' "$(grep -l '^Name:[[:space:]]controller$' /proc/$SERVE/task/*/status)"; }
naps_before=$(naps)
sleep 10
echo "idle: the controller slept $(($(naps) - naps_before)) times in 10 s"

# --- interrupts go to the other vCPU and back ------------------------------------------------------------------
check watching watch_moves
follow to-the-second-vcpu 1 2 5
# A plan that is made now, on other CPUs, knows by its own look what the guest has chosen; without one it goes by the queues.
vfprobe plan --guest vm1 --cpus 1,3 --placement own >/out/plan-seen
equal a-plan-sees-which-vcpu 2 "$(grep -c -E "slot [0-9] .* 2 -> 3  +CPU 3 runs vCPU 1; seen: all [0-9]+ interrupts of [0-9.]+ s were for it" /out/plan-seen)"
vfprobe plan --guest vm1 --cpus 1,3 --placement own --no-look >/out/plan-unseen
check a-plan-without-a-look-goes-by-the-queues grep -q "slot 0 .* 2 -> 1  *CPU 1 runs vCPU 0; by queue order: not seen" /out/plan-unseen
check and-says-so grep -q "note: interrupts were not looked at (as asked)" /out/plan-unseen
follow to-the-first-vcpu 0 1 4
check in-force-after-moves vfprobe verify

# --- a vCPU is added -----------------------------------------------------------------------------------------------
guest_monitor vm1 device_add host-x86_64-cpu,id=added,socket-id=0,core-id=2,thread-id=0 >/tmp/device_add.log
check vcpu-is-added wait_for 60 "its thread" vcpu_tid vm1 2
began=$EPOCHREALTIME
check added-vcpu-is-pinned wait_for 60 "the pin of the new vCPU" pinned vm1 2 3
echo "added-vcpu: pinned $(awk "BEGIN { print $EPOCHREALTIME - $began }") s after its thread was seen"
check others-keep-their-pins all_pinned

# --- a guest ends: what only it needed goes back, the other one is not touched -------------------------------------
before_end=$(writes vm1 "$(vf_bdf 0)")
check the-log-has-every-write test "$before_end" -ge 9
check vm2-ends guest_down vm2
began=$EPOCHREALTIME
released() { [[ $(</proc/irq/default_smp_affinity) == 31 ]]; }
check its-cpus-are-free-again wait_for 30 "the default mask" released
echo "vm2-ends: what only it needed was undone $(awk "BEGIN { print $EPOCHREALTIME - $began }") s after its end was seen"
check its-end-is-heard wait_for 30 "the end of a process" heard "a guest has ended"
equal nothing-of-vm1-was-written "$before_end" "$(writes vm1 "$(vf_bdf 0)")"
# Between two looks of this test the controller may be in the middle of a change.
check vm1-stays-placed wait_for 30 "its settings in force" vfprobe verify
vfprobe status >/out/status
equal only-vm1-is-served 1 "$(grep -c '^kept for vm1, guarded CPUs 1-3$' /out/status)"

# --- and it comes back ---------------------------------------------------------------------------------------------
check vm2-comes-back guest_vf vm2 192.168.0.102 2 1 $(guest_port vm2)
check pins-again wait_for 60 "the pins" all_pinned
# Its vectors are followed as they were, though another guest's have gone by their names.
follow to-the-second-vcpu-again 1 2 5
# Its driver is unbound and bound again, so quickly that its interrupts have their old numbers: that is nobody's doing.
rebind='d=$(/bin/busybox readlink -f /sys/class/net/eth0/device); r=$(/bin/busybox readlink -f $d/driver); b=${d##*/}'
rebind="$rebind"'; echo $b >$r/unbind; echo $b >$r/bind; /bin/busybox ip link set eth0 up'
numbers=$(vf_irqs 1)
for round in 1 2 3 4; do
  : >/tmp/anew
  while [[ -e /tmp/anew ]]; do for irq in $numbers; do [[ $(</proc/irq/$irq/smp_affinity_list) =~ ^[45]$ ]] || rm -f /tmp/anew; done; done 2>/dev/null &
  guest_do vm2 "$rebind"
  check made-anew-$round wait_for 60 "the new interrupts" test ! -e /tmp/anew
  check placed-anew-$round wait_for 60 "their placement" eval '[[ -n $(vf_irqs 1) ]] && in_place 1 "[45]"'
done
equal nobody-is-blamed 0 "$(grep -c "VF $(vf_bdf 1) .* set it to" $LOG)"
for g in vm1 vm2; do check $g-ends guest_down $g; done
check all-is-undone wait_for 30 "the end of the journal" undone
equal masks-as-before "" "$(changed /out/before)"
kill "$SERVE"
wait "$SERVE"
equal clean-stop 0 "$?"
