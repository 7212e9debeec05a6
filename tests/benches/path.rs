//! `cargo xtask bench path`: what following packets costs, for each packet that goes from an uplink through a bridge to a
//! guest's tap and is read there. Needs root.
//!
//! Everything is compared within one run, in turn, on the same load; nothing is asserted. Beside vfprobe: a capture of the
//! same events by tracefs (a record for each packet and event), and, where it is installed, bpftrace with the same
//! histograms and with a line for each packet and event. What their readers take in user space is not in the figures.

#![expect(clippy::unwrap_used, reason = "a bench fails with the place")]

use probe_user::app::observe::Observer;
use probe_user::host::HostRoot;
use probe_user::model::nic::PathKind;
use probe_user::model::path::{PathDevice, PathRole, Paths};
use probe_user::model::topology::Topology;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use vfprobe_tests::net::{Tap, frame, index, ip, new_namespace};

const PROTOCOL: u16 = 0x88b5;
const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OUTSIDE: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
/// Packets in each turn.
const PACKETS: u32 = 40_000;
/// Turns of each observer.
const TURNS: usize = 7;
/// Packets in a second where the rate is not the highest that one thread reaches.
const RATE: u32 = 20_000;

const EVENTS: [&str; 6] = [
    "net/netif_receive_skb",
    "net/net_dev_queue",
    "net/net_dev_start_xmit",
    "net/net_dev_xmit",
    "skb/consume_skb",
    "skb/kfree_skb",
];

