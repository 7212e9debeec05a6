//! The server against real sockets: scrapes side by side, slow and hostile clients, a clean stop.
//!
//! Nothing here measures time; deadlines only end a test that would hang.

use crate::{exposition::parse, made_up::MadeUp};
use probe_user::export::{
    Exporter, Source, Status,
    bounds::Bounds,
    families::{Fold, FoldLabel},
    http::{Limits, listen, serve},
    negotiate::Format,
    web::Web,
};
use std::{
    io::Read as _,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

/// Far beyond what any of this takes.
pub(crate) const HANG: Duration = Duration::from_secs(30);
/// Limits that no test runs into unless it means to.
pub(crate) const GENEROUS: Limits =
    Limits { connections: 64, head: HANG, total: HANG, patience: HANG, drain: HANG };

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(source: Arc<dyn Source>, limits: Limits) -> Self {
        Self::guarded(source, limits, Web::default()).await
    }

    pub(crate) async fn guarded(source: Arc<dyn Source>, limits: Limits, web: Web) -> Self {
        Self::of(Exporter::new(source, Fold::default(), Bounds::Normal), limits, web).await
    }

    async fn of(exporter: Exporter, limits: Limits, web: Web) -> Self {
        let listener = listen("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let exporter = Arc::new(exporter);
        let stopped = async { drop(stopped.await) };
        let (_, web) = watch::channel(Arc::new(web));
        let task = tokio::spawn(serve(vec![listener], exporter, web, limits, stopped));
        Self { address, stop: Some(stop), task }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes and reads until the server closes. A reset also ends it: that is how a refused client is cut.
    async fn exchange(&self, request: &[u8]) -> String {
        let mut stream = self.connect().await;
        let _ = stream.write_all(request).await;
        read_to_close(&mut stream).await
    }

    pub(crate) async fn get(&self, path: &str) -> String {
        self.exchange(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes()).await
    }

    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        timeout(HANG, self.task).await.expect("the server stops").unwrap();
    }
}

pub(crate) async fn read_to_close(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = timeout(HANG, stream.read_to_end(&mut answer)).await.expect("the server closes");
    String::from_utf8_lossy(&answer).into_owned()
}

pub(crate) fn status_line(answer: &str) -> &str {
    answer.lines().next().unwrap_or_default()
}

pub(crate) fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

#[tokio::test]
async fn pages() {
    let server = Server::start(MadeUp::usual(), GENEROUS).await;
    for (path, line, holds) in [
        ("/metrics", "HTTP/1.1 200 OK", "content-type: text/plain; version=0.0.4; charset=utf-8"),
        ("/metrics?x=1", "HTTP/1.1 200 OK", "vfprobe_up 1\n"),
        ("/healthz", "HTTP/1.1 200 OK", "irq_delivery running raw tracepoints\n"),
        ("/", "HTTP/1.1 200 OK", "kvm is not &#60;loaded&#62;"),
        ("/nothing", "HTTP/1.1 404 Not Found", "/metrics"),
        ("//metrics", "HTTP/1.1 404 Not Found", ""),
        ("/../metrics", "HTTP/1.1 404 Not Found", ""),
    ] {
        let answer = server.get(path).await;
        assert_eq!(status_line(&answer), line, "{path}");
        assert!(answer.contains(holds), "{path}: {answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn the_form_is_the_one_asked_for() {
    let server = Server::start(MadeUp::usual(), GENEROUS).await;
    for (accept, holds, open) in [
        ("*/*", "content-type: text/plain; version=0.0.4; charset=utf-8\r\n", false),
        (
            "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.4",
            "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n",
            true,
        ),
        (
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited",
            "content-type: application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; \
             encoding=delimited\r\n",
            false,
        ),
    ] {
        let request = format!("GET /metrics HTTP/1.1\r\nHost: t\r\nAccept: {accept}\r\n\r\n");
        let answer = server.exchange(request.as_bytes()).await;
        assert!(
            answer.contains(holds) && answer.contains("vary: accept, accept-encoding\r\n"),
            "{accept}: {answer}"
        );
        assert_eq!(body(&answer).ends_with("\n# EOF\n"), open, "{accept}");
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_compressed_is_the_same() {
    let server = Server::start(MadeUp::usual(), GENEROUS).await;
    let plain = server.get("/metrics").await;
    let mut stream = server.connect().await;
    let request = b"GET /metrics HTTP/1.1\r\nHost: t\r\nAccept-Encoding: gzip\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    timeout(HANG, stream.read_to_end(&mut answer)).await.expect("the server closes").unwrap();
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    assert!(head.contains("content-encoding: gzip\r\n"), "{head}");
    assert!(head.contains(&format!("content-length: {}\r\n", answer.len() - end)), "{head}");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&answer[end..]).read_to_string(&mut text).unwrap();
    // Figures of the scrape itself differ.
    let same = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.starts_with("vfprobe_scrape_")).map(str::to_owned).collect()
    };
    assert_eq!(same(&text), same(body(&plain)));
    server.stop().await;
}

#[tokio::test]
async fn the_shape_can_change_between_scrapes() {
    let exporter = Exporter::new(MadeUp::usual(), Fold::default(), Bounds::Normal);
    let buckets = async || {
        let (packed, length) = exporter.metrics(Format::Text).await.unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(packed.as_ref()).read_to_string(&mut text).unwrap();
        assert_eq!(text.len() as u64, length);
        text.matches("vm_exit_seconds_bucket").count()
    };
    assert_eq!(buckets().await, 2 * 28);
    exporter.reform(Fold([FoldLabel::Vcpu].into()), Bounds::Coarse);
    assert_eq!(buckets().await, 15);
}

#[tokio::test]
async fn health_says_when_no_probe_runs() {
    let server = Server::start(MadeUp::new(Err("no".to_owned()), Status::default()), GENEROUS).await;
    assert_eq!(status_line(&server.get("/healthz").await), "HTTP/1.1 503 Service Unavailable");
    let metrics = server.get("/metrics").await;
    assert_eq!(status_line(&metrics), "HTTP/1.1 200 OK");
    assert_eq!(parse(body(&metrics)).unwrap().value("vfprobe_up", &[]), Some(0.0));
    server.stop().await;
}

#[tokio::test]
async fn malformed_requests_are_refused_and_change_nothing() {
    let server = Server::start(MadeUp::usual(), GENEROUS).await;
    let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(200_000));
    let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "X: 1\r\n".repeat(1000));
    for (request, code) in [
        ("POST /metrics HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nabc", "405"),
        ("DELETE / HTTP/1.1\r\nHost: t\r\n\r\n", "405"),
        ("nonsense\r\n\r\n", "400"),
        ("GET /metrics HTTP/9.9\r\n\r\n", "400"),
        ("GET /metrics HTTP/1.1\r\nbad header\r\n\r\n", "400"),
        ("\0\u{1}\u{2}\r\n\r\n", "400"),
        (&long, "431"),
        (&many, "431"),
    ] {
        let answer = server.exchange(request.as_bytes()).await;
        let code_of_answer = status_line(&answer).split(' ').nth(1).unwrap_or("cut");
        // A client that is refused while it still sends may see the reset before the answer.
        let cut_is_fine = request.len() > 100_000 && code_of_answer == "cut";
        assert!(code_of_answer == code || cut_is_fine, "{:?}: {answer}", &request[..20.min(request.len())]);
    }
    let head = server.exchange(b"HEAD /metrics HTTP/1.1\r\nHost: t\r\n\r\n").await;
    assert_eq!((status_line(&head), body(&head)), ("HTTP/1.1 200 OK", ""));
    assert_eq!(status_line(&server.get("/metrics").await), "HTTP/1.1 200 OK");
    server.stop().await;
}

