//! Owns what is read of the deployed files: the rules with their times cut down for a test, and what they and the dashboard ask for.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

/// A file below `deploy/`.
pub fn deployed(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The deployed rules; these alerts wait for `for` seconds only, and their threshold is as low.
pub fn scaled(alerts: &[&str], threshold: u64, wait: u64) -> String {
    alerts.iter().fold(deployed("prometheus/rules.yaml"), |rules, alert| {
        let start = format!("- alert: {alert}\n");
        assert_eq!(rules.matches(&start).count(), 1, "{alert} is one of the rules");
        let (before, rest) = rules.split_once(&start).expect("just seen");
        let ends = ["- alert: ", "- record: ", "- name: "].iter().filter_map(|next| rest.find(next));
        let (block, after) = rest.split_at(ends.min().unwrap_or(rest.len()));
        format!("{before}{start}{}{after}", scale(alert, block, threshold, wait))
    })
}

/// An alert's `for` and the one comparison with a time; whatever else it compares with is less than 10.
fn scale(alert: &str, block: &str, threshold: u64, wait: u64) -> String {
    let waits: Vec<&str> = block.lines().filter(|line| line.trim_start().starts_with("for: ")).collect();
    assert_eq!(waits.len(), 1, "{alert} waits: {block}");
    let long = |(at, _): (usize, &str)| {
        let digits: String = block[at + 2..].chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u64>().is_ok_and(|n| n >= 10).then(|| format!("> {digits}"))
    };
    let thresholds: Vec<String> = block.match_indices("> ").filter_map(long).collect();
    assert_eq!(thresholds.len(), 1, "{alert} compares with one time: {block}");
    let indent = waits[0].len() - waits[0].trim_start().len();
    let scaled_wait = format!("{:indent$}for: {wait}s", "");
    block.replace(waits[0], &scaled_wait).replace(&thresholds[0], &format!("> {threshold}"))
}

/// The selectors in all expressions of a file that was read as JSON or YAML; matchers with variables are left out.
pub fn selectors(file: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    match file {
        Value::Array(list) => list.iter().for_each(|item| found.extend(selectors(item))),
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(text) if ["expr", "query", "definition"].contains(&name.as_str()) => {
                        found.extend(in_expression(text));
                    }
                    _ => found.extend(selectors(value)),
                }
            }
        }
        _ => {}
    }
    found
}

fn in_expression(mut text: &str) -> Vec<String> {
    let of_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut found = Vec::new();
    while let Some(start) = text.find(of_name) {
        text = &text[start..];
        let (name, rest) = text.split_at(text.find(|c| !of_name(c)).unwrap_or(text.len()));
        text = rest;
        let is_metric =
            ["card_update_", "process_"].iter().any(|p| name.starts_with(p)) || name.contains(":card_update_");
        if !is_metric && name != "up" {
            continue;
        }
        let matchers = rest.strip_prefix('{').map_or("", |inside| &inside[..end_of_matchers(inside)]);
        text = &rest[matchers.len()..];
        found.push(format!("{name}{{{}}}", without_variables(matchers)));
    }
    found
}

fn end_of_matchers(inside: &str) -> usize {
    let mut quoted = false;
    let end = inside.char_indices().find(|(_, c)| {
        quoted ^= *c == '"';
        *c == '}' && !quoted
    });
    end.expect("a closing brace").0
}

/// Values hold no commas here.
fn without_variables(matchers: &str) -> String {
    let kept: Vec<&str> = matchers.split(',').map(str::trim).filter(|m| !m.contains('$')).collect();
    kept.join(",")
}
