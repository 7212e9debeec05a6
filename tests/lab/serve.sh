# `vfprobe serve` beside two guests with a VF each: counts against the kernel's own, configurations side by side, scrapes
# while they change, a guest that goes, a clean stop.
# lab: limit=500
. /lab/support/lab.sh

URL=http://127.0.0.1:19817
# fetch PATH: the answer's body; fails unless the status is 200.
fetch() { python3 -c 'import sys, urllib.request as u; sys.stdout.write(u.urlopen(sys.argv[1], timeout=10).read().decode())' "$URL$1"; }
# scrape NAME: an answer of /metrics into a file that is collected.
scrape() { fetch /metrics >"/out/$1.prom"; }
# value NAME METRIC LABEL...: the sum of a metric's samples that carry all these labels ('guest="vm1"').
value() {
  awk -v metric="$2" -v labels="${*:3}" '
    BEGIN { n = split(labels, wanted, " ") }
    /^#/ { next }
    { name = $1; sub(/\{.*/, "", name); if (name != metric) next
      for (i = 1; i <= n; i++) if (index($0, wanted[i]) == 0) next
      sum += $NF; seen = 1 }
    END { if (seen) printf "%.9g\n", sum; else print "absent" }' "/out/$1.prom"
}
# taken VF: interrupts of a VF so far, all vectors and CPUs, as the kernel counts them.
taken() { awk -v vf="($1)" 'index($0, "vfio-msi") && index($0, vf) { for (i = 2; $i ~ /^[0-9]+$/; i++) n += $i } END { print n + 0 }' /proc/interrupts; }
between() { # NAME LOW VALUE HIGH
  if [[ $3 =~ ^[0-9]+$ ]] && (($2 <= $3 && $3 <= $4)); then pass "$1"; else fail "$1" "$3 is not in $2..$4"; fi
}
positive() { # NAME VALUE
  if awk -v v="$2" 'BEGIN { exit !(v != "absent" && v > 0) }'; then pass "$1"; else fail "$1" "$2"; fi
}
in_force() { scrape now && [[ $(value now vfprobe_config_info "config=\"$1\"") == 1 ]]; }
absent() { scrape now && ! grep -q "guest=\"$1\"" /out/now.prom; }

check pf pf_up 2
check guest1 guest_vf vm1 192.168.0.101 1 0
check guest2 guest_vf vm2 192.168.0.102 1 1
for ip in 101 102; do check "answer-$ip" wait_for 20 "an answer" ping -q -c 1 -W 1 192.168.0.$ip; done
affinities vm1 >/tmp/before

vfprobe serve 2>/out/serve.log &
SERVE=$!
check healthy wait_for 30 "/healthz" fetch /healthz
vfprobe serve >/tmp/second.log 2>&1
equal second-instance "3" "$?"

# Counts. The kernel's are read on both sides of each scrape, so that the difference of two scrapes lies between.
vf=$(vf_bdf 0) p0=$(taken "$(vf_bdf 0)")
scrape one
p1=$(taken "$vf")
check traffic ping -q -c 200 -i 0.02 192.168.0.101
ping -q -c 20 -i 0.02 192.168.0.102 >/dev/null
p2=$(taken "$vf")
scrape two
p3=$(taken "$vf")
raised() { value "$1" vfprobe_irq_delivery_raised_total 'guest="vm1"' "vf=\"$vf\""; }
first=$(raised one)
[[ $first == absent ]] && first=0
between raised $((p2 - p1)) $(($(raised two) - first)) $((p3 - p0))
delivery=('guest="vm1"' 'stage="delivery"')
# A loss that has not happened is told with 0: a rate sees growth only from a value that was there.
for probe in irq_delivery vm_exit vcpu_sched; do
  check "losses-are-told/$probe" test "$(value one vfprobe_lost_total "probe=\"$probe\"")" != absent
done
# No CPU is guarded: what this probe does not look for is not called zero.
equal losses-are-told/cpu_noise absent "$(value one vfprobe_lost_total 'probe="cpu_noise"')"
equal every-delivery-in-the-histogram "$(value two vfprobe_irq_delivery_delivered_total 'guest="vm1"')" \
  "$(value two vfprobe_irq_delivery_seconds_count "${delivery[@]}")"
