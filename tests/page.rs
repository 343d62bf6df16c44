//! Owns the list of page tests: what a person sees of a running worker at `/`, in a real browser. Run with
//! `cargo test --test page [NAME…]`; `SCREENSHOT=FILE.png` keeps a picture.

// This binary is all test code: a failed expectation is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "page/browser.rs"]
mod browser;
#[path = "page/program.rs"]
mod program;

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use serde_json::{Value, json};

use browser::{Browser, Page};
use program::{Folder, Program, wait_for};

/// What every test gets.
struct Ctx {
    browser: Browser,
    /// The worker whose page they look at; those that end one start their own.
    worker: Worker,
    /// Goes last.
    folder: Folder,
}

/// A worker with its own Kafka and a steady trickle.
struct Worker {
    program: Program,
    port: u16,
}

impl Worker {
    fn start(folder: &Folder, port: u16) -> Worker {
        let binary = std::env::var_os("CARD_UPDATE_WORKER_BIN").map(PathBuf::from);
        let binary = binary.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_card-update-worker")));
        let listen = format!("127.0.0.1:{port}");
        let arguments = ["demo", "--serve", "--commands", "200", "--listen", listen.as_str()];
        let program = Program::start(&folder.another("worker-"), &binary, &arguments);
        wait_for("the worker serves HTTP", || TcpStream::connect(&listen).ok());
        Worker { program, port }
    }

