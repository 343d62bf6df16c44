//! `GUARANTEES.md` names only tests that exist: a promise whose test was renamed or removed must not go on standing there.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Every `fn name()` of the sources and tests below a test attribute or in the lists of broker and fault tests, as `file::name`.
fn tests_that_exist() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = BTreeSet::new();
    collect(&root.join("src"), &mut found);
    collect(&root.join("tests"), &mut found);
    found
}

fn collect(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let file = path.file_stem().unwrap().to_string_lossy().into_owned();
            let listed = |folder| path.parent().is_some_and(|p| p.ends_with(folder));
            let broker = listed("tests/broker") || listed("tests/faults");
            found.extend(names(&text, broker).into_iter().map(|name| format!("{file}::{name}")));
        }
    }
}

/// Functions under `#[test]`, or public ones of a broker or fault test's file that take its context.
fn names(text: &str, broker: bool) -> Vec<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_test = |i: usize| lines[i.saturating_sub(3)..i].contains(&"#[test]");
    let name = |line: &str| line.split_once("fn ").and_then(|(_, rest)| rest.split('(').next()).map(str::to_owned);
    let meant = |(i, line): &(usize, &&str)| {
        let test = line.starts_with("fn ") && is_test(*i);
        test || (broker && line.starts_with("pub fn ") && [": &Ctx)", "(rig: &Rig)"].iter().any(|c| line.contains(c)))
    };
    lines.iter().enumerate().filter(meant).filter_map(|(_, line)| name(line)).collect()
}

/// What stands in backticks and has the form `file::test`.
fn named(page: &str) -> BTreeSet<&str> {
    let quoted = page.split('`').skip(1).step_by(2);
    quoted.filter(|text| text.contains("::") && !text.contains(' ')).collect()
}

#[test]
fn every_test_that_a_promise_names_exists() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("GUARANTEES.md")).unwrap();
    let (named, found) = (named(&page), tests_that_exist());
    assert!(named.len() > 30, "the page names its tests: {}", named.len());
    let gone: Vec<_> = named.iter().filter(|name| !found.contains(**name)).collect();
    assert!(gone.is_empty(), "no such tests: {gone:?}");
}

#[test]
fn every_invariant_has_a_row() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("GUARANTEES.md")).unwrap();
    for number in 1..=10 {
        assert!(page.contains(&format!("| **INV-{number}** ")), "INV-{number}");
    }
}
