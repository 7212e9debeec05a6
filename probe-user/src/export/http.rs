//! The HTTP edge: `/metrics`, `/healthz` and a landing page; nothing that changes the host.
//!
//! Who gets in is decided by `web`. One request per connection, each connection with a deadline, and a bounded number of
//! them: who gives way when a new client finds all places taken is decided by `places`. What is sent is in `body`.

use super::{
    ExportError, Exporter,
    body::Answer,
    negotiate::{self, Coding, Format},
    openmetrics, pages,
    places::{Admitted, Peer, Places},
    prometheus, protobuf,
    web::Web,
};
use bytes::Bytes;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{
        ACCEPT, ACCEPT_ENCODING, ALLOW, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER,
        VARY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
    },
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};

const PLAIN: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
/// Room for a request's head; a longer one is refused (431).
const HEAD_BYTES: usize = 16 * 1024;
/// Most header lines in a request.
const HEADERS: usize = 64;
/// Pause after an accept that failed for want of something (descriptors, memory), so as not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What one client may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections open at once, at least 1.
    pub connections: usize,
    /// Time to send a request's head, and time before it for the handshake of TLS.
    pub head: Duration,
    /// Time for a whole connection, answer included.
    pub total: Duration,
    /// When all places are taken, time for an answer before its connection is one that may give way.
    pub patience: Duration,
    /// Time that answers under way get to finish when the server stops.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            head: Duration::from_secs(5),
            // Prometheus gives up after 10 s unless told otherwise.
            total: Duration::from_secs(15),
            // A scrape takes milliseconds; on a busy host some hundreds.
            patience: Duration::from_secs(2),
            drain: Duration::from_secs(1),
        }
    }
}

/// Listens on an address.
///
/// # Errors
/// [`ExportError::Listen`] names the address.
pub async fn listen(address: &str) -> Result<TcpListener, ExportError> {
    let failed = |cause| ExportError::Listen { address: address.to_owned(), cause };
    TcpListener::bind(address).await.map_err(failed)
}