#[tokio::test]
async fn scrapes_that_wait_share_one_reading() {
    let source = MadeUp::usual();
    let server = Arc::new(Server::start(source.clone(), GENEROUS).await);
    source.gate.set(false);
    let scrapes: Vec<_> = (0..20)
        .map(|_| {
            let server = Arc::clone(&server);
            tokio::spawn(async move { server.get("/metrics").await })
        })
        .collect();
    let reading = async {
        while source.readings.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(HANG, reading).await.expect("a scrape reads");
    source.gate.set(true);
    for scrape in scrapes {
        let answer = scrape.await.unwrap();
        assert_eq!(status_line(&answer), "HTTP/1.1 200 OK");
        parse(body(&answer)).unwrap();
    }
    let readings = source.readings.load(Ordering::SeqCst);
    assert!((1..=20).contains(&readings), "{readings}");
    Arc::into_inner(server).expect("all scrapes are done").stop().await;
}

#[tokio::test]
async fn slow_clients_keep_nobody_out() {
    let limits = Limits { connections: 4, ..GENEROUS };
    let server = Server::start(MadeUp::usual(), limits).await;
    // Twice as many idle and half-said requests as there are places; none of them ever ends by itself.
    let mut slow = Vec::new();
    for i in 0..8 {
        let mut stream = server.connect().await;
        if i % 2 == 0 {
            stream.write_all(b"GET /metrics HTT").await.unwrap();
        }
        slow.push(stream);
        assert_eq!(status_line(&server.get("/metrics").await), "HTTP/1.1 200 OK", "beside {} slow", i + 1);
    }
    assert_eq!(read_to_close(&mut slow[0]).await, "", "the oldest had to give way");
    drop(slow);
    server.stop().await;
}

/// Until a condition holds.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let holds = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    timeout(HANG, holds).await.unwrap_or_else(|_| panic!("{what}"));
}

/// A client of another address, which has sent a request.
async fn other(server: &Server, address: [u8; 4], request: &[u8]) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((address, 0).into()).unwrap();
    let mut stream = socket.connect(server.address).await.unwrap();
    stream.write_all(request).await.unwrap();
    stream
}

const SCRAPE: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: t\r\n\r\n";