    fn address(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port()
}

// --- the page's parts, as expressions ---

const READY: &str = "document.getElementById('ready').textContent === 'ready'";
const ROWS: &str =
    "[...document.querySelectorAll('#partitions tr')].map(r => [...r.cells].map(c => c.innerText.trim()))";
const ERRORS: &str = "[...document.querySelectorAll('#errors tr')].map(r => [...r.cells].map(c => c.innerText.trim()))";
const CHECKS: &str = "[...document.querySelectorAll('#checks li')].map(c => c.innerText)";
/// The number in the tile NAME.
const TILE: &str = "(() => { const tile = [...document.querySelectorAll('.tile')].find(t => t.innerText.includes(NAME)); \
     return tile ? Number(tile.querySelector('b').innerText.replaceAll(',', '')) : 0; })()";
/// How many of the commands that the demo begins with are remembered.
const REMEMBERED: u32 = 192;
/// What looks like an IBAN (written in one or in groups) or like a UUID in a text.
const IDENTIFIERS: &str = "((text) => [/\\b[A-Z]{2}\\d{2}(?: ?[A-Z0-9]){11,30}\\b/g, /\\b[a-z]{2}\\d{2}[a-z0-9]{11,30}\\b/g, \
     /[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/gi].flatMap(p => text.match(p) ?? []))(arguments[0])";
/// Background and text colour of what has text of its own, with the text.
const COLOURS: &str = "(() => { const ground = e => { const c = getComputedStyle(e).backgroundColor; \
     return c === 'rgba(0, 0, 0, 0)' && e.parentElement ? ground(e.parentElement) : c; }; \
     const own = e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) && e.offsetParent; \
     return [...document.querySelectorAll('main *')].filter(own) \
       .map(e => [ground(e), getComputedStyle(e).color, e.innerText]); })()";

async fn shown(ctx: &Ctx) -> Page {
    let page = ctx.browser.open(&ctx.worker.address(), &ctx.folder).await;
    page.wait(READY).await;
    page.wait(&format!("{} >= {REMEMBERED} && ({ERRORS}).length >= 4", tile("requests remembered"))).await;
    page
}

/// The number in a tile.
fn tile(name: &str) -> String {
    TILE.replace("NAME", &json!(name).to_string())
}

// --- the tests ---

async fn the_page_shows_partitions_checks_and_errors_by_code(ctx: Arc<Ctx>) {
    let page = shown(&ctx).await;
    page.prefer("light").await;
    page.resize(1100, 900, false).await;
    let rows = page.ask(ROWS).await;
    assert_eq!(rows.as_array().map(Vec::len), Some(4), "{rows}");
    for (partition, row) in rows.as_array().expect("rows").iter().enumerate() {
        assert_eq!((&row[0], &row[1]), (&json!(partition.to_string()), &json!("running")), "{rows}");
    }
    let checks = page.ask(CHECKS).await;
    for name in ["broker", "assignment", "partitions", "backpressure", "ending", "state_dir"] {
        let well = format!("✓ {name}: ");
        let found = checks.as_array().expect("checks").iter().filter_map(Value::as_str).any(|c| c.starts_with(&well));
        assert!(found, "{name} in {checks}");
    }
    let errors = page.ask(ERRORS).await;
    let count = |kind: &str, code: &str| {
        let row = errors.as_array()?.iter().find(|row| row[0] == kind && row[1] == code)?;
        row[2].as_str()?.parse::<u64>().ok()
    };
    assert_eq!(count("dead letter", "malformed_json"), Some(1), "{errors}");
    assert_eq!(count("rejected", "invalid_currency"), Some(1), "{errors}");
    assert_eq!(count("rejected", "request_id_conflict"), Some(1), "{errors}");
    assert!(count("rejected", "invalid_iban") >= Some(11), "{errors}");
    if let Some(file) = std::env::var_os("SCREENSHOT") {
        let height = page.ask("document.documentElement.scrollHeight").await.as_u64().expect("a height");
        page.resize(1100, height as u32, false).await;
        std::fs::write(file, page.picture().await).expect("the picture is written");
    }
    page.close().await;
}

async fn the_page_refreshes_itself(ctx: Arc<Ctx>) {
    let page = shown(&ctx).await;
    for name in ["requests remembered", "commands a second"] {
        page.wait(&format!("{} > 0", tile(name))).await;
    }
    let before = page.ask(&tile("requests remembered")).await;
    page.wait(&format!("{} > {before} + 5", tile("requests remembered"))).await;
    page.close().await;
}

async fn inv_10_no_account_number_and_no_id_is_on_the_page(ctx: Arc<Ctx>) {
    let page = shown(&ctx).await;
    let found_in = async |text: &str| page.call(IDENTIFIERS, vec![json!(text)]).await;
    for known in ["ES7921000813610123456789", "ES79 2100 0813 6101 2345 6789", "019ab688-bef2-72c4-6a29-d0e08be76d95"] {
        assert_eq!(found_in(&format!("of {known}.")).await, json!([known]), "the patterns of this test");
    }
    let whole = page.ask("document.documentElement.outerHTML").await;
    let view = page.ask("(async () => (await fetch('/v1/partitions')).text())()").await;
    for text in [whole, json!(page.text().await), view] {
        let text = text.as_str().expect("a text");
        assert!(text.contains("invalid_iban"), "what is looked at is what the worker shows: {text}");
        assert_eq!(found_in(text).await, json!([]));
    }
    page.close().await;
}

async fn the_page_loads_nothing_from_elsewhere_and_logs_no_error(ctx: Arc<Ctx>) {
    let page = shown(&ctx).await;
    let loaded = "performance.getEntriesByType('resource').map(e => e.name)";
    page.wait(&format!("{loaded}.length >= 3")).await;
    let loaded = page.ask(loaded).await;
    let view = format!("{}v1/partitions", ctx.worker.address());
    assert!(loaded.as_array().expect("names").iter().all(|name| *name == view), "{loaded}");
    let console = page.console().await;
    assert_eq!(console, json!([]), "the console is silent");
    page.ask("console.error('heard')").await;
    assert!(page.console().await.to_string().contains("heard"), "the console is listened to");
    page.close().await;
}

async fn the_page_fits_a_phone(ctx: Arc<Ctx>) {
    let page = shown(&ctx).await;
    page.resize(390, 844, true).await;
    page.wait("matchMedia('(max-width: 390px)').matches").await;
    assert_eq!(page.ask("document.documentElement.scrollWidth").await, 390, "{}", page.text().await);
    let beyond = "[...document.querySelectorAll('.tile, #checks li, #partitions td')]\
        .filter(e => e.getBoundingClientRect().right > 390).map(e => e.innerText)";
    assert_eq!(page.ask(beyond).await, json!([]));
    page.close().await;
}

async fn the_page_can_be_read_in_the_dark_and_in_the_light(ctx: Arc<Ctx>) {
    let page = shown(&ctx).await;
    let mut grounds = Vec::new();
    for scheme in ["light", "dark"] {
        page.prefer(scheme).await;
        page.wait(&format!("matchMedia('(prefers-color-scheme: {scheme})').matches")).await;
        let colours = page.ask(COLOURS).await;
        for text in colours.as_array().expect("texts") {
            let contrast = contrast(&text[0], &text[1]);
            assert!(contrast >= 4.5, "{scheme}: a contrast of {contrast:.2}: {text}");
        }
        let body = "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]";
        grounds.push(page.ask(body).await);
    }
    assert!(grounds[0][0] != grounds[1][0] && grounds[0][1] != grounds[1][1], "{grounds:?}");
    assert!(luminance(&grounds[0][0]) > 0.5 && luminance(&grounds[1][0]) < 0.1, "{grounds:?}");
    page.close().await;
}

async fn a_page_whose_worker_has_ended_says_so_until_it_is_back(ctx: Arc<Ctx>) {
    let worker = Worker::start(&ctx.folder, free_port());
    let page = ctx.browser.open(&worker.address(), &ctx.folder).await;
    page.wait(READY).await;
    worker.program.terminate();
    page.wait("document.getElementById('ready').textContent === 'the worker does not answer'").await;
    assert_eq!(page.ask("document.getElementById('ready').className").await, "big bad");
    assert_eq!(page.ask("document.title").await, "✗ card-update-worker");
    let port = worker.port;
    drop(worker);
    let _again = Worker::start(&ctx.folder, port);
    page.wait(READY).await;
    assert_eq!(page.ask("document.title").await, "card-update-worker");
    page.close().await;
}

/// Relative luminance of `rgb(…)`, by WCAG 2.2.
fn luminance(colour: &Value) -> f64 {
    let text = colour.as_str().and_then(|c| c.strip_prefix("rgb(")?.strip_suffix(')'));
    let parts = text.unwrap_or_else(|| panic!("no plain colour: {colour}")).split(", ");
    let linear = parts.map(|p| p.parse::<f64>().expect("a number") / 255.0).map(|c| match c {
        c if c <= 0.04045 => c / 12.92,
        c => ((c + 0.055) / 1.055).powf(2.4),
    });
    linear.zip([0.2126, 0.7152, 0.0722]).map(|(c, weight)| c * weight).sum()
}

fn contrast(one: &Value, other: &Value) -> f64 {
    let (one, other) = (luminance(one) + 0.05, luminance(other) + 0.05);
    one.max(other) / one.min(other)
}

// --- running them ---

macro_rules! trials {
    ($ctx:expr, $($name:ident),* $(,)?) => { vec![$(trial(stringify!($name), $ctx, $name)),*] };
}

fn trials(ctx: &Result<Arc<Ctx>, String>) -> Vec<Trial> {
    trials![
        ctx,
        a_page_whose_worker_has_ended_says_so_until_it_is_back,
        the_page_shows_partitions_checks_and_errors_by_code,
        the_page_refreshes_itself,
        inv_10_no_account_number_and_no_id_is_on_the_page,
        the_page_loads_nothing_from_elsewhere_and_logs_no_error,
        the_page_fits_a_phone,
        the_page_can_be_read_in_the_dark_and_in_the_light,
    ]
}

fn trial<F>(name: &str, ctx: &Result<Arc<Ctx>, String>, test: fn(Arc<Ctx>) -> F) -> Trial
where
    F: Future<Output = ()> + 'static,
{
    let ctx = ctx.clone();
    Trial::ignorable_test(name, move || match ctx {
        Ok(ctx) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(test(ctx));
            Ok(Completion::Completed)
        }
        Err(why) => Ok::<_, Failed>(Completion::ignored_with(format!("PAGE TESTS NOT RUN: {why}"))),
    })
}

fn context() -> Result<Arc<Ctx>, String> {
    let folder = Folder::new().map_err(|e| e.to_string())?;
    let browser = Browser::start(&folder)?;
    let worker = Worker::start(&folder, free_port());
    Ok(Arc::new(Ctx { browser, worker, folder }))
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Each test has a browser of its own.
    arguments.test_threads.get_or_insert(2);
    let listed = trials(&Err("not looked for".into()));
    let wanted = !arguments.list && listed.iter().any(|t| !arguments.is_filtered_out(t));
    let ctx = if wanted { context() } else { Err("not needed".into()) };
    let missing = ctx.as_ref().err().filter(|_| wanted).cloned();
    if let Some(why) = &missing {
        eprintln!("\nPAGE TESTS NOT RUN: {why}; they want chromium and chromedriver.\n");
    }
    let conclusion = libtest_mimic::run(&arguments, trials(&ctx));
    drop(ctx);
    if missing.is_some() && std::env::var("REQUIRE_BROWSER").is_ok_and(|v| v == "1") {
        eprintln!("REQUIRE_BROWSER=1 and there is no browser");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}
