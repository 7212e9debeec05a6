//! `cargo xtask bench export`: what scrapes cost at the size that vfprobe is made for, 64 guests with 4 vCPUs each and 63 VFs.
//! Figures are made up, so reading the probes' maps is not in it; the ledger, sorting, encoding and HTTP are. Then, as root, the
//! service itself with its probes attached, on this machine as it is: what it takes when nobody asks.
//!
//! Each row is a server in a process of its own, whose time and memory the kernel tells; the scraper is not in them. Nothing is
//! asserted but that scrapes are answered.

use anyhow::{Context, Result, bail, ensure};
use probe_user::export::bounds::Bounds;
use probe_user::export::families::{Fold, FoldLabel, Scrape, families};
use probe_user::export::http::{Limits, listen, serve};
use probe_user::export::ledger::{KEEP, Ledger};
use probe_user::export::web::Web;
use probe_user::export::{CountedVf, Exporter, Figures, Source, SourceError, Status, prometheus};
use probe_user::model::{VfIndex, vf_counters::VfCounters};
use probe_user::stats::{Counter, Histogram, Labels, Observability, Series, Snapshot};
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

const GUESTS: usize = 64;
const VCPUS: usize = 4;
const VFS: usize = 63;
/// Two queues and one more vector.
const SLOTS: usize = 3;
const STAGES: [&str; 5] = ["dispatch", "wake", "inject", "delivery", "service"];
/// A vCPU shows some ten to twenty reasons.
const REASONS: [&str; 12] = [
    "HLT",
    "EXTERNAL_INTERRUPT",
    "EPT_VIOLATION",
    "EPT_MISCONFIG",
    "MSR_WRITE",
    "MSR_READ",
    "CPUID",
    "IO_INSTRUCTION",
    "PREEMPTION_TIMER",
    "APIC_WRITE",
    "EOI_INDUCED",
    "PAUSE_INSTRUCTION",
];
/// Scrapes one after the other, of each form.
const SCRAPES: u32 = 30;
const AT_ONCE: usize = 50;
const CHURN: usize = 10_000;
/// Guests between two changes of the configuration, and between two scrapes of the table.
const CHANGE: usize = 250;
const SHOWN: usize = 2000;
/// For so long nobody asks.
const IDLE: Duration = Duration::from_secs(30);

/// A way to ask.
struct Form {
    name: &'static str,
    /// Headers of the request.
    headers: &'static str,
    folded: bool,
    bounds: Bounds,
    /// Configurations that have been in force.
    configs: usize,
}

const PLAIN: Form = Form { name: "text", headers: "", folded: false, bounds: Bounds::Normal, configs: 1 };
const FORMS: [Form; 9] = [
    PLAIN,
    Form { name: "OpenMetrics", headers: "Accept: application/openmetrics-text;version=1.0.0\r\n", ..PLAIN },
    Form {
        name: "protobuf, native too",
        headers: "Accept: application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited\r\n",
        ..PLAIN
    },
    Form { name: "text, gzip", headers: "Accept-Encoding: gzip\r\n", ..PLAIN },
    Form { name: "text, coarse bounds", bounds: Bounds::Coarse, ..PLAIN },
    Form { name: "text, slot and vcpu folded", folded: true, ..PLAIN },
    Form { name: "text, two configurations", configs: 2, ..PLAIN },
    // The one in force, the baseline, and as many as are kept.
    Form { name: "text, all that are kept", configs: KEEP + 2, ..PLAIN },
    Form { name: "text, gzip, all kept", headers: "Accept-Encoding: gzip\r\n", configs: KEEP + 2, ..PLAIN },
];

struct MadeUp {
    snapshot: Snapshot,
    ledger: Ledger,
    vfs: Vec<CountedVf>,
}

impl Source for MadeUp {
    fn figures(&self) -> Result<Figures, SourceError> {
        let mut read = self.snapshot.clone();
        // Copies share their buckets until they are changed; what is read of a map is new.
        let none = Histogram::default();
        read.series.iter_mut().for_each(|series| series.histogram = series.histogram.since(&none));
        Ok(self.ledger.label(read))
    }

    fn status(&self) -> Status {
        Status { config: self.ledger.config().to_owned(), ..Status::default() }
    }

