//! Promise: the state directory is a cache: whole, gone, cut short or damaged, answers are the same; and a clean stop makes it whole.

use std::fs::{self, File};
use std::path::Path;

use crate::support::compare::Check;
use crate::support::generate::{Generator, Random};
use crate::support::model::Command;
use crate::support::{Ctx, Load, Site, files_below, wait_until};

/// Runs the worker, hurts its state with `hurt` (told the round), and asks about everything old and something new.
fn damage_rounds(ctx: &Ctx, name: &str, rounds: usize, hurt: impl Fn(&Path, usize)) {
    let site = Site::new(ctx, name, 2);
    let mut generator = Generator::new(400, 2, 150);
    let spec = site.spec("w").instance(name).set("checkpoint.max_tail_records", "1000");
    let mut log = site.send(generator.take(5000));
    let mut worker = spec.start();
    site.wait_processed(&mut [&mut worker], 60);
    worker.stop();
    Check::new(&site, &log).state(&spec.state_dir).run();
    for round in 0..rounds {
        hurt(&spec.state_dir, round);
        log.extend(site.send(questions(&mut generator)));
        let mut worker = spec.start();
        site.wait_processed(&mut [&mut worker], 90);
        worker.stop();
        Check::new(&site, &log).state(&spec.state_dir).run();
    }
}

/// Duplicates and conflicts of old ids, and a mix.
fn questions(generator: &mut Generator) -> Vec<Command> {
    let mut commands = Vec::new();
    for n in 0..300 {
        commands.push(generator.duplicate(n % 2));
        commands.push(generator.conflict(n % 2));
    }
    commands.extend(generator.take(600));
    commands
}

/// Nothing happened to it.
pub fn an_intact_state_directory_is_used(ctx: &Ctx) {
    damage_rounds(ctx, "intact", 2, |_, _| {});
}

/// It is gone.
pub fn a_deleted_state_directory_is_restored_from_the_topics(ctx: &Ctx) {
    damage_rounds(ctx, "deleted", 2, |dir, _| fs::remove_dir_all(dir).expect("deleted"));
}

/// INV-2: files are cut short: all to the half, one by one, to nothing.
pub fn inv_2_a_truncated_state_directory_gives_no_wrong_answer(ctx: &Ctx) {
    damage_rounds(ctx, "truncated", 4, |dir, round| {
        let files = data_files(dir);
        for (n, file) in files.iter().enumerate() {
            let length = fs::metadata(file).expect("a file").len();
            let wanted = match round {
                0 => length / 2,
                1 => length - length.min(10),
                2 if n == files.len() - 1 => 0,
                3 if n == 0 => length * 9 / 10,
                _ => length,
            };
            File::options().write(true).open(file).expect("a file").set_len(wanted).expect("cut");
        }
    });
}

/// INV-2: single bits are flipped, few and many, where something is written.
pub fn inv_2_a_bit_flipped_state_directory_gives_no_wrong_answer(ctx: &Ctx) {
    damage_rounds(ctx, "flipped", 6, |dir, round| {
        let mut random = Random(401 + round as u64);
        let flips = [1, 3, 20, 200, 1, 2000][round];
        for file in data_files(dir) {
            flip_bits(&file, flips, &mut random);
        }
    });
}

/// Files with data; an empty lock or a file that only holds an id is not what is meant.
fn data_files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files = files_below(dir);
    files.retain(|f| fs::metadata(f).is_ok_and(|m| m.len() > 64));
    assert!(!files.is_empty(), "there is something to damage in {}", dir.display());
    files
}

fn flip_bits(file: &Path, flips: usize, random: &mut Random) {
    let mut bytes = fs::read(file).expect("a file");
    for _ in 0..flips {
        // Files may be allocated ahead; a flip in the unused part proves nothing.
        let written = (0..1000).map(|_| random.below(bytes.len())).find(|at| bytes[*at] != 0);
        if let Some(at) = written {
            bytes[at] ^= 1 << random.below(8);
        }
    }
    fs::write(file, bytes).expect("written back");
}

/// SIGTERM under load: exit 0 in time, the commit says exactly what was answered, and the next start reads the checkpoint.
pub fn sigterm_leaves_nothing_uncommitted_and_the_next_start_is_quick(ctx: &Ctx) {
    let site = Site::new(ctx, "sigterm", 4);
    let load = Load::start(&site, Generator::new(402, 4, 200), 1500);
    let spec = site.spec("w").threads(2);
    let mut worker = spec.start();
    wait_until("3000 commands are processed", 90, || {
        worker.assert_running();
        site.committed().iter().sum::<i64>() >= 3000
    });
    let took = worker.stop();
    assert!(took.as_secs() < 20, "it took {took:?}");
    let (_, log) = load.stop();
    let committed = site.committed();
    let answered: Vec<Command> = log.iter().filter(|c| c.offset < committed[c.partition as usize]).cloned().collect();
    assert!(answered.len() < log.len(), "it was stopped under load");
    Check::new(&site, &answered).state(&spec.state_dir).run();
    let mut worker = spec.start();
    worker.wait_said("checkpoint", 30);
    site.wait_processed(&mut [&mut worker], 60);
    assert!(!worker.said("full restore"), "a clean stop needs no rebuild:\n{}", worker.log());
    worker.stop();
    Check::new(&site, &log).state(&spec.state_dir).run();
}

/// The same within an idle worker, which has nothing to finish.
pub fn an_idle_worker_ends_at_once(ctx: &Ctx) {
    let site = Site::new(ctx, "idle", 2);
    let mut worker = site.spec("w").start();
    site.wait_members(1, 60);
    let took = worker.stop();
    assert!(took.as_secs() < 10, "it took {took:?}");
}