/// The same hops by the same key as vfprobe's `to_guest`; it neither counts bytes nor looks at devices.
const BPFTRACE: &str = "\
tracepoint:net:netif_receive_skb { @t[args->skbaddr] = nsecs; @first[args->skbaddr] = nsecs; }
tracepoint:net:net_dev_queue /@t[args->skbaddr]/ { @bridge = hist(nsecs - @t[args->skbaddr]); @t[args->skbaddr] = nsecs; }
tracepoint:net:net_dev_start_xmit /@t[args->skbaddr]/ { @qdisc = hist(nsecs - @t[args->skbaddr]); @t[args->skbaddr] = nsecs; }
tracepoint:net:net_dev_xmit { @sent = count(); }
tracepoint:skb:consume_skb /@t[args->skbaddr]/ { @ring = hist(nsecs - @t[args->skbaddr]); @total = hist(nsecs - @first[args->skbaddr]); delete(@t[args->skbaddr]); delete(@first[args->skbaddr]); }
tracepoint:skb:kfree_skb /@t[args->skbaddr]/ { delete(@t[args->skbaddr]); delete(@first[args->skbaddr]); }
BEGIN { printf(\"ready\\n\"); }
";

/// A line for each event with the packet's address, the CPU and the time: what pwru gives, of the same points.
const LINES: &str = "\
tracepoint:net:netif_receive_skb,tracepoint:net:net_dev_queue,tracepoint:net:net_dev_start_xmit,tracepoint:net:net_dev_xmit,\
tracepoint:skb:consume_skb,tracepoint:skb:kfree_skb { printf(\"%llx %d %llu %s\\n\", args->skbaddr, cpu, nsecs, probe); }
BEGIN { printf(\"ready\\n\"); }
";

/// Who looks on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Observed {
    Nobody,
    /// One packet in N, as vfprobe does by itself.
    Sampled,
    Every,
    Tracefs,
    Bpftrace,
    Lines,
}

impl Observed {
    const ALL: [Self; 6] =
        [Self::Nobody, Self::Sampled, Self::Every, Self::Tracefs, Self::Bpftrace, Self::Lines];

    fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Sampled => "vfprobe, one packet in N",
            Self::Every => "vfprobe, every packet",
            Self::Tracefs => "tracefs, an event each",
            Self::Bpftrace => "bpftrace, histograms",
            Self::Lines => "bpftrace, a line each",
        }
    }
}

/// What ends with a turn.
enum Running {
    Nothing,
    Observer(Box<Observer>),
    Tracefs(PathBuf),
    Bpftrace(Child),
}

impl Drop for Running {
    fn drop(&mut self) {
        match self {
            Self::Nothing | Self::Observer(_) => {}
            Self::Tracefs(dir) => {
                let _ = fs::write(dir.join("events/enable"), "0");
                let _ = fs::remove_dir(dir);
            }
            Self::Bpftrace(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// A guest's tap and a tap that stands for the uplink, as ports of a bridge.
struct Rig {
    guest: Tap,
    uplink: Tap,
    paths: Paths,
}

impl Rig {
    fn new() -> Self {
        let netns = new_namespace();
        ip("link add br0 type bridge forward_delay 0 mcast_snooping 0");
        let [guest, uplink] = ["tap0", "up0"].map(|name| {
            let tap = Tap::new(name);
            ip(&format!("link set {name} master br0 up"));
            tap
        });
        ip("link set br0 up");
        let role = PathRole::Tap { guest: "guest".into(), path: PathKind::Virtio, bridged: true };
        let devices = vec![
            PathDevice { ifindex: guest.ifindex, netdev: "tap0".into(), role },
            PathDevice { ifindex: uplink.ifindex, netdev: "up0".into(), role: PathRole::Uplink },
            PathDevice { ifindex: index("br0"), netdev: "br0".into(), role: PathRole::Bridge },
        ];
        let mut rig = Self { guest, uplink, paths: Paths { netns, devices } };
        rig.guest.send(&frame([0xff; 6], GUEST, PROTOCOL));
        rig.guest.take(PROTOCOL);
        rig.uplink.take(PROTOCOL);
        rig
    }

    fn observe(&self, by: Observed) -> Option<Running> {
        Some(match by {
            Observed::Nobody => Running::Nothing,
            Observed::Sampled | Observed::Every => {
                let mut observer = Observer::start_anywhere(&HostRoot::live(), &Topology::default()).unwrap();
                observer.follow_paths(self.paths.clone()).unwrap();
                if by == Observed::Every {
                    observer.follow_every_packet().unwrap();
                }
                observer.open(None).unwrap();
                Running::Observer(Box::new(observer))
            }
            Observed::Tracefs => {
                let dir = PathBuf::from("/sys/kernel/tracing/instances/vfprobe-path-bench");
                fs::create_dir(&dir).ok()?;
                for event in EVENTS {
                    fs::write(dir.join("events").join(event).join("enable"), "1").unwrap();
                }
                Running::Tracefs(dir)
            }
            Observed::Bpftrace | Observed::Lines => {
                let program = if by == Observed::Lines { LINES } else { BPFTRACE };
                let mut command = Command::new("bpftrace");
                command.args(["-e", program]).stdout(Stdio::piped()).stderr(Stdio::null());
                let mut child = command.spawn().ok()?;
                let mut output = BufReader::new(child.stdout.take()?);
                let running = Running::Bpftrace(child);
                let ready = output.by_ref().lines().map_while(Result::ok).any(|l| l == "ready");
                // A reader that takes all, until the end of it.
                std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
                return ready.then_some(running);
            }
        })
    }

    /// Sends packets to the guest and takes them there: CPU time for each (ns), and packets per second. With a rate they
    /// come in bursts, one every millisecond.
    fn send(&mut self, packets: u32, rate: Option<u32>) -> (f64, f64) {
        let packet = frame(GUEST, OUTSIDE, PROTOCOL);
        let (start, cpu) = (Instant::now(), cpu_time());
        for n in 0..packets {
            if let Some(rate) = rate
                && n % (rate / 1000) == 0
            {
                let due = start + Duration::from_secs(1) * n / rate;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            self.uplink.send(&packet);
            assert_eq!(self.guest.take(PROTOCOL), 1);
        }
        let each = (cpu_time() - cpu).as_secs_f64() * 1e9 / f64::from(packets);
        (each, f64::from(packets) / start.elapsed().as_secs_f64())
    }
}

/// CPU time of this thread: sending, bridge and reading all happen in it, and what else the machine does does not count.
fn cpu_time() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(t.tv_sec.try_into().unwrap(), t.tv_nsec.try_into().unwrap())
}

/// The middle one; the lowest and the highest.
fn middle(values: &mut [f64]) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[0], values[values.len() - 1])
}

fn report(rig: &mut Rig, rate: Option<u32>) {
    let mut times = Observed::ALL.map(|_| Vec::new());
    let mut rates = Observed::ALL.map(|_| Vec::new());
    let mut one_in = 1;
    for _ in 0..TURNS {
        for (n, by) in Observed::ALL.into_iter().enumerate() {
            let Some(running) = rig.observe(by) else { continue };
            // Until N has settled.
            rig.send(PACKETS / 2, rate);
            let (each, reached) = rig.send(PACKETS, rate);
            times[n].push(each);
            rates[n].push(reached);
            if let (Running::Observer(observer), Observed::Sampled) = (&running, by) {
                let snapshot = observer.snapshot(&Topology::default()).unwrap();
                let most = snapshot.counters.iter().find(|c| c.name == "one_in_most").map_or(1, |c| c.value);
                one_in = one_in.max(most);
            }
        }
    }
    let bare = middle(&mut times[0]).0;
    println!(
        "{:<26}{:>14}{:>22}{:>10}{:>12}",
        "observed by", "CPU ns/packet", "lowest .. highest", "added", "packets/s"
    );
    for (n, by) in Observed::ALL.into_iter().enumerate() {
        if times[n].is_empty() {
            println!("{:<26}cannot run here", by.name());
            continue;
        }
        let (each, lowest, highest) = middle(&mut times[n]);
        let range = format!("{lowest:.0} .. {highest:.0}");
        let added = if n == 0 { "-".to_owned() } else { format!("{:+.0}", each - bare) };
        println!("{:<26}{each:>14.0}{range:>22}{added:>10}{:>12.0}", by.name(), middle(&mut rates[n]).0);
    }
    println!("medians of {TURNS} turns of {PACKETS} packets; N reached {one_in}");
}

fn main() {
    let mut rig = Rig::new();
    println!("uplink - bridge - tap, as fast as one thread can:");
    report(&mut rig, None);
    println!("\nuplink - bridge - tap, {RATE} packets/s:");
    report(&mut rig, Some(RATE));
}
