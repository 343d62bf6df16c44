//! Owns the worker under test as a process: its configuration file, its signals, its output, its end.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::broker::Guard;
use super::wait_until;

/// The program under test.
pub fn program() -> PathBuf {
    match std::env::var_os("CARD_UPDATE_WORKER_BIN") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(env!("CARGO_BIN_EXE_card-update-worker")),
    }
}

/// How a worker is to be started.
#[derive(Clone)]
pub struct Spec {
    /// Tells apart the workers of one test.
    pub name: String,
    /// Where it keeps its state.
    pub state_dir: PathBuf,
    dir: PathBuf,
    sections: BTreeMap<String, BTreeMap<String, String>>,
    arguments: Vec<String>,
    prefix: Vec<String>,
}

impl Spec {
    /// A worker called `name` that writes below `dir`.
    pub fn new(name: &str, dir: &Path) -> Spec {
        let state_dir = dir.join(format!("{name}.state"));
        let spec = Spec {
            name: name.to_string(),
            state_dir: state_dir.clone(),
            dir: dir.to_path_buf(),
            sections: BTreeMap::new(),
            arguments: Vec::new(),
            prefix: Vec::new(),
        };
        // At its most talkative: no test's log may hold an account number (INV-10).
        let spec = spec.text("log.format", "text").text("log.level", "trace");
        spec.text("http.listen", "").state_dir(&state_dir)
    }

    /// A setting by `section.key`, its value as TOML writes it.
    pub fn set(mut self, key: &str, value: &str) -> Spec {
        let (section, key) = key.split_once('.').expect("section.key");
        self.sections.entry(section.to_string()).or_default().insert(key.to_string(), value.to_string());
        self
    }

    /// A setting whose value is text.
    pub fn text(self, key: &str, value: &str) -> Spec {
        let quoted = serde_json::to_string(value).expect("text");
        self.set(key, &quoted)
    }

    /// Another state directory.
    pub fn state_dir(mut self, dir: &Path) -> Spec {
        self.state_dir = dir.to_path_buf();
        self.text("worker.state_dir", &dir.display().to_string())
    }

    /// Static membership.
    pub fn instance(self, id: &str) -> Spec {
        self.text("worker.instance_id", id)
    }

    /// The number of loops.
    pub fn threads(self, count: u32) -> Spec {
        self.set("worker.threads", &count.to_string())
    }

    /// The number of loops, each of which is a member of the group.
    #[allow(dead_code, reason = "only the fault tests do")]
    pub fn loops(&self) -> usize {
        self.sections["worker"]["threads"].parse().expect("a number")
    }

    /// One more argument of `run`.
    pub fn argument(mut self, argument: &str) -> Spec {
        self.arguments.push(argument.to_string());
        self
    }

    /// Started by this command, which must become the program that its further arguments name (`exec`): signals go there.
    #[allow(dead_code, reason = "only the fault tests do")]
    pub fn under(mut self, command: &[&str]) -> Spec {
        self.prefix = command.iter().map(|word| word.to_string()).collect();
        self
    }

    /// Writes the configuration file.
    fn write(&self) -> PathBuf {
        let config = self.dir.join(format!("{}.toml", self.name));
        // Renamed into place: a worker that is just starting must never read half of it.
        let temporary = self.dir.join(format!("{}.toml.new", self.name));
        fs::write(&temporary, self.toml()).expect("the configuration is written");
        fs::rename(&temporary, &config).expect("the configuration is in its place");
        config
    }

