//! The protobuf form: read by the wire format's rules, and by a real Prometheus.

use crate::exposition::parse;
use crate::http::{GENEROUS, Server};
use crate::made_up::{self, MadeUp};
use probe_user::export::{
    bounds::Bounds,
    families::{Fold, Scrape, families},
    prometheus, protobuf,
};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A field's content, by its wire type.
enum Field<'a> {
    Varint(u64),
    Double(f64),
    Bytes(&'a [u8]),
}

/// A message's fields by number (protobuf.dev, "Encoding"), in order.
struct Fields<'a>(BTreeMap<u64, Vec<Field<'a>>>);

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let (byte, rest) = bytes.split_first().unwrap();
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return value;
        }
    }
    panic!("a number without end")
}

fn take<'a>(bytes: &mut &'a [u8], n: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(n);
    *bytes = rest;
    taken
}

impl<'a> Fields<'a> {
    fn read(mut bytes: &'a [u8]) -> Self {
        let mut fields: BTreeMap<u64, Vec<Field<'a>>> = BTreeMap::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let field = match key & 7 {
                0 => Field::Varint(varint(&mut bytes)),
                1 => Field::Double(f64::from_le_bytes(take(&mut bytes, 8).try_into().unwrap())),
                2 => {
                    let length = varint(&mut bytes);
                    Field::Bytes(take(&mut bytes, usize::try_from(length).unwrap()))
                }
                other => panic!("wire type {other}"),
            };
            fields.entry(key >> 3).or_default().push(field);
        }
        Self(fields)
    }

    fn all(&self, number: u64) -> impl Iterator<Item = &Field<'a>> {
        self.0.get(&number).into_iter().flatten()
    }

    fn messages(&self, number: u64) -> impl Iterator<Item = Fields<'a>> {
        self.all(number).map(move |field| match field {
            Field::Bytes(bytes) => Fields::read(bytes),
            _ => panic!("field {number} is no message"),
        })
    }

    fn text(&self, number: u64) -> String {
        match self.all(number).next() {
            Some(Field::Bytes(bytes)) => String::from_utf8(bytes.to_vec()).unwrap(),
            _ => panic!("field {number} is no text"),
        }
    }

    fn double(&self, number: u64) -> f64 {
        match self.all(number).next() {
            Some(Field::Double(value)) => *value,
            _ => panic!("field {number} is no double"),
        }
    }

    fn varints(&self, number: u64) -> Vec<u64> {
        let varint = |field: &Field<'_>| match field {
            Field::Varint(value) => *value,
            _ => panic!("field {number} is no number"),
        };
        self.all(number).map(varint).collect()
    }

    /// Signed numbers: zigzag.
    fn signed(&self, number: u64) -> Vec<i64> {
        let signed = |v: u64| i64::try_from(v >> 1).unwrap() ^ -i64::try_from(v & 1).unwrap();
        self.varints(number).into_iter().map(signed).collect()
    }
}

/// Samples in the form of the classic text, and of each histogram the counts of its native buckets.
type Read = (BTreeMap<(String, BTreeMap<String, String>), f64>, Vec<(i64, Vec<i64>)>);

/// Reads an answer by the numbers of fields in client_model's `metrics.proto`.
fn read(mut bytes: &[u8]) -> Read {
    let (mut samples, mut native) = (BTreeMap::new(), Vec::new());
    while !bytes.is_empty() {
        let length = varint(&mut bytes);
        let family = Fields::read(take(&mut bytes, usize::try_from(length).unwrap()));
        let name = family.text(1);
        assert!(!family.text(2).is_empty(), "{name} has no help");
        let kind = family.varints(3);
        for metric in family.messages(4) {
            let labels: BTreeMap<_, _> =
                metric.messages(1).map(|pair| (pair.text(1), pair.text(2))).collect();
            let value = |field| metric.messages(field).next().map(|message| message.double(1));
            match kind.as_slice() {
                [0] => drop(samples.insert((name.clone(), labels), value(3).unwrap())),
                [1] => drop(samples.insert((name.clone(), labels), value(2).unwrap())),
                [4] => {
                    let histogram = metric.messages(7).next().unwrap();
                    let count = histogram.varints(1)[0];
                    for bucket in histogram.messages(3) {
                        let mut labels = labels.clone();
                        labels.insert("le".to_owned(), bucket.double(2).to_string());
                        samples.insert((format!("{name}_bucket"), labels), bucket.varints(1)[0] as f64);
                    }
                    let mut with_inf = labels.clone();
                    with_inf.insert("le".to_owned(), "+Inf".to_owned());
                    samples.insert((format!("{name}_bucket"), with_inf), count as f64);
                    samples.insert((format!("{name}_sum"), labels.clone()), histogram.double(2));
                    samples.insert((format!("{name}_count"), labels), count as f64);
                    let mut absolute = 0;
                    let counts: Vec<i64> = histogram
                        .signed(13)
                        .iter()
                        .map(|delta| {
                            absolute += delta;
                            absolute
                        })
                        .collect();
                    let length: u64 = histogram.messages(12).map(|span| span.varints(2)[0]).sum();
                    assert_eq!(length, counts.len() as u64, "{name}: as many buckets as the spans say");
                    assert_eq!(counts.iter().sum::<i64>(), i64::try_from(count).unwrap(), "{name}");
                    assert!(histogram.double(6) > 0.0 && histogram.varints(7) == [0], "{name}");
                    native.push((histogram.signed(5)[0], counts));
                }
                other => panic!("{name} is of kind {other:?}"),
            }
        }
    }
    (samples, native)
}

