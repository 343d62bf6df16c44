//! HTTP: probes, metrics, the status page and the read API, on a thread of their own.
//!
//! Everything is bounded: connections, heads, how long a client may take, and questions to the loops.

mod problem;
mod read_api;
mod routes;
mod view;

pub use read_api::masked_account;

use super::Metrics;
use crate::kafka::{Figures, Watchdog};
use crate::projection::WriterStats;
use crate::worker::{Question, Status};
use axum::Router;
use crossbeam_channel::Sender;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use secrecy::SecretString;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Connections at a time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 64;
/// How long a client may take to send a request's head, idle connections included.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest head of a request, bytes; larger ones get 431.
const MAX_HEAD: usize = 16 * 1024;
/// How long a connection may live, whatever its client does; then it is asked to go, and cut.
const CONNECTION_LIFE: Duration = Duration::from_secs(60);
const CONNECTION_GRACE: Duration = Duration::from_secs(5);
/// Pause after a connection could not be accepted (no file descriptor is left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is shown, and who is asked.
pub struct Shown {
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The partitions.
    pub status: Arc<Status>,
    /// The disk.
    pub writer: Arc<WriterStats>,
    /// The Kafka clients.
    pub figures: Figures,
    /// Tells a loop that is stuck.
    pub watchdog: Watchdog,
    /// One queue a loop, for questions about cards and requests; `None` when the read API is off.
    pub questions: Option<Vec<Sender<Question>>>,
    /// What the read API's clients must show, if anything.
    pub token: Option<SecretString>,
    /// When the process started.
    pub started: Instant,
}

impl Shown {
    fn now_ms() -> i64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
    }
}

/// Starts to serve; gives the address that it listens on. Ends with the process.
pub fn serve(listen: SocketAddr, shown: Shown) -> std::io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("http".into()).spawn(move || {
        runtime.block_on(async {
            match TcpListener::from_std(listener) {
                Ok(listener) => accept(listener, routes::routes(Arc::new(shown))).await,
                Err(error) => tracing::error!(%error, "HTTP cannot be served"),
            }
        });
    })?;
    Ok(address)
}

async fn accept(listener: TcpListener, routes: Router) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Ok(slot) = slots.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(connection(stream, routes.clone(), slot))),
            Err(error) => {
                tracing::warn!(%error, "a connection to HTTP cannot be accepted");
                // Without a pause a lack of descriptors would be met in a busy loop.
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection; what goes wrong in it is its client's affair.
async fn connection(stream: TcpStream, routes: Router, _slot: OwnedSemaphorePermit) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    let mut connection = std::pin::pin!(connection);
    if timeout(CONNECTION_LIFE, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(CONNECTION_GRACE, connection).await;
    }
}

#[cfg(test)]
mod tests;
