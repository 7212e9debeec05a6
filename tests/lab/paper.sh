# The paper's experiment as `tune --preset` makes it, and a session that is killed and continued. After each the host is
# as it was.
# lab: limit=700
# lab: kernels=6.12
. /lab/support/lab.sh
set -u
IP=192.168.0.101

as_before() { # NAME
  affinities vm1 >/tmp/now
  check "$1" compare_settings /tmp/before /tmp/now
}
exits() { # NAME CODE ACTUAL FILE
  if [[ $3 == "$2" ]]; then pass "$1"; else fail "$1" "exit $3, expected $2: $(tr '\n' '|' <"$4")"; fi
}

check pf pf_up 1
check guest guest_vf vm1 $IP 1 0
check answer wait_for 20 "an answer of vm1" ping -q -c 1 -W 1 $IP
affinities vm1 >/tmp/before

# Both loads in every configuration, both rows, the stages below them; no address is named, the ARP table has it.
vfprobe tune -q --guest vm1 --preset paper --repeat 3 -d 2s --seed 3 -o /out/paper.vfprobe --html /out/paper.html \
  >/out/paper.txt 2>&1
exits paper-runs 0 $? /out/paper.txt
for row in 'iperf3 throughput  *3 3 .*bit/s' 'ping rtt mean  *3 3 .*s ' 'vm1 .* dispatch p50' \
  'irq_delivery p99 of vm1 under ping'; do
  check "paper-$(tr -cd 'a-z0-9' <<<"$row")" grep -q "$row" /out/paper.txt
done
equal paper-runs-of-each-load "6 iperf3, 6 ping" "$(vfprobe show /out/paper.vfprobe --json | python3 -c '
import collections, json, sys
loads = collections.Counter(run["load"] for run in json.load(sys.stdin)["runs"])
print(", ".join(f"{n} {load}" for load, n in sorted(loads.items())))')"
as_before paper-undone

# Killed in the second of its runs at the earliest, with a configuration in force and seconds of it in the file.
vfprobe tune --guest vm1 --cpus 2 --try own --repeat 3 -d 6s --seed 1 -o /out/cut.vfprobe >/out/cut.txt 2>&1 &
TUNE=$!
in_force() {
  vfprobe status | grep -q own || return 1
  awk '/"kind":"run"/ { seconds = 0 } /"kind":"interval"/ { seconds++ } /"kind":"end"/ { seconds = 0; whole++ }
    END { exit !(whole >= 1 && seconds >= 2) }' /out/cut.vfprobe
}
check killed-in-force wait_for 120 "a configuration in force, and some seconds of it" in_force
read -r KILLED _ </proc/uptime
kill -KILL $TUNE
wait $TUNE 2>/dev/null
# CLOCK_MONOTONIC at the kill against the end of what the file holds. A checkpoint is due every second; the rest is the
# emulated machine's.
equal kept-to-the-last-second "cut off, kept" "$(vfprobe show /out/cut.vfprobe --json | python3 -c '
import json, sys
run = json.load(sys.stdin)["runs"][-1]
missing = float(sys.argv[1]) - run["to_ns"] / 1e9
print("whole" if run["complete"] else "cut off", "kept" if missing < 3 else f"{missing:.1f} s are missing", sep=", ")' "$KILLED")"
check resume-asks-for-a-rollback bash -c '! vfprobe tune --resume /out/cut.vfprobe 2>/tmp/refused && grep -q "vfprobe rollback" /tmp/refused'
# As it was killed during its first warm-up: it has no run yet, and is not taken for waste.
sed '/"kind":"run"/,$d' /out/cut.vfprobe >/out/begun.vfprobe
vfprobe tune -q --resume /out/begun.vfprobe 2>/dev/null
check resume-keeps-its-file grep -q '"kind":"tune"' /out/begun.vfprobe
check killed-rollback vfprobe rollback
as_before killed-undone
vfprobe tune -q --resume /out/cut.vfprobe >/out/resumed.txt 2>&1
exits resumed 0 $? /out/resumed.txt
equal resumed-runs "0 1 2 3 4 5 whole, 3 own, 3 baseline" "$(vfprobe show /out/cut.vfprobe --json | python3 -c '
import json, sys
runs = [run for run in json.load(sys.stdin)["runs"] if run["complete"]]
own = sum(run["config"] == "own" for run in runs)
print(*sorted(run["order"] for run in runs), f"whole, {own} own, {len(runs) - own} baseline")')"
check resumed-left-out grep -q 'was cut off' /out/resumed.txt
as_before resumed-undone
vfprobe tune -q --resume /out/cut.vfprobe >/tmp/again.txt 2>&1
exits complete-is-refused 2 $? /tmp/again.txt

# A limit that every run is beyond ends the session in the midst of its first run of a changed host.
vfprobe tune -q --guest vm1 --cpus 2 --try own --repeat 3 -d 20s --seed 1 --abort-if 'irq_delivery.p50 > 1ns' \
  -o /out/aborted.vfprobe -- ping -q -i 0.01 $IP >/out/aborted.txt 2>&1
exits aborted 4 $? /out/aborted.txt
check aborted-says-why grep -q '(own) is beyond its limit: irq_delivery.p50 > 1ns: irq_delivery{' /out/aborted.txt
equal aborted-in-the-midst "own broken off" "$(vfprobe show /out/aborted.vfprobe --json | python3 -c '
import json, sys
run = json.load(sys.stdin)["runs"][-1]
early = "broken off" if run["to_ns"] - run["from_ns"] < 15e9 else "to its end"
print(run["config"], early if (run["unfit"] or "").startswith("was broken off: irq_delivery.p50 > 1ns") else run["unfit"])')"
as_before aborted-undone

# What disturbs the CPUs that the configuration promises is counted in all runs alike, and conditions may be about it and
# about counters. Without being counted it is no condition, which is said before any run.
vfprobe tune -q --guest vm1 --cpus 2 --try own --repeat 3 -d 2s --seed 1 --noise --html /out/noise.html -o /out/noise.vfprobe \
  --fail-if 'cpu_noise{cpu=2}.p50 > 10s' --fail-if 'irq_delivery.raised < 0.01/s' -- ping -q -i 0.01 $IP >/out/noise.txt 2>&1
exits noise-conditions 0 $? /out/noise.txt
check noise-is-reported grep -q 'Time taken from guarded CPUs' /out/noise.html
equal noise-in-all-runs "6 of 6" "$(vfprobe show /out/noise.vfprobe --csv | python3 -c '
import csv, sys
rows = list(csv.DictReader(sys.stdin))
print(len({row["run"] for row in rows if row["probe"] == "cpu_noise" and row["cpu"] == "2" and int(row["n"] or 0)}), "of", len({row["run"] for row in rows}))')"
vfprobe tune -q --guest vm1 --cpus 2 --repeat 3 -o /out/none.vfprobe --fail-if 'cpu_noise.p50 > 1ms' >/tmp/refused 2>&1
exits noise-unasked-is-refused 2 $? /tmp/refused
check noise-unasked-says-how grep -q 'only with --noise' /tmp/refused
check noise-unasked-leaves-nothing test ! -e /out/none.vfprobe
as_before noise-undone