    fn vf_counters(&self) -> Vec<CountedVf> {
        self.vfs.clone()
    }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Times over six powers of ten, as a busy guest shows them.
fn histogram() -> Histogram {
    let mut histogram = Histogram::default();
    let mut ns: u64 = 300;
    while ns < 300_000_000 {
        histogram.record(ns);
        ns += ns / 5;
    }
    histogram
}

fn series(probe: &str, pairs: &[(&str, &str)], histogram: &Histogram) -> Series {
    let mut histogram = histogram.clone();
    // With buckets of its own, as that of a reading.
    histogram.record(1000);
    Series { probe: probe.to_owned(), labels: labels(pairs), observable: Observability::Yes, histogram }
}

fn counter(probe: &str, name: &str, pairs: &[(&str, &str)]) -> Counter {
    Counter { probe: probe.to_owned(), name: name.to_owned(), labels: labels(pairs), value: 1_234_567 }
}

fn address(place: usize) -> String {
    format!("0000:{:02x}:{:02x}.{}", 1 + place / 32, 16 + place % 32 / 8, place % 8)
}

/// All that a guest shows; the first `VFS` guests have a VF.
fn guest(snapshot: &mut Snapshot, place: usize, name: &str, times: &Histogram) {
    for vcpu in 0..VCPUS {
        let vcpu = vcpu.to_string();
        let own = [("guest", name), ("vcpu", vcpu.as_str())];
        for reason in REASONS {
            snapshot.series.push(series("vm_exit", &[own[0], own[1], ("reason", reason)], times));
        }
        snapshot.series.push(series("vcpu_sched", &own, times));
        snapshot.counters.push(counter("vm_exit", "guest_ns", &own));
    }
    if place >= VFS {
        return;
    }
    let vf = address(place);
    for slot in 0..SLOTS {
        let (slot, vcpu) = (slot.to_string(), (slot % VCPUS).to_string());
        let own = [("guest", name), ("vf", vf.as_str()), ("slot", slot.as_str()), ("vcpu", vcpu.as_str())];
        for stage in STAGES {
            let pairs = [own.as_slice(), &[("stage", stage)]].concat();
            snapshot.series.push(series("irq_delivery", &pairs, times));
        }
        for name in ["raised", "delivered", "coalesced"] {
            snapshot.counters.push(counter("irq_delivery", name, &own));
        }
    }
}

fn names() -> Vec<String> {
    (0..GUESTS).map(|n| format!("vm{n}")).collect()
}

fn snapshot(names: &[String], times: &Histogram) -> Snapshot {
    let mut snapshot = Snapshot::default();
    names.iter().enumerate().for_each(|(place, name)| guest(&mut snapshot, place, name, times));
    snapshot
}

fn vfs() -> Result<Vec<CountedVf>> {
    let some = NonZeroU64::new(1_234_567);
    let counters = VfCounters {
        rx_packets: some,
        rx_bytes: some,
        tx_packets: some,
        tx_bytes: some,
        ..VfCounters::default()
    };
    let one = |place: usize| {
        let index = VfIndex(u32::try_from(place)?);
        Ok(CountedVf { pf: "eth0".to_owned(), index, address: address(place).parse()?, counters })
    };
    (0..VFS).map(one).collect()
}

/// What the kernel says of a process: its CPU time, and memory that is resident, now and at the most (MiB).
struct Used {
    cpu: Duration,
    resident: f64,
    peak: f64,
}

fn used(pid: u32) -> Result<Used> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, after) = stat.rsplit_once(')').context("/proc/PID/stat has no name")?;
    // utime and stime, fields 14 and 15 (proc(5)); the one after the name is field 3.
    let ticks: u64 = after.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let mib = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u32>().ok());
        Ok::<_, anyhow::Error>(f64::from(kib.with_context(|| format!("no {field}"))?) / 1024.0)
    };
    let cpu = Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second());
    Ok(Used { cpu, resident: mib("VmRSS")?, peak: mib("VmHWM")? })
}

