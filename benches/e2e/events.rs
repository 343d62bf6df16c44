//! What the others feel: a second process joins, ends and is killed, while commands come at a steady pace. Answers are told apart by
//! their partition: those that the first process kept, and those that moved.

use crate::latency::{Answered, Latency, answers};
use crate::load;
use crate::support::broker::free_port;
use crate::support::http::get;
use crate::support::worker::Worker;
use crate::support::{Ctx, Site, wait_until};
use crate::workload::{Cards, USUAL, Workload};
use std::thread;
use std::time::{Duration, Instant};

const PARTITIONS: i32 = 8;
/// As many cards as commands are sent at first, or fewer: a restore that takes a moment.
const CARDS: u64 = 1_000_000;
/// How long nothing happens before each event, and after the last.
const QUIET: Duration = Duration::from_secs(10);
/// For how long all of it goes on: six quiet times and the events, of which the last has a session in it.
const TOTAL: Duration = Duration::from_secs(100);

/// An event, from its beginning until all partitions ran again.
struct Event {
    about: &'static str,
    from: Instant,
    settled: Instant,
    /// The partitions that the first process had before and after it.
    kept: Vec<i32>,
}

/// Sends `count` commands, lets a process take them in, and then plays the events at `rate` commands a second.
pub fn run(ctx: &Ctx, count: u64, rate: u64) {
    let workload = Workload { cards: Cards::Uniform(CARDS), ..USUAL };
    let site = Site::new(ctx, "events", PARTITIONS);
    load::send(&site, &workload, count);
    let (mut first, port) = start(&site, "first");
    site.wait_processed(&mut [&mut first], 600);
    let started = Instant::now();
    let (events, answered) = thread::scope(|scope| {
        let load = scope.spawn(|| answers(&site, &workload, count, rate, rate * TOTAL.as_secs()));
        let events = play(&site, port, started);
        (events, load.join().unwrap())
    });
    report(&events, &answered, rate);
}

fn start(site: &Site, name: &str) -> (Worker, u16) {
    let port = free_port().unwrap();
    let spec = site.spec(name).text("log.level", "info").text("http.listen", &format!("127.0.0.1:{port}"));
    (spec.start(), port)
}

fn play(site: &Site, first: u16, started: Instant) -> Vec<Event> {
    let event = |about, act: &mut dyn FnMut() -> Vec<u16>| {
        // A time without events is what is wanted, and has no end to wait for.
        thread::sleep(QUIET);
        let (from, before) = (Instant::now(), running(first));
        let living = act();
        wait_until(&format!("all partitions run: {about}"), 60, || {
            let each: Vec<usize> = living.iter().map(|port| running(*port).len()).collect();
            each.iter().all(|n| *n > 0) && each.iter().sum::<usize>() == PARTITIONS as usize
        });
        let kept = running(first).into_iter().filter(|p| before.contains(p)).collect();
        Event { about, from, settled: Instant::now(), kept }
    };
    let mut second = None;
    let join = |second: &mut Option<Worker>| {
        let (worker, port) = start(site, "second");
        *second = Some(worker);
        vec![first, port]
    };
    let nothing = event("nothing", &mut || vec![first]);
    // The time before it, without a warm-up.
    let mut events = vec![Event { from: nothing.from - QUIET / 5 * 4, ..nothing }];
    events.push(event("a second process joins, its disk empty", &mut || join(&mut second)));
    events.push(event("it gets SIGTERM", &mut || {
        second.as_mut().unwrap().stop();
        vec![first]
    }));
    events.push(event("it comes again, with its disk", &mut || join(&mut second)));
    events.push(event("it gets SIGKILL (dynamic member, session 10 s)", &mut || {
        second.as_mut().unwrap().kill();
        vec![first]
    }));
    thread::sleep(QUIET);
    assert!(started.elapsed() < TOTAL, "the load goes on until the events are over");
    events
}

/// The partitions that a process answers.
fn running(port: u16) -> Vec<i32> {
    let Some(answer) = get(port, "/v1/partitions") else { return Vec::new() };
    let status: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    let partitions = status["partitions"].as_array().unwrap().iter();
    partitions.filter(|p| p["state"] == "running").map(|p| p["partition"].as_i64().unwrap() as i32).collect()
}

fn report(events: &[Event], answered: &[Answered], rate: u64) {
    println!(
        "\n{rate} commands a second; milliseconds of the commands that were due from the event on until all partitions ran again\n"
    );
    println!("| event | took, s | kept partitions: p50 | p99 | max | moved ones: p50 | p99 | max |");
    println!("|---|---|---|---|---|---|---|---|");
    for event in events {
        let within = |a: &&Answered| a.due >= event.from && a.due <= event.settled;
        let of = |kept: bool| {
            let those = answered.iter().filter(within).filter(|a| event.kept.contains(&a.partition) == kept);
            Latency::of(those).map_or("– | – | –".to_owned(), |l| {
                format!("{:.1} | {:.1} | {:.1}", l.p50_ms, l.p99_ms, l.max_ms)
            })
        };
        let took = (event.settled - event.from).as_secs_f64();
        println!("| {} | {took:.1} | {} | {} |", event.about, of(true), of(false));
    }
}
