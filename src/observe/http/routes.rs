//! Which path gives what.

use super::problem::problem;
use super::{Shown, read_api, view};
use crate::observe::{Check, Sources, is_ready, readiness};
use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use std::sync::Arc;
use std::time::Instant;

const PAGE: &str = include_str!("page.html");
/// The page's own script and style stand in it; nothing else may be loaded, and only this server asked.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// All routes.
pub fn routes(shown: Arc<Shown>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/livez", get(alive))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/v1/partitions", get(partitions))
        .route("/v1/cards/{card_id}", get(read_api::card))
        .route("/v1/requests/{request_id}", get(read_api::request))
        .fallback(|| async { problem(StatusCode::NOT_FOUND, "there is no such path; `/` shows what there is") })
        .method_not_allowed_fallback(|| async {
            problem(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered here")
        })
        .with_state(shown)
}

async fn page() -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (headers, PAGE).into_response()
}

async fn alive(State(shown): State<Arc<Shown>>) -> Response {
    match shown.watchdog.stuck(Instant::now()) {
        None => "alive\n".into_response(),
        Some(thread) => (StatusCode::SERVICE_UNAVAILABLE, format!("{thread} is stuck\n")).into_response(),
    }
}

async fn ready(State(shown): State<Arc<Shown>>, RawQuery(query): RawQuery) -> Response {
    let checks = readiness(&shown.status, Shown::now_ms());
    let ready = is_ready(&checks);
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let verbose = query.is_some_and(|q| q.split('&').any(|p| p == "verbose" || p.starts_with("verbose=")));
    let text = match (verbose, ready) {
        (true, _) => checks.iter().map(line).collect(),
        (false, true) => "ready\n".to_owned(),
        (false, false) => "not ready; ?verbose says why\n".to_owned(),
    };
    (code, text).into_response()
}

fn line(check: &Check) -> String {
    let mark = match (check.ok, check.optional) {
        (true, _) => "+",
        (false, true) => "!",
        (false, false) => "-",
    };
    format!("[{mark}] {}: {}\n", check.name, check.says)
}

async fn metrics(State(shown): State<Arc<Shown>>) -> Response {
    let sources =
        Sources { status: &shown.status, writer: &shown.writer, figures: &shown.figures, now_ms: Shown::now_ms() };
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], shown.metrics.text(&sources)).into_response()
}

async fn partitions(State(shown): State<Arc<Shown>>) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (headers, view::view(&shown, Shown::now_ms()).to_string()).into_response()
}
