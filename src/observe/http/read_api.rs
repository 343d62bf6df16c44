//! The read API: a card's accounts and a request's outcome, asked of the loops. Account numbers are always masked.

use super::Shown;
use super::problem::{problem, with};
use crate::domain::{CardId, RequestId, StoredAccount};
use crate::kafka::Input;
use crate::worker::{Asked, Known, PartitionState, PartitionStatus, Question};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// How long loops may take to answer: one that commits answers after its commit.
const PATIENCE: Duration = Duration::from_secs(5);

/// `GET /v1/cards/{card_id}`.
pub async fn card(State(shown): State<Arc<Shown>>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    if let Some(refused) = refused(&shown, &headers) {
        return refused;
    }
    let Some(card_id) = CardId::parse(&id) else { return no_uuid("card_id") };
    match ask(&shown, Asked::Card(card_id)).await {
        Ok(Known::Card(partition, accounts)) => ok(card_body(&shown, &card_id, partition, &accounts)),
        Ok(_) => with(
            StatusCode::NOT_FOUND,
            "the card is unknown in the partitions held here; another worker may hold its partition",
            json!({ "partitions": held(&shown) }),
        ),
        Err(busy) => problem(StatusCode::SERVICE_UNAVAILABLE, busy),
    }
}

/// `GET /v1/requests/{request_id}`: the API's "Request status".
pub async fn request(State(shown): State<Arc<Shown>>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    if let Some(refused) = refused(&shown, &headers) {
        return refused;
    }
    let Some(request_id) = RequestId::parse(&id) else { return no_uuid("request_id") };
    let id = request_id.to_string();
    match ask(&shown, Asked::Request(request_id)).await {
        Ok(Known::Applied(partition, dt)) => {
            let dt = String::from_utf8_lossy(&dt.text()).into_owned();
            ok(json!({ "request_id": id, "request_status": "success", "dt": dt, "partition": partition }))
        }
        Ok(Known::InProcess(partition)) => {
            ok(json!({ "request_id": id, "request_status": "process", "partition": partition }))
        }
        Ok(_) => with(
            StatusCode::NOT_FOUND,
            "no success of this request is remembered in the partitions held here; it may be in flight, have failed, be older \
             than dedup.window, or belong to another worker's partition",
            json!({ "partitions": held(&shown) }),
        ),
        Err(busy) => problem(StatusCode::SERVICE_UNAVAILABLE, busy),
    }
}

/// Asks all loops; the first that knows something answers. When none does, all must have said so.
async fn ask(shown: &Shown, asked: Asked) -> Result<Known, &'static str> {
    let loops = shown.questions.as_deref().unwrap_or_default();
    let (reply, mut answers) = mpsc::channel(loops.len().max(1));
    for questions in loops {
        if questions.try_send(Question { asked, reply: reply.clone() }).is_err() {
            return Err("too many questions wait already; try again");
        }
    }
    drop(reply);
    let mut unreadable = false;
    for _ in 0..loops.len() {
        match timeout(PATIENCE, answers.recv()).await {
            Ok(Some(Known::Nothing)) => {}
            Ok(Some(Known::Unreadable)) => unreadable = true,
            Ok(Some(known)) => return Ok(known),
            Ok(None) | Err(_) => {
                return Err("a loop is starting, ending or busy (a commit may be waiting for Kafka); try again");
            }
        }
    }
    if unreadable { Err("the state directory cannot be read; see the log") } else { Ok(Known::Nothing) }
}

/// Why a request may not ask: the API is off, or its token is wrong.
fn refused(shown: &Shown, headers: &HeaderMap) -> Option<Response> {
    if shown.questions.is_none() {
        return Some(problem(StatusCode::NOT_FOUND, "the read API is off (http.read_api)"));
    }
    let token = shown.token.as_ref()?;
    let given = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    let given = given.and_then(|v| v.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    // Hashes are compared: how long that takes says nothing about the token.
    let right = given.is_some_and(|(_, t)| Sha256::digest(t.trim()) == Sha256::digest(token.expose_secret()));
    if right {
        return None;
    }
    let mut response =
        problem(StatusCode::UNAUTHORIZED, "send `Authorization: Bearer <token>` (http.read_api_token_file)");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    Some(response)
}

fn no_uuid(what: &str) -> Response {
    problem(StatusCode::BAD_REQUEST, &format!("{what} must be a UUID of 36 characters"))
}

fn ok(body: Value) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (headers, body.to_string()).into_response()
}

/// The partitions that take commands here.
fn held(shown: &Shown) -> Vec<i32> {
    let running = |s: &PartitionStatus| s.state == PartitionState::Running;
    shown.status.partitions().into_iter().filter(|(_, s)| running(s)).map(|(p, _)| p).collect()
}

fn card_body(shown: &Shown, card_id: &CardId, partition: i32, accounts: &[StoredAccount]) -> Value {
    let status = shown.status.partitions().remove(&partition).unwrap_or_default();
    let live = status.inputs[Input::Live as usize];
    let accounts: Vec<Value> = accounts.iter().map(masked_account).collect();
    json!({
        "card_id": card_id.to_string(),
        "accounts": accounts,
        "partition": partition,
        "offset": live.next,
        "staleness": {
            "lag_records": live.lag_records(),
            "lag_seconds": live.lag_seconds(Input::Live, Shown::now_ms()),
        },
    })
}

/// An account as it may be shown.
pub fn masked_account(stored: &StoredAccount) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    json!({
        "iban": stored.account.masked_number(),
        "currency": text(&stored.account.currency.code()),
        "type": text(stored.account.kind.as_bytes()),
        "request_id": stored.request_id.to_string(),
        "updated_at": stored.updated_at_ms,
        "source_offset": stored.source_offset,
    })
}
