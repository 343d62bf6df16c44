//! Probes and metrics over HTTP, on a thread of their own.

use super::Metrics;
use crate::projection::WriterStats;
use crate::worker::Status;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// How long the broker may be silent before the worker is not ready.
const SILENT_MS: i64 = 10_000;

#[derive(Clone)]
struct Shown {
    metrics: Arc<Metrics>,
    status: Arc<Status>,
    writer: Arc<WriterStats>,
}

/// Starts to serve; gives the address that it listens on. Ends with the process.
pub fn serve(
    listen: SocketAddr,
    metrics: Arc<Metrics>,
    status: Arc<Status>,
    writer: Arc<WriterStats>,
) -> std::io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let shown = Shown { metrics, status, writer };
    std::thread::Builder::new().name("http".into()).spawn(move || {
        let served = runtime.block_on(async {
            let routes = Router::new()
                .route("/livez", get(|| async { "alive\n" }))
                .route("/readyz", get(ready))
                .route("/metrics", get(metrics_text))
                .with_state(shown);
            axum::serve(tokio::net::TcpListener::from_std(listener)?, routes).await
        });
        if let Err(error) = served {
            tracing::error!(%error, "HTTP has ended");
        }
    })?;
    Ok(address)
}

async fn ready(State(shown): State<Shown>) -> impl IntoResponse {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
    let heard = now_ms - shown.status.heard_ms() <= SILENT_MS;
    match (shown.status.ready(), heard) {
        (true, true) => (StatusCode::OK, "ready\n"),
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "not every assigned partition is restored\n"),
        (_, false) => (StatusCode::SERVICE_UNAVAILABLE, "the broker was not heard for 10 s\n"),
    }
}

async fn metrics_text(State(shown): State<Shown>) -> impl IntoResponse {
    let text = shown.metrics.text(&shown.status, &shown.writer);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}