equal last-bucket-is-the-count "$(value two vfprobe_irq_delivery_seconds_count "${delivery[@]}")" \
  "$(value two vfprobe_irq_delivery_seconds_bucket "${delivery[@]}" 'le="+Inf"')"
for guest in vm1 vm2; do
  positive "deliveries-$guest" "$(value two vfprobe_irq_delivery_seconds_count "guest=\"$guest\"" 'stage="delivery"')"
  positive "exits-$guest" "$(value two vfprobe_vm_exit_seconds_count "guest=\"$guest\"")"
  positive "time-in-guest-$guest" "$(value two vfprobe_vcpu_guest_seconds_total "guest=\"$guest\"")"
done
equal nothing-unregistered 0 "$(value two vfprobe_unregistered_series)"
positive mode "$(value two vfprobe_irq_delivery_mode_info 'guest="vm1"' 'mode="remapped"')"

# What the probes take to be attached is kept by one thread alone; the others still read them.
capabilities() { # NAME: sets of the service's threads of that name
  grep -l "^Name:[[:space:]]$1\$" /proc/"$SERVE"/task/*/status | xargs grep -h '^CapEff' | sort -u | tr -d '\t'
}
equal answers-without-capabilities CapEff:0000000000000000 "$(capabilities vfprobe)"
equal reads-without-capabilities CapEff:0000000000000000 "$(capabilities tokio-rt-worker)"
equal watches-with-four CapEff:000000c000080004 "$(capabilities follow)"

# A client that says nothing keeps nobody out.
sleep infinity | socat - TCP:127.0.0.1:19817 &
IDLE=$!
check beside-an-idle-client scrape three
kill "$IDLE"

# Another configuration: its counts begin at 0, those of the former one stand still.
check apply vfprobe apply --guest vm1 --cpus 2 --placement own --yes
# Not one scrape after it is in force shows another.
check own-in-force in_force own
scrape four
# vm1's vCPU has been promised a CPU: the probe for that is attached only now.
check noise-attached-late wait_for 30 "cpu_noise" eval 'scrape now && [[ $(value now vfprobe_probe_up probe=\"cpu_noise\") == 1 ]]'
check more-traffic ping -q -c 100 -i 0.02 192.168.0.101
scrape five
equal no-drift 0 "$(value five vfprobe_config_drifted_settings)"
positive deliveries-own "$(value five vfprobe_irq_delivery_seconds_count "${delivery[@]}" 'config="own"')"
equal baseline-stands "$(value four vfprobe_irq_delivery_seconds_count "${delivery[@]}" 'config="baseline"')" \
  "$(value five vfprobe_irq_delivery_seconds_count "${delivery[@]}" 'config="baseline"')"
check rollback vfprobe rollback
check baseline-in-force in_force baseline

# Scrapes without a pause while configurations come and go: each is of one moment.
python3 /lab/support/consistency.py $URL/metrics /out/consistency.tsv &
CONSISTENCY=$!
check consistency-begins wait_for 20 "its first scrape" test -s /out/consistency.tsv
ping -q -i 0.02 192.168.0.101 >/dev/null &
PING=$!
for placement in own near; do
  check "$placement-again" vfprobe apply --guest vm1 --cpus 2 --placement $placement --yes
  check "$placement-in-force" wait_for 20 "the configuration $placement" in_force $placement
  check "$placement-undone" vfprobe rollback
  check "baseline-after-$placement" wait_for 20 "the baseline" in_force baseline
done
kill $PING $CONSISTENCY
check consistency-ends wait $CONSISTENCY

check vm2-ends guest_down vm2
check vm2-vanishes wait_for 30 "the end of vm2's figures" absent vm2
scrape six
positive vm1-stays "$(value six vfprobe_vm_exit_seconds_count 'guest="vm1"')"

kill "$SERVE"
wait "$SERVE"
equal clean-stop 0 "$?"
affinities vm1 >/tmp/after
sort -o /tmp/before /tmp/before
sort -o /tmp/after /tmp/after
# vm2's interrupts have gone with it; what is still there is as it was.
equal nothing-changed "" "$(comm -13 /tmp/before /tmp/after 2>&1)"
check vm1-ends guest_down vm1
