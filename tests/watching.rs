//! What watches the worker: rules and dashboard ask only for what it shows, and every alert has its runbook.
//!
//! What the worker shows is taken from the real program, scraped while it works; never from its sources, which only say what
//! is meant. Files are read, nothing but loopback is talked to.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Metric → label → values.
type Shown = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy");
const PATIENCE: Duration = Duration::from_secs(90);
/// More than the demo begins with: then it only trickles, and ends in order when it is told to.
const COMMANDS: u64 = 40;
/// Shown by a standby only, which takes a second worker: the demo is one.
const STANDBY: &str = "card_update_standby_lag_records";
/// Labels that Prometheus adds to every series.
const TARGET: [&str; 2] = ["job", "instance"];
/// Labels whose values depend on the deployment.
const OPEN: [&str; 2] = ["partition", "version"];
const NOTHING: [&str; 0] = [];
const GROUPING: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
const OPERATORS: [&str; 7] = ["and", "or", "unless", "offset", "bool", "Inf", "NaN"];
const SECTIONS: [&str; 4] = ["What it means", "What to look at", "What to do", "How to know that it is over"];

static SHOWN: LazyLock<Shown> = LazyLock::new(|| with_prometheus_own(parse(&scrape_a_working_worker())));

// --- what the worker shows ---

fn scrape_a_working_worker() -> String {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut demo = Command::new(env!("CARGO_BIN_EXE_card-update-worker"));
    demo.args(["demo", "--serve", "--commands", "20", "--listen", &address.to_string()]);
    let mut demo = demo.stdout(Stdio::null()).spawn().unwrap();
    let text = scrape_until_it_works(address, &mut demo);
    if demo.try_wait().unwrap().is_none() {
        kill_process(Pid::from_child(&demo), Signal::TERM).unwrap();
    }
    assert!(demo.wait().unwrap().success(), "the demo failed");
    text.expect("too few commands were counted in time")
}

fn scrape_until_it_works(address: SocketAddr, demo: &mut Child) -> Option<String> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline && demo.try_wait().unwrap().is_none() {
        match scrape(address) {
            Ok(text) if commands(&text) >= COMMANDS => return Some(text),
            _ => std::thread::sleep(Duration::from_millis(100)),
        }
    }
    None
}

fn commands(text: &str) -> u64 {
    let counts = text.lines().filter(|l| l.starts_with("card_update_commands_total{"));
    counts.filter_map(|l| l.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

fn scrape(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    std::io::read_to_string(stream)
}

/// Takes names from the TYPE lines, labels and their values from the samples.
fn parse(text: &str) -> Shown {
    let mut shown = Shown::new();
    for line in text.lines().filter_map(|l| l.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let endings: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        shown.extend(endings.iter().map(|ending| (format!("{name}{ending}"), BTreeMap::new())));
    }
    for line in text.lines().filter(|l| l.starts_with("card_update_")) {
        let (metric, matchers) = named(line).0.remove(0);
        let labels = shown.get_mut(&metric).unwrap();
        matchers.into_iter().for_each(|[label, _, value]| labels.entry(label).or_default().extend([value]));
    }
    shown
}

/// Adds what Prometheus makes itself, recorded rules included.
fn with_prometheus_own(mut shown: Shown) -> Shown {
    assert!(!shown.contains_key(STANDBY), "the demo shows {STANDBY}: no exception is needed any more");
    let by_partition = || BTreeMap::from([("partition".to_owned(), BTreeSet::new())]);
    shown.insert(STANDBY.into(), by_partition());
    shown.insert("up".into(), BTreeMap::new());
    let alertname = ("alertname".to_owned(), alerts().into_iter().map(|(name, _)| name).collect());
    let alertstate = ("alertstate".to_owned(), BTreeSet::from(["firing".to_owned()]));
    shown.insert("ALERTS".into(), BTreeMap::from([alertname, alertstate]));
    shown.extend(rules().iter().filter_map(|r| Some((r["record"].as_str()?.to_owned(), by_partition()))));
    shown
}

// --- what is asked for ---

/// Label, operator, value.
type Matcher = [String; 3];
/// A metric and what it is narrowed by.
type Selector = (String, Vec<Matcher>);

/// An expression's words, quoted texts (with their quotes) and signs; ranges in brackets hold no names and are left out.
fn tokens(expression: &str) -> Vec<String> {
    let (mut found, mut rest) = (Vec::new(), expression.trim_start());
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_ascii_alphanumeric() || "_:.$".contains(c);
        let length = match first {
            '"' => rest[1..].find('"').unwrap() + 2,
            '[' => rest.find(']').unwrap() + 1,
            _ if is_word(first) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            _ if ["=~", "!~", "!=", "=="].iter().any(|s| rest.starts_with(s)) => 2,
            _ => first.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        found.extend((first != '[').then(|| token.to_owned()));
        rest = after.trim_start();
    }
    found
}

/// What an expression selects, and the labels of `by`, `on` and their like.
fn named(expression: &str) -> (Vec<Selector>, Vec<String>) {
    let (tokens, mut selectors, mut labels) = (tokens(expression), Vec::new(), Vec::new());
    let mut rest = tokens.as_slice();
    while let [word, after @ ..] = rest {
        let next = after.first().map_or("", String::as_str);
        rest = after;
        if GROUPING.contains(&word.as_str()) && next == "(" {
            let (list, after) = split_at_sign(&after[1..], ")");
            labels.extend(list.iter().filter(|l| *l != ",").cloned());
            rest = after;
        } else if is_name(word) && next != "(" && !GROUPING.contains(&next) {
            let (matchers, after) = if next == "{" { split_at_sign(&after[1..], "}") } else { (&[][..], after) };
            let matchers = matchers.split(|t| t == ",").filter(|m| !m.is_empty()).map(matcher).collect();
            selectors.push((word.clone(), matchers));
            rest = after;
        }
    }
    (selectors, labels)
}

fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && !OPERATORS.contains(&word)
}

fn split_at_sign<'t>(tokens: &'t [String], sign: &str) -> (&'t [String], &'t [String]) {
    let at = tokens.iter().position(|t| t == sign).unwrap();
    (&tokens[..at], &tokens[at + 1..])
}

