//! The routes and their bounds, over real connections.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use std::io::{Read as _, Write as _};
use std::net::TcpStream as Plain;

fn shown() -> Shown {
    Shown {
        metrics: Arc::new(Metrics::new().unwrap()),
        status: Arc::new(Status::default()),
        writer: Arc::default(),
        figures: Figures::default(),
        watchdog: Watchdog::default(),
        questions: Some(Vec::new()),
        token: None,
        started: Instant::now(),
    }
}

fn start(shown: Shown) -> SocketAddr {
    serve("127.0.0.1:0".parse().unwrap(), shown).unwrap()
}

fn send(address: SocketAddr, request: &str) -> String {
    let mut stream = Plain::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    // A server that closes with unread input resets the connection after its answer.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(address: SocketAddr, path: &str, headers: &str) -> String {
    send(address, &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n"))
}

#[test]
fn unknown_paths_methods_and_ids_get_problem_documents() {
    let address = start(shown());
    for (request, status) in [
        ("GET /nothing HTTP/1.1", "404"),
        ("POST /metrics HTTP/1.1", "405"),
        ("DELETE / HTTP/1.1", "405"),
        ("GET /v1/cards/ES7921000813610123456789 HTTP/1.1", "400"),
        ("GET /v1/requests/nothing HTTP/1.1", "400"),
    ] {
        let answer = send(address, &format!("{request}\r\nhost: x\r\nconnection: close\r\n\r\n"));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
        assert!(
            answer.contains("application/problem+json") && answer.contains(&format!("\"status\":{status}")),
            "{answer}"
        );
        assert!(!answer.contains("2100081361"), "what was sent is repeated: {answer}");
        assert!(status != "405" || answer.to_lowercase().contains("\r\nallow: "), "{answer}");
    }
}

#[test]
fn the_read_api_wants_its_token_where_there_is_one() {
    let address = start(Shown { token: Some("s3cret".into()), ..shown() });
    let path = "/v1/cards/019ab688-bef2-72c4-6a29-d0e08be76d95";
    for wrong in ["", "authorization: Bearer wrong\r\n", "authorization: Basic s3cret\r\n", "authorization: Bearer\r\n"]
    {
        let answer = get(address, path, wrong);
        assert!(answer.starts_with("HTTP/1.1 401") && answer.to_lowercase().contains("www-authenticate"), "{answer}");
    }
    assert!(get(address, path, "authorization: bearer s3cret\r\n").starts_with("HTTP/1.1 404"));
    assert!(get(address, "/metrics", "").starts_with("HTTP/1.1 200"), "metrics want none");
    let off = start(Shown { questions: None, ..shown() });
    assert!(get(off, path, "").contains("http.read_api"));
}

#[test]
fn a_loop_that_does_not_answer_is_said_to_be_busy() {
    let (ask, _nobody) = crossbeam_channel::bounded(1);
    let address = start(Shown { questions: Some(vec![ask]), ..shown() });
    let path = "/v1/requests/019ab688-bef2-72c4-6a29-d0e08be76d95";
    let first = std::thread::spawn(move || get(address, path, ""));
    while !get(address, path, "").contains("too many questions") {}
    assert!(first.join().unwrap().starts_with("HTTP/1.1 503"));
}

#[test]
fn inv_9_large_heads_and_slow_clients_are_cut() {
    let address = start(shown());
    let huge = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(4 * MAX_HEAD));
    let answer = send(address, &huge);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    let began = Instant::now();
    let mut slow: Vec<Plain> = (0..MAX_CONNECTIONS).map(|_| Plain::connect(address).unwrap()).collect();
    slow.iter_mut().for_each(|s| s.write_all(b"GET / HT").unwrap());
    // All places are taken; the slow ones are cut, and the next one is served.
    assert!(get(address, "/livez", "").starts_with("HTTP/1.1 200"));
    let waited = began.elapsed();
    assert!(waited < HEAD_TIMEOUT + Duration::from_secs(5), "{waited:?}");
    assert!(waited > Duration::from_secs(1), "more connections than {MAX_CONNECTIONS} are served: {waited:?}");
}

#[test]
fn probes_say_what_is_wrong() {
    let parts = shown();
    let (status, watchdog) = (parts.status.clone(), parts.watchdog.clone());
    let address = start(parts);
    assert!(get(address, "/livez", "").starts_with("HTTP/1.1 200"));
    assert!(get(address, "/readyz", "").starts_with("HTTP/1.1 503"));
    assert!(get(address, "/readyz?verbose", "").contains("[-] broker: not heard yet"));
    status.heard(Shown::now_ms());
    status.assigned();
    assert!(get(address, "/readyz", "").starts_with("HTTP/1.1 200"));
    let slot = watchdog.loop_slot("loop-7");
    let _guard = slot.enter("poll", Duration::ZERO);
    watchdog.hurry(Duration::from_secs(60));
    let answer = get(address, "/livez", "");
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("loop-7 is stuck"), "{answer}");
}
