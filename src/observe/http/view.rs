//! What the status page shows, as JSON. Nothing in it identifies a card.

use super::Shown;
use crate::kafka::Input;
use crate::observe::logs::recent;
use crate::observe::{is_ready, readiness};
use crate::worker::{InputStatus, PartitionState, PartitionStatus};
use serde_json::{Value, json};
use std::time::Instant;

/// The answer of `/v1/partitions`.
pub fn view(shown: &Shown, now_ms: i64) -> Value {
    let checks = readiness(&shown.status, now_ms);
    let partitions = shown.status.partitions();
    let met = shown.metrics.met();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "now_ms": now_ms,
        "uptime_seconds": shown.started.elapsed().as_secs(),
        "ready": is_ready(&checks),
        "alive": shown.watchdog.stuck(Instant::now()).is_none(),
        "checks": checks,
        "partitions": partitions.iter().map(|(p, status)| partition(*p, status, now_ms)).collect::<Vec<_>>(),
        "errors": met.into_iter().map(|(kind, code, count, at_ms)| {
            json!({ "kind": kind, "code": code, "count": count, "last_ms": at_ms })
        }).collect::<Vec<_>>(),
        "log": recent(),
    })
}

fn partition(partition: i32, status: &PartitionStatus, now_ms: i64) -> Value {
    let sizes = status.projection;
    let standby = status.state == PartitionState::Standby;
    json!({
        "partition": partition,
        "state": status.state.name(),
        "restore": { "remaining_records": status.restore_remaining, "total_records": status.restore_total },
        "standby_lag_records": if standby { json!(status.standby_lag) } else { Value::Null },
        "last_progress_ms": status.progress_ms,
        "checkpoint_age_seconds": status.checkpoint_ms.map(|at| (now_ms - at).max(0) / 1000),
        "waits_for_disk": status.waits_for_disk,
        "cards": sizes.cards,
        "accounts": sizes.accounts,
        "remembered_requests": sizes.requests,
        "live": input(&status.inputs[Input::Live as usize], Input::Live, now_ms),
        "backfill": input(&status.inputs[Input::Backfill as usize], Input::Backfill, now_ms),
    })
}

fn input(status: &InputStatus, input: Input, now_ms: i64) -> Value {
    json!({
        "next_offset": status.next,
        "end_offset": status.end,
        "lag_records": status.lag_records(),
        "lag_seconds": status.lag_seconds(input, now_ms),
        "records_per_second": status.rate,
    })
}