/// Connections by the hundred take no place from a scrape that is being answered.
#[tokio::test]
async fn a_scrape_outlasts_a_loop_of_connections() {
    let source = MadeUp::usual();
    let server = Server::start(source.clone(), Limits { connections: 4, ..GENEROUS }).await;
    source.gate.set(false);
    let mut scrape = server.connect().await;
    scrape.write_all(SCRAPE).await.unwrap();
    until("the scrape reads", || source.readings.load(Ordering::SeqCst) == 1).await;
    for _ in 0..50 {
        // The one that gives way is another of these.
        let mut idle =
            [server.connect().await, server.connect().await, server.connect().await, server.connect().await];
        assert_eq!(read_to_close(&mut idle[0]).await, "");
    }
    source.gate.set(true);
    assert_eq!(status_line(&read_to_close(&mut scrape).await), "HTTP/1.1 200 OK");
    server.stop().await;
}

/// An address that holds all places has to give some up to others, and not to itself.
#[tokio::test]
async fn every_address_gets_its_share_of_places() {
    let source = MadeUp::usual();
    let server = Server::start(source.clone(), Limits { connections: 4, ..GENEROUS }).await;
    source.gate.set(false);
    let mut greedy = Vec::new();
    for _ in 0..4 {
        greedy.push(other(&server, [127, 0, 0, 2], SCRAPE).await);
    }
    until("one is being answered", || source.readings.load(Ordering::SeqCst) == 1).await;
    let mut scrape = server.connect().await;
    scrape.write_all(SCRAPE).await.unwrap();
    // A place was taken from the greedy address, and it does not get that back, however often it comes.
    for _ in 0..8 {
        greedy.push(other(&server, [127, 0, 0, 2], SCRAPE).await);
    }
    source.gate.set(true);
    assert_eq!(status_line(&read_to_close(&mut scrape).await), "HTTP/1.1 200 OK");
    server.stop().await;
}

/// A source whose answer is larger than what the sockets' buffers take.
fn large() -> Arc<MadeUp> {
    let mut snapshot = crate::made_up::snapshot();
    let template = snapshot.series[0].clone();
    for slot in 0..4000 {
        let mut more = template.clone();
        more.labels.insert("slot".to_owned(), slot.to_string());
        snapshot.series.push(more);
    }
    MadeUp::new(Ok(snapshot), crate::made_up::status())
}

/// What clients ask for and do not read is bounded: beyond, there is a refusal that says when to come again.
#[tokio::test]
async fn answers_that_nobody_reads_are_bounded() {
    let source = large();
    let exporter = Exporter::new(source.clone(), Fold::default(), Bounds::Normal).with_room(1);
    let server = Server::of(exporter, GENEROUS, Web::default()).await;
    let mut first = server.connect().await;
    first.write_all(SCRAPE).await.unwrap();
    let mut begin = [0; 12];
    first.read_exact(&mut begin).await.unwrap();
    assert_eq!(&begin, b"HTTP/1.1 200");
    for _ in 0..3 {
        let refused = server.get("/metrics").await;
        assert_eq!(status_line(&refused), "HTTP/1.1 503 Service Unavailable");
        assert!(refused.contains("retry-after: 5\r\n"), "{refused}");
    }
    assert_eq!(source.readings.load(Ordering::SeqCst), 1);
    assert_eq!(status_line(&server.get("/healthz").await), "HTTP/1.1 200 OK");
    // It reads on, and then there is room again.
    let rest = read_to_close(&mut first).await;
    parse(body(&rest)).unwrap();
    assert_eq!(status_line(&server.get("/metrics").await), "HTTP/1.1 200 OK");
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut() {
    let source = large();
    let limits = Limits { total: Duration::from_millis(1500), ..GENEROUS };
    let server = Server::start(source, limits).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    // The server's side ends without this client having read a byte: nothing is left to drain.
    let cut = async {
        loop {
            if stream.write_all(b"x").await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(HANG, cut).await.expect("the connection is cut");
    server.stop().await;
}

#[tokio::test]
async fn an_unfinished_head_is_cut() {
    let limits = Limits { head: Duration::from_millis(50), ..GENEROUS };
    let server = Server::start(MadeUp::usual(), limits).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /metrics HTTP/1.1\r\n").await.unwrap();
    let answer = read_to_close(&mut stream).await;
    assert!(!answer.contains("200 OK"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn answers_under_way_finish_when_the_server_stops() {
    let source = MadeUp::usual();
    let mut server = Server::start(source.clone(), GENEROUS).await;
    source.gate.set(false);
    let mut stream = server.connect().await;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    let reading = async {
        while source.readings.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(HANG, reading).await.expect("the scrape reads");
    drop(server.stop.take());
    let refused = async { while TcpStream::connect(server.address).await.is_ok() {} };
    timeout(HANG, refused).await.expect("no new client gets in");
    source.gate.set(true);
    assert!(read_to_close(&mut stream).await.contains("vfprobe_up 1\n"));
    timeout(HANG, server.task).await.expect("the server stops").unwrap();
}