/// A server in a process of its own.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(form: usize) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command
            .args(["--form", &form.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let out = child.stdout.take().context("no output")?;
        BufReader::new(out).read_line(&mut line)?;
        Ok(Self { child, address: line.trim().parse()? })
    }

    /// It ends with its input.
    fn end(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        ensure!(self.child.wait()?.success(), "a server failed");
        Ok(())
    }
}

/// Serves a form until the input ends.
async fn served(form: &Form) -> Result<()> {
    let times = histogram();
    let snapshot = snapshot(&names(), &times);
    let mut ledger = Ledger::new("baseline", KEEP);
    for config in 1..form.configs {
        // What was counted under each has buckets of its own.
        let mut now = snapshot.clone();
        for series in &mut now.series {
            (0..config).for_each(|_| series.histogram.merge(&times));
        }
        ledger.switch(now, format!("config{config}"));
    }
    let fold =
        Fold(if form.folded { BTreeSet::from([FoldLabel::Slot, FoldLabel::Vcpu]) } else { BTreeSet::new() });
    let exporter = Exporter::new(Arc::new(MadeUp { snapshot, ledger, vfs: vfs()? }), fold, form.bounds);
    let listener = listen("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let (_web, web) = watch::channel(Arc::new(Web::default()));
    let ended = async {
        let waited = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
        drop(waited.await);
    };
    serve(vec![listener], Arc::new(exporter), web, Limits::default(), ended).await;
    Ok(())
}

/// Bytes of an answer's body, which are thrown away, and the time until its end.
async fn scrape(address: SocketAddr, headers: &str) -> Result<(usize, Duration)> {
    let start = Instant::now();
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET /metrics HTTP/1.1\r\nHost: bench\r\n{headers}\r\n").as_bytes()).await?;
    let mut buffer = vec![0; 256 * 1024];
    let mut head: Vec<u8> = Vec::new();
    let (mut all, mut body) = (0, None);
    loop {
        let n = stream.read(&mut buffer).await?;
        if n == 0 {
            break;
        }
        all += n;
        if body.is_none() {
            head.extend(&buffer[..n]);
            body = head.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4);
        }
    }
    ensure!(head.starts_with(b"HTTP/1.1 200 OK\r\n"), "a scrape was refused");
    let body = body.context("an answer without an end of its head")?;
    Ok((all - body, start.elapsed()))
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

async fn forms() -> Result<()> {
    println!(
        "{:<27} {:>9} {:>10} {:>9} {:>9} {:>9} {:>9}",
        "form", "MB", "median ms", "max ms", "CPU ms", "RSS MiB", "peak MiB"
    );
    for (place, form) in FORMS.iter().enumerate() {
        let server = Server::start(place)?;
        let pid = server.child.id();
        let before = used(pid)?;
        let (mut times, mut bytes) = (Vec::new(), 0);
        for _ in 0..SCRAPES {
            let (length, time) = scrape(server.address, form.headers).await?;
            times.push(time);
            bytes = length;
        }
        let after = used(pid)?;
        server.end()?;
        times.sort();
        println!(
            "{:<27} {:>9.2} {:>10.1} {:>9.1} {:>9.1} {:>9.1} {:>9.1}",
            form.name,
            bytes as f64 / 1e6,
            ms(times[times.len() / 2]),
            ms(times[times.len() - 1]),
            ms(after.cpu.saturating_sub(before.cpu) / SCRAPES),
            after.resident,
            after.peak
        );
        if place == 0 {
            println!("{:<27} {:>49.1}", "  before its first scrape", before.resident);
        }
    }
    Ok(())
}

async fn at_once() -> Result<()> {
    let server = Server::start(0)?;
    let pid = server.child.id();
    let (before, start) = (used(pid)?, Instant::now());
    let clients: Vec<_> = (0..AT_ONCE).map(|_| tokio::spawn(scrape(server.address, ""))).collect();
    let mut slowest = Duration::ZERO;
    for client in clients {
        slowest = slowest.max(client.await??.1);
    }
    let (all, after) = (start.elapsed(), used(pid)?);
    server.end()?;
    println!(
        "{AT_ONCE} scrapers at once, text: all answered within {:.1} ms, the slowest in {:.1} ms; {:.1} ms of CPU, peak RSS {:.1} MiB",
        ms(all),
        ms(slowest),
        ms(after.cpu.saturating_sub(before.cpu)),
        after.peak
    );
    Ok(())
}

/// Guests come and go one by one, and configurations change meanwhile: what is kept must not grow.
fn churn() -> Result<()> {
    let times = histogram();
    let mut ledger = Ledger::new("baseline", KEEP);
    let mut names = names();
    let mut present: BTreeSet<String> = names.iter().cloned().collect();
    println!("{:>14} {:>8} {:>10} {:>9}", "guests so far", "configs", "samples", "RSS MiB");
    for n in 0..=CHURN {
        let place = n % GUESTS;
        present.remove(&names[place]);
        names[place] = format!("vm{}", GUESTS + n);
        present.insert(names[place].clone());
        ledger.keep_guests(|guest| present.contains(guest));
        if n % CHANGE == 0 {
            // Every name is new, as those of a sweep are.
            ledger.switch(snapshot(&names, &times), format!("config{n}"));
        }
        if n % SHOWN == 0 {
            let labelled = ledger.label(snapshot(&names, &times));
            let status = Status { config: ledger.config().to_owned(), ..Status::default() };
            let scrape = Scrape { figures: Some(&labelled), status: &status, vfs: &[], read_seconds: 0.0 };
            let text = prometheus::text(&families(&scrape, &Fold::default()), Bounds::Normal)?;
            let samples = text.lines().filter(|line| !line.starts_with('#')).count();
            let resident = used(std::process::id())?.resident;
            println!("{:>14} {:>8} {samples:>10} {resident:>9.1}", GUESTS + n, 2 + n / CHANGE);
        }
    }
    Ok(())
}

/// CPU time of all threads of a process that live (proc(5), schedstat: ns on a CPU first).
fn on_cpu(pid: u32) -> Result<Duration> {
    let mut all = Duration::ZERO;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        all += Duration::from_nanos(text.split_whitespace().next().context("schedstat is empty")?.parse()?);
    }
    Ok(all)
}

