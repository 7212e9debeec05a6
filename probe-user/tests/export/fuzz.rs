//! The HTTP edge against bytes that no client would send, in the clear and where TLS is asked for.

use crate::exposition::parse;
use crate::http::{GENEROUS, Server, body, read_to_close, status_line};
use crate::made_up::MadeUp;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use tokio::io::AsyncWriteExt as _;

/// Requests that are tried each time.
const CASES: usize = 300;

/// Any bytes; or a good request of which a part was cut out, replaced or repeated.
fn requests() -> impl Strategy<Value = Vec<u8>> {
    let good = prop_oneof![
        Just("GET /metrics HTTP/1.1\r\nHost: t\r\nAccept: application/openmetrics-text;q=0.5\r\n\r\n"),
        Just("HEAD / HTTP/1.0\r\n\r\n"),
        Just(
            "POST /healthz HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n"
        ),
        Just("GET / HTTP/1.1\r\nHost: t\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"),
        Just("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ];
    let noise = proptest::collection::vec(any::<u8>(), 0..64);
    let spoilt = (good, any::<prop::sample::Index>(), any::<prop::sample::Index>(), noise, 1..40usize);
    let spoilt = spoilt.prop_map(|(good, from, to, noise, times)| {
        let (a, b) = (from.index(good.len()), to.index(good.len()));
        let (start, end) = (a.min(b), a.max(b));
        let middle = noise.repeat(times);
        [&good.as_bytes()[..start], &middle, &good.as_bytes()[end..]].concat()
    });
    prop_oneof![proptest::collection::vec(any::<u8>(), 0..2048), spoilt]
}

/// Sends each request and ends sending: the server must close, whatever it made of it, and go on.
async fn try_all(server: &Server) {
    let mut runner = TestRunner::deterministic();
    for _ in 0..CASES {
        let request = requests().new_tree(&mut runner).unwrap().current();
        let mut stream = server.connect().await;
        // The server may have refused and closed before all of it was sent.
        let _ = stream.write_all(&request).await;
        let _ = stream.shutdown().await;
        let answer = read_to_close(&mut stream).await;
        // A TLS server answers with an alert (record type 21) or not at all.
        let known = ["HTTP/1.1 ", "HTTP/1.0 ", "\u{15}"];
        let is_known = answer.is_empty() || known.iter().any(|start| answer.starts_with(start));
        assert!(is_known, "{answer:?} to {request:?}");
    }
}

#[tokio::test]
async fn any_bytes_end_in_an_answer_or_a_cut() {
    let server = Server::start(MadeUp::usual(), GENEROUS).await;
    try_all(&server).await;
    let answer = server.get("/metrics").await;
    assert_eq!(status_line(&answer), "HTTP/1.1 200 OK");
    assert_eq!(parse(body(&answer)).unwrap().value("vfprobe_up", &[]), Some(1.0));
    server.stop().await;
}

#[tokio::test]
async fn any_bytes_are_no_handshake() {
    let dir = crate::web::folder();
    let server =
        Server::guarded(MadeUp::usual(), GENEROUS, crate::web::read(dir.path(), crate::web::TLS)).await;
    try_all(&server).await;
    server.stop().await;
}
