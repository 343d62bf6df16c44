//! Owns the programs that the tests start and the folder that they write to: nothing is left of them, however the tests end.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Starts a program, tells its process id, and ends its group at the end of the input, which comes when the test process ends.
const SCRIPT: &str = r#""$@" >"$0" 2>&1 & echo $!; exec >&-; read -r word; kill -KILL 0"#;

/// A program and all that it started, in a process group of their own.
pub struct Program {
    shell: Child,
    pid: Pid,
    log: PathBuf,
}

impl Program {
    /// Starts it; what it prints, and what it leaves in its temporary directory, goes to the folder.
    pub fn start(folder: &Path, command: &Path, arguments: &[&str]) -> Program {
        let name = command.file_name().expect("a program").to_string_lossy();
        let log = folder.join(format!("{name}.log"));
        File::create(&log).expect("a log file");
        let mut shell = Command::new("sh")
            .args(["-c", SCRIPT])
            .args([log.as_path(), command])
            .args(arguments)
            .env("TMPDIR", folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("a shell");
        let mut line = String::new();
        let said = shell.stdout.take().map(|out| BufReader::new(out).read_line(&mut line));
        said.expect("an output").expect("a process id");
        let pid = line.trim().parse().ok().and_then(Pid::from_raw).expect("a process id");
        Program { shell, pid, log }
    }

    /// SIGTERM to the program alone.
    pub fn terminate(&self) {
        kill_process(self.pid, Signal::TERM).expect("a signal to the program");
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// Removes a folder at the end of the input, when those that write there are ended: their last moment may be a little later.
const REMOVE: &str = r#"read -r word; for n in 1 2 3 4 5 6 7 8 9; do rm -rf "$0" && break; sleep 0.2; done"#;

/// A temporary folder.
pub struct Folder {
    path: PathBuf,
    shell: Child,
}

impl Folder {
    /// Makes one.
    pub fn new() -> std::io::Result<Folder> {
        let path = tempfile::Builder::new().prefix("card-update-page-").tempdir()?.keep();
        let mut shell = Command::new("sh");
        shell.args(["-c", REMOVE]).arg(&path).stdin(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        Ok(Folder { path, shell: shell.spawn()? })
    }

    /// A new folder in it.
    pub fn another(&self, name: &str) -> PathBuf {
        let made = tempfile::Builder::new().prefix(name).tempdir_in(&self.path);
        made.expect("a folder").keep()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// The first of these programs on the search path.
pub fn find(names: &[&str]) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let mut places = names.iter().flat_map(|name| folders.iter().map(move |f| f.join(name)));
    places.find(|p| p.is_file()).ok_or(format!("no {} on the search path", names.join(" or ")))
}

/// Looks again and again until there is something; panics, naming it, when there is not in time.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match look() {
            Some(found) => return found,
            None => assert!(Instant::now() < deadline, "not within a minute: {what}"),
        }
        std::thread::sleep(Duration::from_millis(30));
    }
}