fn matcher(tokens: &[String]) -> Matcher {
    let [label, operator, value] = tokens else { panic!("no matcher: {tokens:?}") };
    [label.clone(), operator.clone(), value.trim_matches('"').to_owned()]
}

/// What of an expression the worker does not show.
fn not_shown(expression: &str) -> Vec<String> {
    let (selectors, labels) = named(expression);
    assert!(!selectors.is_empty(), "nothing is selected: {expression}");
    let labels = labels.iter().filter(|l| !is_label(l)).map(|l| format!("label {l} in {expression}"));
    selectors.iter().flat_map(of_selector).chain(labels).collect()
}

fn of_selector((metric, matchers): &Selector) -> Vec<String> {
    let Some(labels) = SHOWN.get(metric) else { return vec![format!("metric {metric}")] };
    let right = |[label, operator, value]: &Matcher| match labels.get(label) {
        _ if TARGET.contains(&label.as_str()) => true,
        None => false,
        Some(values) => OPEN.contains(&label.as_str()) || can_match(label, operator, value, values),
    };
    matchers.iter().filter(|m| !right(m)).map(|m| format!("{metric}{{{}}}", m.concat())).collect()
}

/// Whether each alternative of a matcher meets a value; of a bucket's bound any does, as Prometheus 3 rewrites 1 to 1.0.
fn can_match(label: &str, operator: &str, value: &str, values: &BTreeSet<String>) -> bool {
    let meets = |alternative: &str| match alternative.strip_suffix(".+") {
        Some(start) => values.iter().any(|v| v.starts_with(start)),
        None => values.contains(alternative),
    };
    match (operator.ends_with('~'), label) {
        (false, _) => meets(value),
        (true, "le") => value.split('|').any(meets),
        (true, _) => value.split('|').all(meets),
    }
}

fn is_label(name: &str) -> bool {
    TARGET.contains(&name) || SHOWN.values().any(|labels| labels.contains_key(name))
}

// --- the files ---

fn rules() -> Vec<Value> {
    let text = fs::read_to_string(format!("{DEPLOY}/prometheus/rules.yaml")).unwrap();
    let file: Value = serde_saphyr::from_str(&text).unwrap();
    file["groups"].as_array().unwrap().iter().flat_map(|g| g["rules"].as_array().unwrap().clone()).collect()
}

/// Names and rules; two of one name differ in their severity.
fn alerts() -> Vec<(String, Value)> {
    rules().into_iter().filter_map(|rule| Some((rule["alert"].as_str()?.to_owned(), rule))).collect()
}

fn dashboard() -> Value {
    serde_json::from_str(&fs::read_to_string(format!("{DEPLOY}/grafana/card-update-worker.json")).unwrap()).unwrap()
}

