//! The sources keep the layout that `src/lib.rs` states: who imports whom, who knows which library, and where `unsafe` stands.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// What each module may import of the project. `observe` shows what `worker` counts and `worker` reports to `observe`, so these
/// two know each other's data types.
const MAY_IMPORT: [(&str, &[&str]); 10] = [
    ("domain", &[]),
    ("wire", &["domain"]),
    ("projection", &["domain", "wire"]),
    ("kafka", &["domain", "wire"]),
    ("observe", &["domain", "kafka", "projection", "worker"]),
    ("worker", &["domain", "wire", "projection", "kafka", "observe", "config"]),
    ("config", &["domain", "wire", "kafka", "observe", "worker"]),
    ("inspect", &["domain", "wire", "projection"]),
    ("backfill", &["domain", "wire", "kafka"]),
    ("cli", &["domain", "kafka", "projection", "backfill", "config", "observe", "worker"]),
];

fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.len() > 40, "the sources were not found");
    found
}

fn collect(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
}

/// The top module that a file belongs to.
fn module(path: &Path) -> String {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let first = path.strip_prefix(src).unwrap().components().next().unwrap();
    first.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
}

/// Lines without comments and what follows the tests' start.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().take_while(|l| !l.starts_with("#[cfg(test)]"));
    lines.filter(|l| !l.trim_start().starts_with("//"))
}

fn is_test(path: &Path) -> bool {
    let name = path.file_stem().unwrap().to_string_lossy().into_owned();
    name == "tests" || name.ends_with("_tests") || path.components().any(|c| c.as_os_str() == "simulation")
}

#[test]
fn modules_import_only_what_the_layout_allows() {
    for (path, text) in sources().iter().filter(|(path, _)| !is_test(path)) {
        let own = module(path);
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == own) else { continue };
        for line in code(text) {
            for imported in line.split("crate::").skip(1) {
                let imported = imported.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap();
                // A constant outside of tests.
                assert!(
                    imported == "mutation" || imported == own || allowed.contains(&imported),
                    "{}: {own} must not import {imported}: {line}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn each_library_is_known_in_one_place() {
    for (library, owner) in [("rdkafka", "kafka"), ("sled::", "projection"), ("axum", "observe"), ("clap", "cli")] {
        for (path, text) in sources() {
            let uses = code(&text).any(|l| l.contains(library) && !l.contains("\"") && !l.contains('`'));
            // A program of its own reads its own arguments.
            let program = library == "clap" && module(&path) == "bin";
            assert!(!uses || program || module(&path) == owner, "{} knows {library}", path.display());
        }
    }
}

#[test]
fn unsafe_stands_only_in_the_thin_layer_and_says_why() {
    for (path, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        let thin = path.components().any(|c| c.as_os_str() == "raw");
        for (i, line) in lines.iter().enumerate() {
            let block = line.contains("unsafe {") || line.trim_start().starts_with("unsafe fn");
            assert!(!block || thin, "{}:{}: unsafe outside kafka::raw", path.display(), i + 1);
            let argued = lines[i.saturating_sub(4)..i].iter().any(|l| l.contains("SAFETY"));
            assert!(!block || argued, "{}:{}: unsafe without its safety argument", path.display(), i + 1);
        }
    }
}

#[test]
fn files_open_with_what_they_own_and_stay_small() {
    for (path, text) in sources() {
        assert!(text.starts_with("//!"), "{} does not open with //!", path.display());
        let lines = code(&text).count();
        assert!(lines <= 500, "{} has {lines} lines of code", path.display());
    }
}

#[test]
fn no_panicking_shortcut_stands_outside_tests() {
    for (path, text) in sources().iter().filter(|(path, _)| !is_test(path)) {
        for line in code(text) {
            let bad =
                [".unwrap()", ".expect(", "todo!(", "unimplemented!(", "dbg!("].iter().find(|b| line.contains(**b));
            assert!(bad.is_none(), "{}: {line}", path.display());
        }
    }
}