#[test]
fn it_says_what_the_classic_text_says() {
    let (figures, status) = (made_up::snapshot().into(), made_up::status());
    let vfs = made_up::counted_vfs();
    let scrape = Scrape { figures: Some(&figures), status: &status, vfs: &vfs, read_seconds: 0.25 };
    let families = families(&scrape, &Fold::default());
    for bounds in [Bounds::Coarse, Bounds::Normal, Bounds::Fine] {
        let classic = parse(&prometheus::text(&families, bounds).unwrap()).unwrap();
        let (samples, native) = read(&protobuf::bytes(&families, bounds, &status.began));
        assert_eq!(samples, classic.samples, "{bounds:?}");
        // The made-up histograms: four deliveries (257 ns lie in a kernel bucket that ends at 272 ns, beyond the native bound
        // of 259 ns that 256 ns are below), and exits.
        assert!(native.iter().all(|(schema, _)| *schema == 3));
        let full = |counts: &Vec<i64>| counts.iter().copied().filter(|n| *n > 0).collect::<Vec<_>>();
        let mut full: Vec<Vec<i64>> = native.iter().map(|(_, counts)| full(counts)).collect();
        full.sort();
        assert_eq!(full, [vec![1], vec![1, 1], vec![1, 1, 1, 1]]);
    }
}

/// A Prometheus that does not outlive its test.
struct Prometheus {
    child: Child,
    address: SocketAddr,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    /// Starts one that scrapes `target` and asks for native histograms; `None` and said so when there is none.
    fn start(test: &str, dir: &Path, target: SocketAddr) -> Option<Self> {
        let Ok(version) = Command::new("prometheus").arg("--version").output() else {
            let why = "prometheus is not installed (Debian: apt-get install prometheus)";
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{why}");
            println!("SKIP {test}: {why}");
            return None;
        };
        let version = String::from_utf8_lossy(&version.stdout).into_owned();
        let version = version.split("version ").nth(1).unwrap().split('.').take(2);
        let version: Vec<u32> = version.map(|part| part.parse().unwrap()).collect();
        // A feature behind a flag until 3.8, which has a setting for it.
        let setting = if version >= vec![3, 8] { ", scrape_native_histograms: true" } else { "" };
        let text = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s{setting}}}\n\
             scrape_configs:\n  - job_name: test\n    static_configs: [{{targets: [\"{target}\"]}}]\n"
        );
        std::fs::write(dir.join("prometheus.yml"), text).unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let mut command = Command::new("prometheus");
        command.arg("--config.file=prometheus.yml").arg("--storage.tsdb.path=data");
        command.arg("--enable-feature=native-histograms").arg(format!("--web.listen-address={address}"));
        let child = command.current_dir(dir).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Some(Self { child, address })
    }

    /// The value of an expression that has one, as soon as it has.
    async fn value(&self, expression: &str) -> f64 {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let request = format!("GET /api/v1/query?query={encoded} HTTP/1.0\r\nHost: t\r\n\r\n");
        let give_up = Instant::now() + Duration::from_secs(120);
        while Instant::now() < give_up {
            if let Ok(mut stream) = TcpStream::connect(self.address).await {
                let mut answer = String::new();
                let asked = stream.write_all(request.as_bytes()).await;
                let read = stream.read_to_string(&mut answer).await;
                let json =
                    answer.split_once("\r\n\r\n").and_then(|(_, body)| serde_json::from_str(body).ok());
                if let (Ok(()), Ok(_), Some(json)) = (asked, read, json) {
                    let json: serde_json::Value = json;
                    assert_ne!(json["status"], "error", "{expression}: {json}");
                    if let Some(value) = json["data"]["result"][0]["value"][1].as_str() {
                        return value.parse().unwrap();
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        panic!("no value of {expression}")
    }
}

/// Prometheus' own reading of the native buckets. Were it to take the classic ones, these functions had no value.
#[tokio::test]
async fn a_real_prometheus_reads_native_histograms() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(MadeUp::usual(), GENEROUS).await;
    let name = "a_real_prometheus_reads_native_histograms";
    let Some(prometheus) = Prometheus::start(name, dir.path(), server.address) else { return };
    let delivery = "vfprobe_irq_delivery_seconds{stage=\"delivery\"}";
    let exit = "vfprobe_vm_exit_seconds{vcpu=\"0\"}";
    for (expression, expected) in [
        (format!("histogram_count({exit})"), 2.0),
        (format!("histogram_sum({exit})"), 0.004),
        (format!("histogram_count({delivery})"), 4.0),
        // Three of four took less than a millisecond, one 40 s; nothing lies in between.
        (format!("histogram_fraction(0, 0.001, {delivery})"), 0.75),
        (format!("histogram_fraction(1, 60, {delivery})"), 0.25),
        ("vfprobe_irq_delivery_raised_total".to_owned(), 5.0),
    ] {
        assert_eq!(prometheus.value(&expression).await, expected, "{expression}");
    }
    let largest = prometheus.value(&format!("histogram_quantile(1, {delivery})")).await;
    assert!((40.0..40.0 * 1.0625 * 1.0906).contains(&largest), "{largest}");
    server.stop().await;
}
