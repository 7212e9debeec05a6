# A real Prometheus that scrapes `vfprobe serve` under load while `vfprobe tune` switches configurations: every expression
# of every dashboard, recording rule and alert is run, and must have an answer.
# lab: limit=500
# lab: kernels=6.12
. /lab/support/lab.sh

IP=192.168.0.101 TAP_IP=192.168.0.102 PROMETHEUS=http://127.0.0.1:9090
fetch() { curl -sS --fail --max-time 20 "$@"; }
# series EXPRESSION: whether Prometheus has any now.
series() { fetch -G "$PROMETHEUS/api/v1/query" --data-urlencode "query=$1" | grep -q '"result":\[{'; }

check pf pf_up 1
guest_vf_start vm1 $IP 1 0
check bridge bridge_up
guest_tap_start vm2 $TAP_IP 1 vhost
check guest guest_wait vm1
check guest-on-a-tap guest_wait vm2
for ip in $IP $TAP_IP; do check "answer-$ip" wait_for 20 "an answer of $ip" ping -q -c 1 -W 1 $ip; done
affinities vm1 >/tmp/before

# The programs' own time is counted by the kernel only when it is asked to.
sysctl -q kernel.bpf_stats_enabled=1
vfprobe serve 2>/out/serve.log &
SERVE=$!
check healthy wait_for 30 "/healthz" fetch -o /dev/null http://127.0.0.1:19817/healthz

cp -r /dashboards/prometheus /tmp/prometheus
sed -i 's/15s/2s/' /tmp/prometheus/prometheus.yml
START=$(date +%s)
prometheus --config.file=/tmp/prometheus/prometheus.yml --storage.tsdb.path=/tmp/tsdb \
  --web.listen-address=127.0.0.1:9090 >/out/prometheus.log 2>&1 &
SERVER=$!
check prometheus wait_for 60 "Prometheus" fetch -o /dev/null "$PROMETHEUS/-/ready"
check scraped wait_for 60 "a first scrape" series 'up{job="vfprobe"} == 1'

ping -q -i 0.02 $IP >/dev/null &
PING=$!
ping -q -i 0.02 $TAP_IP >/dev/null &
TAP_PING=$!
check tune vfprobe tune -q --guest vm1 --try own --isolate --repeat 3 -d 8s -o /out/session.vfprobe
check both-configurations wait_for 60 "scrapes of both" \
  series 'vfprobe_irq_delivery_seconds_count{config="own"} and on (guest) vfprobe_irq_delivery_seconds_count{config="baseline"}'
python3 /lab/support/expressions.py $PROMETHEUS /dashboards "$START" /out/expressions.tsv
fetch -G "$PROMETHEUS/api/v1/label/__name__/values" >/out/metrics.json
kill $PING $TAP_PING

kill $SERVER
wait $SERVER
equal prometheus-stops 0 $?
kill $SERVE
wait $SERVE
equal clean-stop 0 $?
affinities vm1 >/tmp/after
check nothing-changed compare_settings /tmp/before /tmp/after
check vm1-ends guest_down vm1
check vm2-ends guest_down vm2
