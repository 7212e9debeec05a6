# What vfprobe counts, with a tracefs capture of the same time beside it for the oracle (tests/tests/lab_eval).
# A function is hooked. Two guests of two vCPUs with a VF each, whose VFs use equal guest vector numbers; idle and loaded host.
# lab: cpus=2
# lab: limit=500
. /lab/support/lab.sh
set -u

# capture_on FILE, capture_end, capture_save: a private tracefs instance on CLOCK_MONOTONIC, the clock of the probes.
capture_on() {
  TRACE_FILE=$1 TRACE=/sys/kernel/tracing/instances/oracle
  mkdir "$TRACE" && echo mono >"$TRACE/trace_clock" && echo 60000 >"$TRACE/buffer_size_kb"
  echo 'prev_comm ~ "CPU*" || next_comm ~ "CPU*"' >"$TRACE/events/sched/sched_switch/filter"
  echo 'name ~ "vfio*"' >"$TRACE/events/irq/irq_handler_entry/filter"
  local event
  echo 'comm ~ "CPU*"' >"$TRACE/events/sched/sched_wakeup/filter"
  for event in irq/irq_handler_entry irq/irq_handler_exit sched/sched_switch sched/sched_wakeup kvm/kvm_apic_accept_irq \
    kvm/kvm_inj_virq kvm/kvm_entry kvm/kvm_exit kvm/kvm_eoi kvm/kvm_userspace_exit kvm/kvm_vcpu_wakeup; do
    echo 1 >"$TRACE/events/$event/enable"
  done
  # Whether an exit was handled by its handler or on a fast path: no event tells that.
  echo svm_handle_exit >"$TRACE/set_ftrace_filter" && echo function >"$TRACE/current_tracer"
}
capture_end() { echo 0 >"$TRACE/tracing_on"; }
capture_save() {
  { cat "$TRACE/trace"; cat "$TRACE"/per_cpu/cpu*/stats | sed -n 's/^\(overrun\|dropped events\): \([1-9][0-9]*\)/CPU [LOST \2 EVENTS]/p'; } >"$TRACE_FILE"
  echo nop >"$TRACE/current_tracer"
  rmdir "$TRACE"
}

pf_up 2 || exit 1
# What no machine without tracing of functions shows: the hook of a function.
vfprobe doctor >/out/doctor
check function-hooked grep -q 'ok  *functions  *irq_set_vcpu_affinity can be hooked' /out/doctor
guest_vf_start vm1 192.168.0.101 2 0 && guest_vf_start vm2 192.168.0.102 2 1
guest_wait vm1 && guest_wait vm2 || exit 1
{
  echo "vf vm1 $(vf_bdf 0)"; echo "vf vm2 $(vf_bdf 1)"
  echo "vcpu vm1 0 $(vcpu_tid vm1 0)"; echo "vcpu vm1 1 $(vcpu_tid vm1 1)"
  echo "vcpu vm2 0 $(vcpu_tid vm2 0)"; echo "vcpu vm2 1 $(vcpu_tid vm2 1)"
} >/out/guests

# The same traffic without vfprobe: what its programs take in emulated time, which no real host shows.
capture_on /out/bare.trace
ping -q -i 0.02 -c 100 192.168.0.101 >/dev/null
capture_end
capture_save

rm -f /out/*.vfprobe
for load in idle loaded; do
  [[ $load == loaded ]] && load_up
  capture_on /out/$load.trace
  ping -q -i 0.02 192.168.0.101 >/dev/null & p1=$!
  ping -q -i 0.02 192.168.0.102 >/dev/null & p2=$!
  check "observe/$load/record" /share/vfprobe record -q -d 4s -o /out/$load.vfprobe
  capture_end
  kill $p1 $p2
  [[ $load == loaded ]] && load_down
  # Without load: reading the text takes its time.
  capture_save
done

# The live view's figures, for a pipe.
ping -q -i 0.02 192.168.0.101 >/dev/null & p1=$!
vfprobe top --json-lines -i 1s --count 2 --guest vm1 >/tmp/top
kill $p1
equal observe/top/lines 2 "$(wc -l </tmp/top)"
check observe/top/delivery grep -q '"guest":"vm1".*"stage":"delivery".*"observable":true,"n":[1-9]' /tmp/top
equal observe/top/other-guests 0 "$(grep -c '"guest":"vm2"' /tmp/top)"

# What takes a CPU from a vCPU that is pinned to it: everything on that CPU, beside vfprobe's count of it.
taskset -cp 1 "$(vcpu_tid vm1 0)" >/dev/null
for load in idle loaded; do
  [[ $load == loaded ]] && load_up
  TRACE=/sys/kernel/tracing/instances/oracle TRACE_FILE=/out/noise-$load.trace
  mkdir "$TRACE" && echo mono >"$TRACE/trace_clock" && echo 60000 >"$TRACE/buffer_size_kb" && echo 2 >"$TRACE/tracing_cpumask"
  for event in irq/irq_handler_entry irq/irq_handler_exit irq/softirq_entry irq/softirq_exit irq_vectors sched/sched_switch; do
    echo 1 >"$TRACE/events/$event/enable"
  done
  ping -q -i 0.02 192.168.0.101 >/dev/null & p1=$!
  vfprobe isolation -q -d 4s --json >/out/noise-$load.json
  status=$?
  capture_end
  kill $p1
  [[ $load == loaded ]] && load_down
  # An emulated CPU is never quiet.
  equal observe/noise-$load/finding 1 $status
  capture_save
done
