//! The HTTP edge: `/metrics`, `/healthz` and a landing page; nothing that changes the host.
//!
//! Who gets in is decided by `web`. One request per connection, each connection with a deadline, and a bounded number of them: when a new client finds
//! all places taken, the connection that has been open longest gives way. A scrape takes milliseconds, so it is the
//! idle and the slow that go, and they cannot keep others out.

use super::{
    ExportError, Exporter,
    negotiate::{self, Coding, Format},
    openmetrics, pages, prometheus, protobuf,
    web::Web,
};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{
        ACCEPT, ACCEPT_ENCODING, ALLOW, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue, VARY,
        WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
    },
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
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
async fn accept(listeners: &[TcpListener]) -> io::Result<TcpStream> {
    poll_fn(|context| {
        let mut polled = listeners.iter().map(|listener| listener.poll_accept(context));
        match polled.find(Poll::is_ready) {
            Some(Poll::Ready(accepted)) => Poll::Ready(accepted.map(|(stream, _)| stream)),
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
    let mut clients = Clients::default();
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(_) = clients.tasks.join_next() => {}
            accepted = accept(&listeners) => match accepted {
                Ok(stream) => {
                    let web = Arc::clone(&web.borrow());
                    clients.add(client(stream, web, Arc::clone(&exporter), limits), limits.connections);
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

/// Open connections, the oldest first.
#[derive(Default)]
struct Clients {
    tasks: JoinSet<()>,
    by_age: VecDeque<AbortHandle>,
}

impl Clients {
    fn add(&mut self, client: impl Future<Output = ()> + Send + 'static, most: usize) {
        self.by_age.retain(|handle| !handle.is_finished());
        if self.by_age.len() >= most
            && let Some(oldest) = self.by_age.pop_front()
        {
            tracing::debug!(most, "too many connections; the oldest gives way");
            oldest.abort();
        }
        self.by_age.push_back(self.tasks.spawn(client));
    }
}

fn of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

async fn client(stream: TcpStream, web: Arc<Web>, exporter: Arc<Exporter>, limits: Limits) {
    let work = async {
        let Some(tls) = web.tls().cloned() else { return talk(stream, web, exporter, limits).await };
        match timeout(limits.head, tls.accept(stream)).await {
            Ok(Ok(stream)) => talk(stream, web, exporter, limits).await,
            Ok(Err(error)) => tracing::debug!(%error, "no TLS with a client"),
            Err(_) => tracing::debug!("a handshake took too long and was cut"),
        }
    };
    if timeout(limits.total, work).await.is_err() {
        tracing::debug!("connection took too long and was cut");
    }
}

/// One request and its answer.
async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    web: Arc<Web>,
    exporter: Arc<Exporter>,
    limits: Limits,
) {
    let service = service_fn(move |request| {
        let (exporter, web) = (Arc::clone(&exporter), Arc::clone(&web));
        async move { Ok::<_, Infallible>(guarded(&web, &exporter, &request).await) }
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
async fn guarded(web: &Web, exporter: &Exporter, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let mut answer = if web.lets_in(request.headers()).await {
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

async fn answer(exporter: &Exporter, request: &Request<Incoming>) -> Response<Full<Bytes>> {
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
        tracing::error!(%error, path, "request failed");
        response(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, format!("{error}\n"))
    })
}

async fn metrics(
    exporter: &Exporter,
    request: &Request<Incoming>,
) -> Result<Response<Full<Bytes>>, ExportError> {
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
    let mut response = response(StatusCode::OK, content_type, exporter.metrics(format, coding).await?);
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept, accept-encoding"));
    if coding == Coding::Gzip {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}

async fn health(exporter: &Exporter) -> Result<Response<Full<Bytes>>, ExportError> {
    let status = exporter.status().await?;
    let code = if status.healthy() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok(response(code, PLAIN, pages::health(&status)))
}

async fn landing(exporter: &Exporter) -> Result<Response<Full<Bytes>>, ExportError> {
    Ok(response(StatusCode::OK, HTML, pages::landing(&exporter.status().await?)?))
}

fn response(code: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
