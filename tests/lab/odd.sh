# What a recording says when things change under it: the guest is reset, its driver unbound and bound, its VF unplugged
# and given to another guest. A tracefs capture of the same time is the oracle (tests/tests/lab_eval/odd.rs). Before that:
# vectors as `vfprobe topology -d` tells them.
# lab: cpus=2
# lab: limit=600
. /lab/support/lab.sh
set -u

vf_irqs() { awk -v vf="($(vf_bdf 0))" 'index($0, "vfio-msi") && index($0, vf) { sub(":", "", $1); print $1 }' /proc/interrupts; }
no_interrupt() { [[ -z $(vf_irqs) ]]; }
interrupts() { [[ -n $(vf_irqs) ]]; }
ups() { grep -ac GUEST-UP "/tmp/$1.log"; }
answers() { ping -q -c 1 -W 1 "$1"; }
# fired: how often the VF's vector 1 has fired under its present number; fires N: more often than that.
fired() { awk -v vf="vfio-msix[1]($(vf_bdf 0))" 'index($0, vf) { n = 0; for (i = 2; i <= 3; i++) n += $i; print n }' /proc/interrupts; }
fires() { local now; now=$(fired); [[ -n $now ]] && ((now > $1)); }
slot_of() { python3 -c '
import json, sys
doc = json.load(open(sys.argv[1]))
for guest in doc["guests"]:
    for vf in guest["vfs"]:
        for slot in vf["slots"]:
            if slot["slot"] == 1:
                print(guest["name"], *(slot[k] for k in sys.argv[2:]))' "$@"; }

pf_up 1 || exit 1
VF=$(vf_bdf 0)
start() {
  guest_start "$1" "$2" 1 -action reboot=reset -serial "unix:/tmp/$1.cmd,server=on,wait=off" \
    -device pcie-root-port,id=rp1,chassis=1 "${@:3}"
}
start vm1 192.168.0.101 -device "vfio-pci,host=$VF,bus=rp1,id=vf"
# Another guest, without a network until it gets the VF.
start vm2 192.168.0.102
guest_wait vm1 || exit 1
ping -q -i 0.05 192.168.0.101 >/dev/null 2>&1 & PING=$!

# --- vectors -------------------------------------------------------------------------------------------------------
TRACE=/sys/kernel/tracing/instances/odd
mkdir "$TRACE" && echo mono >"$TRACE/trace_clock" && echo 60000 >"$TRACE/buffer_size_kb"
echo 'name ~ "vfio*"' >"$TRACE/events/irq/irq_handler_entry/filter"
for event in irq/irq_handler_entry irq/irq_handler_exit irq_vectors/vector_config irq_vectors/vector_deactivate \
  kvm/kvm_apic_accept_irq kvm/kvm_inj_virq; do
  echo 1 >"$TRACE/events/$event/enable"
done
# Where the kernel tells the address of its table, vectors are known before anything moves.
if grep -q ' vector_irq$' /proc/kallsyms && grep -q ' __per_cpu_offset$' /proc/kallsyms; then
  vfprobe topology -q -d 1s --json >/out/still.json
  slot_of /out/still.json host_vector | cut -d' ' -f2 >/tmp/known
  check odd/topology/known-at-once grep -qx '[0-9][0-9]*' /tmp/known
else
  skip odd/topology/known-at-once "this kernel has no vector_irq in /proc/kallsyms"
fi
vfprobe topology -q -d 6s --json >/out/watched.json & WATCH=$!
sees_vectors() { grep -qs 'tp_name:.vector_config' /proc/$WATCH/fdinfo/*; }
check odd/topology/attaches wait_for 30 "the program at vector_config" sees_vectors
irq=$(awk -v name="vfio-msix[1]($VF)" 'index($0, name) { sub(":", "", $1); print $1 }' /proc/interrupts)
now=$(</proc/irq/$irq/effective_affinity_list)
echo $((1 - now)) >/proc/irq/$irq/smp_affinity_list
check odd/topology/ends wait $WATCH
told=$(grep "vector_config: irq=$irq " "$TRACE/trace" | tail -n 1 | sed -n 's/.*vector=\([0-9]*\).*/\1/p')
equal odd/topology/host-vector "vm1 $irq $told $((1 - now)) 0 remapped" \
  "$(slot_of /out/watched.json irq host_vector effective_affinity vcpu mode)"
# The vector of the last accept within the interrupt, on its CPU.
accepted=$(awk -v irq="irq=$irq " '
  { match($0, /\[[0-9]+\] /); cpu = substr($0, RSTART + 1, 3) }
  /irq_handler_entry/ { within[cpu] = index($0, irq) }
  /irq_handler_exit/ { within[cpu] = 0 }
  /kvm_apic_accept_irq/ && within[cpu] { sub(/.* vec /, ""); print $1 }' "$TRACE/trace" | tail -n 1)
equal odd/topology/guest-vector "vm1 $accepted" "$(slot_of /out/watched.json guest_vector)"
vfprobe topology -q -d 1s --color never >/out/tree.txt
check odd/topology/both-bases grep -q "$(printf '%d (0x%x)' "$accepted" "$accepted")" /out/tree.txt

# --- changes under a recording -------------------------------------------------------------------------------------
guest_wait vm2 || echo "vm2 has no network yet"
rm -f /out/odd.vfprobe
vfprobe record -q -d 300s -o /out/odd.vfprobe >/tmp/record.log 2>&1 & RECORD=$!
# The hook that is attached last.
records() { grep -qs 'tp_name:.sched_wakeup' /proc/$RECORD/fdinfo/*; }
check odd/record/begins wait_for 60 "the recording's probes" records
wait_for 20 "interrupts before the reset" fires "$(($(fired) + 20))"

guest_monitor vm1 system_reset >/dev/null
check odd/reset/interrupts-go wait_for 60 "the end of the interrupts" no_interrupt
check odd/reset/interrupts-come wait_for 120 "new interrupts" interrupts
check odd/reset/up wait_for 120 "the guest after its reset" eval '(($(ups vm1) == 2))'
check odd/reset/fires wait_for 30 "interrupts after the reset" fires 20

echo rebind | socat -t 1 - UNIX-CONNECT:/tmp/vm1.cmd >/dev/null
check odd/rebind/done wait_for 60 "the driver in the guest" grep -aq GUEST-REBOUND /tmp/vm1.log
check odd/rebind/answers wait_for 30 "an answer after the driver is bound again" answers 192.168.0.101
check odd/rebind/fires wait_for 30 "interrupts after the driver is bound again" fires 20

guest_monitor vm1 device_del vf >/dev/null
check odd/unplug/interrupts-go wait_for 60 "the end of the interrupts" no_interrupt
check odd/unplug/free wait_for 30 "the end of vm1's hold" eval '! ls -l /proc/$(guest_pid vm1)/fd | grep -q vfio/[0-9]'
echo "handover $(cut -d' ' -f1 /proc/uptime)" >/out/odd.facts
for guest in vm1 vm2; do echo "vcpu $guest $(vcpu_tid $guest 0)"; done >>/out/odd.facts
guest_monitor vm2 "device_add vfio-pci,host=$VF,bus=rp1,id=vf" >/dev/null
echo up | socat -t 1 - UNIX-CONNECT:/tmp/vm2.cmd >/dev/null
check odd/plug/interrupts-come wait_for 60 "interrupts of the other guest" interrupts
check odd/plug/answers wait_for 30 "an answer of the other guest" answers 192.168.0.102
kill $PING
ping -q -i 0.05 -c 40 192.168.0.102 >/dev/null 2>&1

equal odd/record/runs-on 0 "$(kill -0 $RECORD; echo $?)"
kill -INT $RECORD
check odd/record/ends wait $RECORD
echo 0 >"$TRACE/tracing_on"
{ cat "$TRACE/trace"; cat "$TRACE"/per_cpu/cpu*/stats | sed -n 's/^\(overrun\|dropped events\): \([1-9][0-9]*\)/CPU [LOST \2 EVENTS]/p'; } >/out/odd.trace
rmdir "$TRACE"