/// `vfprobe serve` with its probes attached: until its first answer, and while nobody asks.
async fn service() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        println!("the service itself is not measured: its probes need root");
        return Ok(());
    }
    let state = tempfile::tempdir()?;
    let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let start = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_vfprobe"))
        .args(["serve", "-q", "--listen", &address.to_string(), "--state-dir"])
        .arg(state.path())
        .spawn()?;
    let pid = child.id();
    let measured = async {
        while scrape(address, "").await.is_err() {
            ensure!(start.elapsed() < Duration::from_secs(30), "the service does not answer");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let first = start.elapsed();
        let (before, from) = (on_cpu(pid)?, Instant::now());
        tokio::time::sleep(IDLE).await;
        let share = on_cpu(pid)?.saturating_sub(before).as_secs_f64() / from.elapsed().as_secs_f64();
        let idle = used(pid)?;
        let (bytes, time) = scrape(address, "Accept-Encoding: gzip\r\n").await?;
        println!(
            "the service with its probes, no guests: first answer {:.0} ms after its start; nobody asks for {} s: {:.3} % of a CPU, RSS {:.1} MiB; a scrape {:.1} ms, {:.1} kB",
            ms(first),
            IDLE.as_secs(),
            share * 100.0,
            idle.resident,
            ms(time),
            bytes as f64 / 1e3
        );
        Ok(())
    };
    let measured = measured.await;
    child.kill()?;
    child.wait()?;
    measured
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // cargo adds `--bench`.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => {}
        ["--form", form] => {
            let form = FORMS.get(form.parse::<usize>()?).context("no such form")?;
            return runtime.block_on(served(form));
        }
        _ => bail!("unexpected arguments: {}", words.join(" ")),
    }
    let all = snapshot(&names(), &histogram());
    println!(
        "{GUESTS} guests x {VCPUS} vCPUs, {VFS} VFs x {SLOTS} vectors, made up: {} histograms, {} counters; {SCRAPES} scrapes each",
        all.series.len(),
        all.counters.len()
    );
    runtime.block_on(async {
        forms().await?;
        at_once().await?;
        service().await
    })?;
    println!(
        "{CHURN} guests come and go, one of {GUESTS} at a time; the configuration changes after every {CHANGE}, to one of a new name"
    );
    churn()
}