    /// A command of the program with this configuration: `words` are the command, then its arguments.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(words).arg("--config").arg(self.write()).stdin(Stdio::null()).env("NO_COLOR", "1");
        command
    }

    /// Runs such a command to its end.
    pub fn tool(&self, words: &[&str]) -> Ran {
        let output = self.command(words).output().expect("the program starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Starts it; its output goes on in the same file after a restart.
    pub fn start(&self) -> Worker {
        let config = self.write();
        let log = self.dir.join(format!("{}.log", self.name));
        let file = File::options().create(true).append(true).open(&log).expect("a log file");
        let log_from = file.metadata().expect("a log file").len() as usize;
        let program = program().into_os_string();
        let mut words = self.prefix.iter().map(OsString::from).chain([program]);
        let child = Command::new(words.next().expect("at least the program"))
            .args(words)
            .arg("run")
            .arg("--config")
            .arg(&config)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle"))
            .stderr(file)
            .env("RUST_BACKTRACE", "1")
            .spawn()
            .expect("the worker starts");
        let guard = Guard::start("kill -9 \"$0\"", &child.id().to_string()).expect("a shell");
        Worker { child, log, log_from, guard: Some(guard), name: self.name.clone() }
    }

    fn toml(&self) -> String {
        let mut text = String::new();
        for (section, settings) in &self.sections {
            text.push_str(&format!("[{section}]\n"));
            for (key, value) in settings {
                text.push_str(&format!("{key} = {value}\n"));
            }
        }
        text
    }
}

/// How a command of the program ended.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; `None` for a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ran {
    /// Its output as JSON; it must have ended with this exit code.
    pub fn json(&self, code: i32) -> serde_json::Value {
        assert_eq!(self.code, Some(code), "{self:?}");
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// It must refuse before it has begun: this exit code, one line, each of `words` in it.
    pub fn refused(&self, code: i32, words: &[&str]) {
        assert_eq!(self.err.trim_end().lines().count(), 1, "one line: {self:?}");
        self.failed(code, words);
    }

    /// It must fail with this exit code, each of `words` in its last line.
    pub fn failed(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        let last = self.err.trim_end().lines().last().unwrap_or_default();
        words.iter().for_each(|word| assert!(last.contains(word), "{word:?} in {self:?}"));
    }
}

/// INV-10: nothing that looks like an IBAN stands in a log, at any level.
fn assert_names_no_account(name: &str, log: &str) {
    let is_iban = |word: &&str| {
        let bytes = word.as_bytes();
        bytes.len() >= 15
            && bytes[..2].iter().all(u8::is_ascii_uppercase)
            && bytes[2..4].iter().all(u8::is_ascii_digit)
            && bytes.iter().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
    };
    let found = log.split(|c: char| !c.is_ascii_alphanumeric()).find(is_iban);
    assert_eq!(found, None, "the log of worker {name} names an account");
}

/// A started worker; dropping it kills it.
pub struct Worker {
    child: Child,
    log: PathBuf,
    log_from: usize,
    guard: Option<Guard>,
    name: String,
}

impl Worker {
    /// What this start has printed so far.
    pub fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes[self.log_from.min(bytes.len())..]).into_owned()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether the log holds the text, in any case.
    pub fn said(&self, text: &str) -> bool {
        self.log().to_lowercase().contains(&text.to_lowercase())
    }

    /// Waits until the log holds the text.
    pub fn wait_said(&mut self, text: &str, seconds: u64) {
        wait_until(&format!("{} says \"{text}\"", self.name), seconds, || {
            let said = self.said(text);
            assert!(said || self.exited().is_none(), "{} ended without saying \"{text}\"", self.name);
            said
        });
    }

    /// Its exit status once it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the state of a child")
    }

    /// Panics when it has ended.
    pub fn assert_running(&mut self) {
        if let Some(status) = self.exited() {
            panic!("{} ended by itself: {status}; it said:\n{}", self.name, self.log());
        }
    }

    /// Waits for its end and returns the exit code; `None` for a signal.
    pub fn wait_exit(&mut self, seconds: u64) -> Option<i32> {
        let mut status = None;
        wait_until(&format!("{} ends", self.name), seconds, || {
            status = self.exited();
            status.is_some()
        });
        status.and_then(|s| s.code())
    }

    /// It must refuse: exit code 1, and each of `words` in what it said.
    pub fn expect_refusal(&mut self, seconds: u64, words: &[&str]) {
        let code = self.wait_exit(seconds);
        let log = self.log();
        assert_eq!(code, Some(1), "{} must end with exit code 1; it said:\n{log}", self.name);
        for word in words {
            assert!(log.contains(word), "{} must name {word:?}; it said:\n{log}", self.name);
        }
        assert!(!log.contains("panicked at"), "a refusal is not a panic:\n{log}");
    }

    /// SIGTERM; it must end with 0 within the default drain time-out and a little. Returns how long it took.
    pub fn stop(&mut self) -> Duration {
        self.assert_running();
        let start = Instant::now();
        self.terminate();
        let code = self.wait_exit(25);
        assert_eq!(code, Some(0), "{} must end with exit code 0 after SIGTERM; it said:\n{}", self.name, self.log());
        start.elapsed()
    }

    /// SIGTERM, and nothing more.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        self.release_guard();
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }

    /// SIGSTOP.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a signal to a child");
    }

    /// The guard goes first: it knows a process id, which is free for others once the child is waited for.
    fn release_guard(&mut self) {
        drop(self.guard.take());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.release_guard();
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !std::thread::panicking() {
            let all = fs::read(&self.log).unwrap_or_default();
            assert_names_no_account(&self.name, &String::from_utf8_lossy(&all));
        } else {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(40)..];
            eprintln!("--- the last lines of worker {}:\n{}\n---", self.name, tail.join("\n"));
        }
    }
}
