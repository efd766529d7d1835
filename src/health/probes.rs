//! The two paths that tell over HTTP how this process is.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::Health;
use crate::clock;

/// Connections at once; others wait.
const CONNECTIONS: usize = 64;
/// How long a client may take for its request.
const REQUEST: Duration = Duration::from_secs(5);
/// How long one connection is kept.
const CONNECTION: Duration = Duration::from_secs(60);

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
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, perhaps: those who have some may give them back.
                debug!(target: "orchestrator::service", %error, "a connection was not accepted");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let health = health.clone();
        tokio::spawn(async move {
            let _place = place;
            let answer = service_fn(move |request| {
                let answer = answer(&request, &health);
                async move { Ok::<_, Infallible>(answer) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST)
                .serve_connection(TokioIo::new(stream), answer);
            // Whoever broke off asks again.
            let _ = tokio::time::timeout(CONNECTION, served).await;
        });
    }
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