/// Listens on sockets that the service manager has opened.
///
/// # Errors
/// [`ExportError::Inherited`].
pub fn adopt(listeners: Vec<std::net::TcpListener>) -> Result<Vec<TcpListener>, ExportError> {
    let adopt = |listener: std::net::TcpListener| {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    listeners.into_iter().map(adopt).collect::<Result<_, _>>().map_err(ExportError::Inherited)
}

/// The next connection on any of some sockets.
async fn accept(listeners: &[TcpListener]) -> io::Result<(TcpStream, SocketAddr)> {
    poll_fn(|context| {
        let mut polled = listeners.iter().map(|listener| listener.poll_accept(context));
        match polled.find(Poll::is_ready) {
            Some(Poll::Ready(accepted)) => Poll::Ready(accepted),
            _ => Poll::Pending,
        }
    })
    .await
}

/// Answers clients until `stop` is ready, then lets answers under way finish. A connection is treated by the rules that
/// `web` has when it begins.
pub async fn serve(
    listeners: Vec<TcpListener>,
    exporter: Arc<Exporter>,
    web: watch::Receiver<Arc<Web>>,
    limits: Limits,
    stop: impl Future<Output = ()>,
) {
    let mut stop = pin!(stop);
    let mut clients = Places::default();
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(_) = clients.tasks.join_next() => {}
            accepted = accept(&listeners) => match accepted {
                Ok((stream, address)) => {
                    let (web, exporter) = (Arc::clone(&web.borrow()), Arc::clone(&exporter));
                    let peer = Peer::from(address.ip());
                    clients.add(peer, limits.connections, limits.patience, |admitted| {
                        client(stream, Door { web, exporter, peer, admitted }, limits)
                    });
                }
                Err(error) if of_the_client(&error) => tracing::debug!(%error, "client gone before it was accepted"),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listeners);
    let finish = async { while clients.tasks.join_next().await.is_some() {} };
    if timeout(limits.drain, finish).await.is_err() {
        tracing::debug!("connections were cut at the end");
    }
}

/// What a connection is treated by.
#[derive(Clone)]
struct Door {
    web: Arc<Web>,
    exporter: Arc<Exporter>,
    peer: Peer,
    admitted: Admitted,
}

fn of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

async fn client(stream: TcpStream, door: Door, limits: Limits) {
    let work = async {
        let Some(tls) = door.web.tls().cloned() else { return talk(stream, door, limits).await };
        match timeout(limits.head, tls.accept(stream)).await {
            Ok(Ok(stream)) => talk(stream, door, limits).await,
            Ok(Err(error)) => tracing::debug!(%error, "no TLS with a client"),
            Err(_) => tracing::debug!("a handshake took too long and was cut"),
        }
    };
    if timeout(limits.total, work).await.is_err() {
        tracing::debug!("connection took too long and was cut");
    }
}

/// One request and its answer.
async fn talk(stream: impl AsyncRead + AsyncWrite + Unpin, door: Door, limits: Limits) {
    let service = service_fn(move |request| {
        let door = door.clone();
        async move { Ok::<_, Infallible>(guarded(&door, &request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "connection ended early");
    }
}

/// The answer to who may have it; others learn nothing, not even which paths there are.
async fn guarded(door: &Door, request: &Request<Incoming>) -> Response<Answer> {
    let Door { web, exporter, peer, admitted } = door;
    let mut answer = if web.lets_in(*peer, request.headers()).await {
        admitted.get_or_init(Instant::now);
        answer(exporter, request).await
    } else {
        let mut refused = response(StatusCode::UNAUTHORIZED, PLAIN, "unauthorized\n");
        refused.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"vfprobe\""));
        refused
    };
    for (name, value) in web.headers() {
        answer.headers_mut().insert(name, value.clone());
    }
    answer
}

async fn answer(exporter: &Exporter, request: &Request<Incoming>) -> Response<Answer> {
    let path = request.uri().path();
    if !matches!(path, "/" | "/metrics" | "/healthz") {
        return response(StatusCode::NOT_FOUND, PLAIN, "not found; try /metrics\n");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = response(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET and HEAD\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    let answer = match path {
        "/metrics" => metrics(exporter, request).await,
        "/healthz" => health(exporter).await,
        _ => landing(exporter).await,
    };
    answer.unwrap_or_else(|error| {
        if matches!(error, ExportError::Busy) {
            tracing::debug!(%error, "a scrape was refused");
            let mut refused = response(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{error}\n"));
            refused.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
            return refused;
        }
        tracing::error!(%error, path, "request failed");
        response(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, format!("{error}\n"))
    })
}

async fn metrics(exporter: &Exporter, request: &Request<Incoming>) -> Result<Response<Answer>, ExportError> {
    let named = |name: HeaderName| {
        let values = request.headers().get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.collect::<Vec<_>>().join(",")
    };
    let format = negotiate::format(&named(ACCEPT));
    let coding = negotiate::coding(&named(ACCEPT_ENCODING));
    let content_type = match format {
        Format::Text => prometheus::CONTENT_TYPE,
        Format::OpenMetrics => openmetrics::CONTENT_TYPE,
        Format::Protobuf => protobuf::CONTENT_TYPE,
    };
    let (packed, length) = exporter.metrics(format).await?;
    let answer = match coding {
        Coding::Gzip => Answer::Whole(packed),
        Coding::Identity => Answer::unpacked(packed, length),
    };
    let mut response = response_with(StatusCode::OK, content_type, answer);
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept, accept-encoding"));
    if coding == Coding::Gzip {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}

async fn health(exporter: &Exporter) -> Result<Response<Answer>, ExportError> {
    let status = exporter.status().await?;
    let code = if status.healthy() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok(response(code, PLAIN, pages::health(&status)))
}

async fn landing(exporter: &Exporter) -> Result<Response<Answer>, ExportError> {
    Ok(response(StatusCode::OK, HTML, pages::landing(&exporter.status().await?)?))
}

fn response(code: StatusCode, content_type: &'static str, text: impl Into<Bytes>) -> Response<Answer> {
    response_with(code, content_type, Answer::Whole(text.into()))
}

fn response_with(code: StatusCode, content_type: &'static str, answer: Answer) -> Response<Answer> {
    let mut response = Response::new(answer);
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
