//! `GET /metrics` over HTTP/1.1, for scrapers.
//!
//! What comes is anybody's: few connections at a time, each with one request, little room for its head, none for a body, and
//! a time in which all has to be over.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::page;
use crate::control::{self, Call, Reply};

/// Connections at one time; others wait to be taken.
const MAX_CONNECTIONS: usize = 16;

/// Octets of a request's head.
const MAX_HEAD: usize = 8 * 1024;

/// Lines of a request's head.
const MAX_HEADERS: usize = 64;

/// A request has to be there after this time.
const HEAD_PATIENCE: Duration = Duration::from_secs(5);

/// A connection is over after this time, whatever is under way.
const PATIENCE: Duration = Duration::from_secs(15);

/// A listener that answers out of what the owner of the gateway or member says. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Listener {
    local: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Listener {
    /// Listens at an address; the owner is asked over `calls`.
    pub(crate) async fn start(at: SocketAddr, calls: mpsc::Sender<Call>) -> io::Result<Self> {
        let listener = TcpListener::bind(at).await?;
        let local = listener.local_addr()?;
        Ok(Self { local, task: tokio::spawn(accept(listener, calls)) })
    }

    /// Where it listens.
    pub(crate) fn local(&self) -> SocketAddr {
        self.local
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, calls: mpsc::Sender<Call>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let calls = calls.clone();
                tokio::spawn(async move {
                    if timeout(PATIENCE, serve(stream, calls)).await.is_err() {
                        tracing::debug!(%peer, "a request for metrics took too long");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "a request for metrics was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, calls: mpsc::Sender<Call>) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service_fn(|request| respond(request, &calls)));
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a request for metrics broke off");
    }
}

/// A request's body is never read.
async fn respond(request: Request<Incoming>, calls: &mpsc::Sender<Call>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, text) = match (request.uri().path(), request.method()) {
        ("/metrics", &Method::GET | &Method::HEAD) => match page_of(calls).await {
            Ok(page) => (StatusCode::OK, page),
            Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n"),
        },
        ("/metrics", _) => (StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "there is /metrics here, and nothing else\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = if status == StatusCode::OK { page::CONTENT_TYPE } else { "text/plain; charset=utf-8" };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    Ok(response)
}

/// What the owner says.
async fn page_of(calls: &mpsc::Sender<Call>) -> Result<String, String> {
    let (reply, answer) = oneshot::channel();
    let call = Call { request: control::Request::Metrics, reply };
    calls.send(call).await.map_err(|_| "it is about to end".to_owned())?;
    match answer.await {
        Ok(Reply::Ok(Value::String(page))) => Ok(page),
        Ok(Reply::Error(why)) => Err(why),
        Ok(Reply::Ok(_)) | Err(_) => Err("it is about to end".to_owned()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A listener whose owner knows one metric.
    async fn listener() -> (Listener, tokio::task::JoinHandle<usize>) {
        let (calls, mut receiver) = mpsc::channel::<Call>(4);
        let owner = tokio::spawn(async move {
            let mut asked = 0;
            while let Some(call) = receiver.recv().await {
                assert_eq!(call.request, control::Request::Metrics);
                asked += 1;
                let _ = call.reply.send(Reply::of(&"keyferry_uptime_seconds 5\n"));
            }
            asked
        });
        (Listener::start("127.0.0.1:0".parse().unwrap(), calls).await.unwrap(), owner)
    }

    /// Everything that comes back.
    async fn ask(at: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(at).await.unwrap();
        // It may hang up before it has read all.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn metrics_are_there_and_nothing_else() {
        let (listener, owner) = listener().await;
        let at = listener.local();
        let page = ask(at, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let (head, body) = page.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
        assert!(head.contains("content-length: 26"), "{head}");
        assert_eq!(body, "keyferry_uptime_seconds 5\n");
        let head = ask(at, b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        for (request, status) in [
            ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
            ("GET /metrics/../etc HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
            ("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", "405"),
            ("CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
            ("nonsense\r\n\r\n", "400"),
        ] {
            let answer = ask(at, request.as_bytes()).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
        }
        drop(listener);
        // Only the first two were worth a question.
        assert_eq!(owner.await.unwrap(), 2);
    }

    #[tokio::test]
    async fn one_connection_brings_one_answer() {
        let (listener, _owner) = listener().await;
        let twice = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2);
        assert_eq!(ask(listener.local(), &twice).await.matches("HTTP/1.1 200").count(), 1);
    }

    #[tokio::test]
    async fn endless_heads_are_cut_off() {
        let (listener, owner) = listener().await;
        let long = format!("GET /metrics HTTP/1.1\r\nX: {}", "x".repeat(4 * MAX_HEAD));
        let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(2 * MAX_HEADERS));
        for request in [long, many] {
            let answer = ask(listener.local(), request.as_bytes()).await;
            assert!(!answer.contains("200 OK"), "{answer}");
        }
        drop(listener);
        assert_eq!(owner.await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_holds_nobody_up() {
        let (listener, _owner) = listener().await;
        let at = listener.local();
        let mut silent = Vec::new();
        for _ in 0..2 * MAX_CONNECTIONS {
            silent.push(TcpStream::connect(at).await.unwrap());
        }
        // All places are taken, and free again in time.
        let page = ask(at, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(page.contains("200 OK"), "{page}");
        drop(silent);
    }

    #[tokio::test]
    async fn an_owner_that_is_gone_is_told() {
        let (calls, receiver) = mpsc::channel(1);
        drop(receiver);
        let listener = Listener::start("127.0.0.1:0".parse().unwrap(), calls).await.unwrap();
        let answer = ask(listener.local(), b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("it is about to end\n"), "{answer}");
    }
}
