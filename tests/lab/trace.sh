# Single interrupts by `vfprobe trace`, with a tracefs capture of the same time beside it, in which the evaluator
# (tests/tests/lab_eval) looks for every hop; and the exits of a run as perf counts them.
# lab: cpus=2
# lab: limit=300
. /lab/support/lab.sh
set -u

pf_up 1 || exit 1
guest_vf vm1 192.168.0.101 2 0 || exit 1
{ echo "vf vm1 $(vf_bdf 0)"; echo "vcpu vm1 0 $(vcpu_tid vm1 0)"; echo "vcpu vm1 1 $(vcpu_tid vm1 1)"; } >/out/guests

TRACE=/sys/kernel/tracing/instances/oracle
mkdir "$TRACE" && echo mono >"$TRACE/trace_clock" && echo 40000 >"$TRACE/buffer_size_kb" || exit 1
echo 'prev_comm ~ "CPU*" || next_comm ~ "CPU*"' >"$TRACE/events/sched/sched_switch/filter"
echo 'comm ~ "CPU*"' >"$TRACE/events/sched/sched_waking/filter"
for event in irq/irq_handler_entry irq/irq_handler_exit sched/sched_switch sched/sched_waking kvm/kvm_apic_accept_irq \
  kvm/kvm_inj_virq kvm/kvm_entry kvm/kvm_exit kvm/kvm_vcpu_wakeup kvm/kvm_eoi; do
  echo 1 >"$TRACE/events/$event/enable"
done
ping -q -i 0.02 192.168.0.101 >/dev/null & p1=$!
# The first only makes sure that both vCPUs have been seen in their guest.
vfprobe trace -q -d 1s -n 3 >/out/first.txt
check trace/json eval 'vfprobe trace -q -d 3s -n 1000 --json >/out/trace.json'
echo 0 >"$TRACE/tracing_on"
cp "$TRACE/trace" /out/oracle.trace
cat "$TRACE"/per_cpu/cpu*/stats | sed -n 's/^\(overrun\|dropped events\): \([1-9][0-9]*\)/CPU [LOST \2 EVENTS]/p' >>/out/oracle.trace
rmdir "$TRACE"

check trace/text grep -q '^[0-9]* interrupts* seen in .*; slowest ' /out/first.txt
check trace/perfetto vfprobe trace -q -d 1s --slot 1 -o /out/viewer.json
check trace/slowest eval 'vfprobe trace -q -d 1s --slowest -n 2 --json >/out/slowest.json'
check trace/limit eval 'vfprobe trace -q -d 1s --longer-than 60s --json >/out/limit.json'
kill $p1
vfprobe trace -d 1s --guest vm2 2>/dev/null
equal trace/no-such-guest 2 $?
vfprobe trace -d 1s --vf 0000:01:10.7 2>/dev/null
equal trace/no-such-vf 2 $?

# The guest runs only while both watch, so that both see the same exits.
guest_monitor vm1 stop >/dev/null
perf kvm stat record -o /tmp/perf.kvm -p "$(guest_pid vm1)" >/out/perf.log 2>&1 & perf=$!
watches() { ls -l "/proc/$perf/fd" | grep -q 'anon_inode:\[perf_event\]'; }
wait_for 60 "perf kvm stat record" watches || cat /out/perf.log
rm -f /out/perf.vfprobe
cat >/tmp/run.sh <<'END'
. /lab/support/lab.sh
trap - EXIT
# Written when the window is open.
wait_for 30 "the window" grep -q '"kind":"run"' /out/perf.vfprobe || exit 1
guest_monitor vm1 cont >/dev/null
ping -q -c 100 -i 0.02 192.168.0.101 >/dev/null
guest_monitor vm1 stop >/dev/null
END
check trace/perf-run vfprobe record -q -o /out/perf.vfprobe -- bash /tmp/run.sh
kill -INT "$perf" && wait "$perf"
perf kvm -i /tmp/perf.kvm stat report --event=vmexit >/out/perf-kvm.txt 2>/out/perf-kvm.err
perf script -i /tmp/perf.kvm -F comm,tid,cpu,time,event,trace >/out/perf-script.txt 2>/out/perf-script.err
check trace/perf-events grep -q kvm:kvm_exit /out/perf-script.txt
