//! Promise: a disk that is full, read-only or away costs a longer restart and no answer; too few files are no riddle.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::drive::{Drive, last_words};
use crate::rig::Rig;
use crate::support::broker::free_port;
use crate::support::worker::Spec;
use crate::support::{Site, http, wait_until};
use crate::table::{Recovery, Row};

/// How mounts are made that only the worker sees and that go with it; `Err` where this user cannot.
pub fn mounts() -> Result<&'static str, String> {
    let tries = |flags: &&str| {
        let tried = Command::new("unshare").args([flags, "sh", "-c", "mount -t tmpfs tmpfs /mnt"]).output();
        tried.is_ok_and(|output| output.status.success())
    };
    ["-m", "-rm"].into_iter().find(tries).ok_or_else(|| "this user cannot mount, not even in a namespace".into())
}

/// With `mount`, a script that finds the state directory in `$0`, before it starts.
fn mounted(spec: Spec, mount: &str) -> Spec {
    fs::create_dir_all(&spec.state_dir).expect("a place to mount at");
    let flags = mounts().expect("looked for before");
    let place = spec.state_dir.display().to_string();
    let script = format!("{mount} && exec \"$@\"");
    spec.under(&["unshare", flags, "sh", "-c", &script, &place])
}

/// Writes checkpoints all the time, and tells how it is.
fn writer(site: &Site, port: u16) -> Spec {
    site.spec("w")
        .text("http.listen", &format!("127.0.0.1:{port}"))
        .instance(&site.group)
        .set("checkpoint.max_tail_records", "500")
        .text("checkpoint.interval", "1s")
}

/// Waits until the worker says in log and checks that it goes on from memory, and is ready all the same.
fn wait_from_memory(drive: &mut Drive, port: u16) {
    drive.crew[0].worker.wait_said("goes on from memory", 60);
    wait_until("the checks say it, and it is ready", 60, || {
        drive.tend();
        let answer = http::get(port, "/readyz?verbose");
        answer.is_some_and(|a| a.code == 200 && a.body.contains("goes on from memory"))
    });
}

/// The disk is there again; the worker is stopped in order and started, and has its answers and its state.
fn mended(mut drive: Drive, spec: Spec) -> (Vec<Recovery>, Vec<String>) {
    drive.crew[0].worker.stop();
    drive.crew[0].spec = spec;
    drive.crew[0].start_again();
    drive.flow(300);
    drive.finish()
}

/// A small file system is filled under a worker that runs.
pub fn a_full_disk_stops_no_answer_and_is_said(rig: &Rig) {
    let port = free_port().expect("a port");
    let mut drive = Drive::start(rig, "full", 2, |site| {
        vec![mounted(writer(site, port), "mount -t tmpfs -o size=16m tmpfs \"$0\"")]
    });
    let seen = seen_by(&drive);
    fill(&seen.join("filler"));
    wait_from_memory(&mut drive, port);
    drive.measure(Instant::now());
    drive.flow(1500);
    let spec = writer(&drive.site, port).state_dir(&drive.site.path("other.state"));
    let (recoveries, ends) = mended(drive, spec);
    assert_eq!(ends, [""; 0], "nothing ended it");
    let row = Row {
        fault: "the disk is full",
        reaction: "goes on from memory and says so (log, `/readyz?verbose`)",
        from: "the command, on a full disk",
        recoveries,
        restarts: 0,
    };
    rig.table.add("disk 1", row);
}

/// The state directory as the worker sees it, behind its own mounts.
fn seen_by(drive: &Drive) -> PathBuf {
    let root = format!("/proc/{}/root", drive.crew[0].worker.pid());
    Path::new(&root).join(drive.crew[0].spec.state_dir.strip_prefix("/").expect("an absolute path"))
}

fn fill(path: &Path) {
    let mut file = fs::File::create(path).expect("a file beside the state");
    let chunk = [1; 4096];
    while file.write_all(&chunk).is_ok() {}
    assert!(fs::metadata(path).expect("the file").len() > 0, "there was room to take");
}

/// A state that was good is read-only at the next start.
pub fn a_read_only_state_directory_stops_no_answer_and_is_said(rig: &Rig) {
    let read_only = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\"";
    let change = |spec: Spec| mounted(spec, read_only);
    let row = from_memory_after(rig, "read-only", change);
    rig.table.add("disk 2", Row { fault: "the state directory is read-only at a start", ..row });
}

/// Not a matter of modes, which do not bind root: a path below what is no directory.
pub fn an_unusable_state_directory_stops_no_answer_and_is_said(rig: &Rig) {
    let change = |spec: Spec| {
        let file = spec.state_dir.with_extension("file");
        fs::write(&file, "no directory").expect("a file");
        spec.state_dir(&file.join("state"))
    };
    let row = from_memory_after(rig, "unusable", change);
    rig.table.add("disk 3", Row { fault: "the state directory cannot be made at a start", ..row });
}

/// A worker is stopped, started on a changed disk, and in the end on the good one again.
fn from_memory_after(rig: &Rig, name: &str, change: impl Fn(Spec) -> Spec) -> Row {
    let port = free_port().expect("a port");
    let mut drive = Drive::start(rig, name, 2, |site| vec![writer(site, port)]);
    drive.crew[0].worker.stop();
    let good = drive.crew[0].spec.clone();
    drive.crew[0].spec = change(good.clone());
    let moment = Instant::now();
    drive.crew[0].start_again();
    drive.measure(moment);
    wait_from_memory(&mut drive, port);
    drive.flow(1500);
    let (recoveries, ends) = mended(drive, good);
    assert_eq!(ends, [""; 0], "nothing ended it");
    let reaction = "restores from Kafka, goes on from memory and says so (log, `/readyz?verbose`)";
    Row { fault: "", reaction, from: "the start", recoveries, restarts: 0 }
}

/// With as few as it asks for it works; with fewer it says so at once.
pub fn too_few_files_are_refused_by_name_and_the_fewest_suffice(rig: &Rig) {
    let limited =
        |site: &Site, files: &str| site.spec(files).under(&["sh", "-c", "ulimit -n \"$0\" && exec \"$@\"", files]);
    let site = Site::new(&rig.ctx, "files", 1);
    for files in ["127", "64", "12"] {
        let start = Instant::now();
        let mut worker = limited(&site, files).start();
        wait_until("it ends by itself", 10, || worker.exited().is_some());
        let line = last_words(&mut worker);
        assert!(line.contains(files) && line.contains("ulimit -n"), "{line}");
        assert!(start.elapsed().as_secs() < 10, "at once");
    }
    let mut drive = Drive::start(rig, "fewest", 2, |site| vec![limited(site, "128")]);
    drive.flow(1000);
    let (_, ends) = drive.finish();
    assert_eq!(ends, [""; 0], "nothing ended it");
}
