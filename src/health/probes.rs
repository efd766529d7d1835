//! The two paths that tell over HTTP how this process is.
//!
//! Whoever can reach the port must not be able to keep a probe from its answer: who does not send a request is
//! kept for a second, and goes at once where somebody else needs the place.

use std::{collections::BTreeMap, convert::Infallible, io, net::SocketAddr, time::Duration};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::Health;
use crate::clock;

/// Connections at once; for one more the oldest goes.
const CONNECTIONS: usize = 64;
/// How long a client may take for its one request and for taking the answer.
const CONNECTION: Duration = Duration::from_secs(1);
/// How long nobody is accepted after that failed.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers `/livez` and `/readyz` at `address` until `stop`.
///
/// # Errors
/// The address cannot be listened at.
pub async fn listen(
    address: SocketAddr,
    health: Health,
    stop: CancellationToken,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    tokio::spawn(async move {
        tokio::select! {
            () = accept(&listener, &health) => {}
            () = stop.cancelled() => {}
        }
    });
    Ok(bound)
}

async fn accept(listener: &TcpListener, health: &Health) {
    let mut guests = Guests::default();
    loop {
        tokio::select! {
            // Whoever has sent its request is answered before somebody else needs the place.
            biased;
            Some(number) = guests.served.next() => {
                guests.waiting.remove(&number);
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => guests.welcome(stream, health.clone()),
                Err(error) => {
                    debug!(target: "orchestrator::service", %error, "a connection was not accepted");
                    // Out of descriptors, perhaps: one comes back, and others may give some back.
                    guests.make_room();
                    sleep(PAUSE).await;
                }
            },
        }
    }
}

/// The connections. A connection is for one request: what is there has not sent a whole one, or is being
/// answered.
#[derive(Default)]
struct Guests {
    served: FuturesUnordered<BoxFuture<'static, u64>>,
    /// By their numbers, the oldest first; cancelled: it has to go.
    waiting: BTreeMap<u64, CancellationToken>,
    came: u64,
}

impl Guests {
    fn welcome(&mut self, stream: TcpStream, health: Health) {
        if self.waiting.len() >= CONNECTIONS {
            self.make_room();
        }
        self.came += 1;
        let number = self.came;
        let goes = CancellationToken::new();
        self.waiting.insert(number, goes.clone());
        let served = async move {
            tokio::select! {
                // If its request has come by now it is answered all the same.
                biased;
                () = serve(stream, health) => {}
                () = goes.cancelled() => {}
            }
            number
        };
        self.served.push(served.boxed());
    }

    fn make_room(&mut self) {
        if let Some((_, oldest)) = self.waiting.pop_first() {
            oldest.cancel();
        }
    }
}

async fn serve(stream: TcpStream, health: Health) {
    let answer = service_fn(move |request| {
        let answer = answer(&request, &health);
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer);
    // Whoever broke off asks again.
    let _ = timeout(CONNECTION, served).await;
}

fn answer(request: &Request<Incoming>, health: &Health) -> Response<Full<Bytes>> {
    let report = health.report(clock::monotonic());
    let good = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/livez") => report.live,
        (&Method::GET | &Method::HEAD, "/readyz") => report.ready,
        (_, "/livez" | "/readyz") => return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n"),
        _ => return plain(StatusCode::NOT_FOUND, "there are /livez and /readyz\n"),
    };
    let status = match good {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = serde_json::to_vec(&report).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Generous: it only bounds how long a failing test hangs.
    const PATIENCE: Duration = Duration::from_secs(20);

    async fn connect(address: SocketAddr, sends: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(sends).await.unwrap();
        stream
    }

    async fn rest(mut stream: TcpStream) -> String {
        let mut rest = String::new();
        // It may be broken off.
        let _ = stream.read_to_string(&mut rest).await;
        rest
    }

    #[tokio::test]
    async fn a_probe_is_answered_whatever_slow_connections_there_are() {
        let all = timeout(PATIENCE, slow_ones_and_a_probe());
        all.await.expect("a probe that needs not wait for them");
    }

    async fn slow_ones_and_a_probe() {
        let health = Health::default();
        health.part("beat").is_well("leading");
        let stop = CancellationToken::new();
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let address = listen(anywhere, health, stop.clone()).await.unwrap();
        let mut slow = Vec::new();
        for _ in 0..CONNECTIONS * 4 {
            slow.push(connect(address, b"").await);
            slow.push(connect(address, b"GET /livez HTTP/1.1\r\nho").await);
        }
        let probe = connect(address, b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let answer = rest(probe).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        // The last ones had a place: they end by themselves, without an answer.
        for stream in slow.split_off(slow.len() - 2) {
            assert_eq!(rest(stream).await, "");
        }
        stop.cancel();
    }
}
