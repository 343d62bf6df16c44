//! Whether commands can be taken, and if not, which check fails.

use crate::worker::{PartitionState, Status};
use serde::Serialize;

/// How long the broker may be silent before the worker is not ready.
const SILENT_MS: i64 = 10_000;

/// One thing that must hold, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What is looked at.
    pub name: &'static str,
    /// Whether it is well.
    pub ok: bool,
    /// Whether the worker is ready without it.
    pub optional: bool,
    /// What was found.
    pub says: String,
}

/// The checks of `/readyz`.
pub fn readiness(status: &Status, now_ms: i64) -> Vec<Check> {
    let check = |name, ok, says: String| Check { name, ok, optional: false, says };
    let (not_running, waiting, running) = by_state(status);
    let silent_ms = now_ms - status.heard_ms();
    let heard = match status.heard_ms() {
        0 => "not heard yet".to_owned(),
        _ => format!("heard {} s ago", silent_ms.max(0) / 1000),
    };
    let restored = if not_running.is_empty() { format!("{running} running") } else { not_running.join(", ") };
    let disk = status.disk_failure();
    vec![
        check("broker", silent_ms <= SILENT_MS, heard),
        check("assignment", status.is_assigned(), if status.is_assigned() { "has come" } else { "not yet" }.to_owned()),
        check("partitions", not_running.is_empty(), restored),
        check(
            "backpressure",
            waiting.is_empty(),
            match waiting.is_empty() {
                true => "none".to_owned(),
                false => format!("partitions that wait for the disk: {}", waiting.join(", ")),
            },
        ),
        check("ending", !status.is_ending(), if status.is_ending() { "the worker is ending" } else { "no" }.to_owned()),
        Check {
            name: "state_dir",
            ok: disk.is_none(),
            optional: true,
            says: disk.map_or("written".to_owned(), |why| format!("the worker goes on from memory: {why}")),
        },
    ]
}

/// Whether all that is not optional is well.
pub fn is_ready(checks: &[Check]) -> bool {
    checks.iter().all(|c| c.ok || c.optional)
}

/// Partitions that take no commands yet, those that wait for the disk, and how many run.
fn by_state(status: &Status) -> (Vec<String>, Vec<String>, usize) {
    let (mut not_running, mut waiting, mut running) = (Vec::new(), Vec::new(), 0);
    for (partition, status) in status.partitions() {
        match status.state {
            PartitionState::Running if status.waits_for_disk => waiting.push(partition.to_string()),
            PartitionState::Running => running += 1,
            PartitionState::Standby => {}
            PartitionState::Restoring => {
                not_running.push(format!("{partition} restoring ({} records left)", status.restore_remaining));
            }
            other => not_running.push(format!("{partition} {}", other.name())),
        }
    }
    (not_running, waiting, running)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(status: &Status, now_ms: i64) -> Vec<&'static str> {
        readiness(status, now_ms).into_iter().filter(|c| !c.ok).map(|c| c.name).collect()
    }

    #[test]
    fn each_reason_not_to_be_ready_is_named() {
        let status = Status::default();
        assert_eq!(failing(&status, 1_000_000), ["broker", "assignment"]);
        status.heard(1_000_000);
        status.assigned();
        assert!(is_ready(&readiness(&status, 1_000_000)), "no partition after an assignment is ready");
        assert_eq!(failing(&status, 1_010_001), ["broker"]);
        status.update(1, |s| s.restore_remaining = 7);
        let checks = readiness(&status, 1_000_000);
        assert!(!is_ready(&checks) && checks[2].says == "1 restoring (7 records left)", "{checks:?}");
        status.update(1, |s| s.state = PartitionState::Running);
        status.update(2, |s| s.state = PartitionState::Standby);
        assert!(is_ready(&readiness(&status, 1_000_000)));
        status.disk(Some("full".into()));
        assert_eq!(failing(&status, 1_000_000), ["state_dir"]);
        assert!(is_ready(&readiness(&status, 1_000_000)), "without a disk it goes on from memory");
        status.update(1, |s| s.waits_for_disk = true);
        status.ends();
        assert_eq!(failing(&status, 1_000_000), ["backpressure", "ending", "state_dir"]);
    }
}