/// All panels but the rows' headings.
fn panels(dashboard: &Value) -> Vec<&Value> {
    dashboard["panels"].as_array().unwrap().iter().filter(|p| p["type"] != "row").collect()
}

fn texts<'v>(of: &'v Value, list: &str, field: &str) -> Vec<&'v str> {
    of.pointer(list).and_then(Value::as_array).unwrap().iter().filter_map(|v| v.pointer(field)?.as_str()).collect()
}

fn runbooks() -> BTreeMap<String, String> {
    let entries = fs::read_dir(format!("{DEPLOY}/runbooks")).unwrap().map(|e| e.unwrap().path());
    entries.map(|p| (p.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(p).unwrap())).collect()
}

// --- the checks ---

#[test]
fn the_rules_ask_only_for_what_the_worker_shows() {
    let wrong: Vec<_> = rules().iter().flat_map(|r| not_shown(r["expr"].as_str().unwrap())).collect();
    assert_eq!(wrong, NOTHING);
}

#[test]
fn the_dashboard_asks_only_for_what_the_worker_shows() {
    let dashboard = dashboard();
    let panels = panels(&dashboard);
    let mut asked: Vec<&str> = panels.iter().flat_map(|p| texts(p, "/targets", "/expr")).collect();
    asked.extend(texts(&dashboard, "/annotations/list", "/expr"));
    assert!(asked.len() > 60);
    let mut wrong: Vec<_> = asked.into_iter().flat_map(not_shown).collect();
    for query in texts(&dashboard, "/templating/list", "/definition") {
        let (metric, label) = query.strip_prefix("label_values(").unwrap().rsplit_once(", ").unwrap();
        wrong.extend(not_shown(metric));
        wrong.extend((!is_label(label.trim_end_matches(')'))).then(|| query.to_owned()));
    }
    for legend in panels.iter().flat_map(|p| texts(p, "/targets", "/legendFormat")) {
        let labels = legend.split("{{").skip(1).filter_map(|l| l.split("}}").next());
        wrong.extend(labels.filter(|l| !is_label(l)).map(|l| format!("legend {l}")));
    }
    assert_eq!(wrong, NOTHING);
}

#[test]
fn the_dashboard_can_be_used_anywhere() {
    let dashboard = dashboard();
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().unwrap();
        assert!(panel["description"].as_str().is_some_and(|d| !d.is_empty()), "{title} has no description");
        let unit = [&panel["fieldConfig"]["defaults"]["unit"], &panel["options"]["yAxis"]["unit"]];
        assert!(unit.iter().any(|u| u.is_string()), "{title} has no unit");
        let sources = texts(panel, "/targets", "/datasource/uid");
        assert!(!sources.is_empty() && sources.iter().all(|s| *s == "${datasource}"), "{title}: its data source");
    }
    assert!(dashboard["time"]["from"].as_str().unwrap().starts_with("now-"));
}

#[test]
fn every_alert_says_how_urgent_it_is_and_what_to_do() {
    for (name, rule) in alerts() {
        let severity = rule["labels"]["severity"].as_str().unwrap_or_default();
        assert!(["page", "ticket"].contains(&severity), "{name}: severity {severity:?}");
        for annotation in ["summary", "description"] {
            assert!(rule["annotations"][annotation].as_str().is_some_and(|t| !t.is_empty()), "{name}: {annotation}");
        }
        assert_eq!(rule["annotations"]["runbook"], format!("deploy/runbooks/{name}.md"));
    }
}

#[test]
fn every_alert_has_a_runbook_and_every_runbook_an_alert() {
    let of_alerts: BTreeSet<String> = alerts().into_iter().map(|(name, _)| format!("{name}.md")).collect();
    assert_eq!(runbooks().into_keys().collect::<BTreeSet<_>>(), of_alerts);
}

#[test]
fn every_runbook_has_its_sections_and_names_only_what_the_worker_shows() {
    for (name, text) in runbooks() {
        assert_eq!(text.lines().filter_map(|l| l.strip_prefix("## ")).collect::<Vec<_>>(), SECTIONS, "{name}");
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && !"_:".contains(c));
        let metrics = words.filter(|w| w.contains("card_update_") || w.starts_with("process_"));
        assert_eq!(metrics.filter(|m| !SHOWN.contains_key(*m)).collect::<Vec<_>>(), NOTHING, "{name}");
    }
}
