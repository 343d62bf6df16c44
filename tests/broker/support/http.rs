//! Owns plain HTTP requests to a worker, and the values of its metrics.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// What a worker answered.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub code: u16,
    /// The body.
    pub body: String,
}

/// `GET path`; `None` when nobody listens.
pub fn get(port: u16, path: &str) -> Option<Answer> {
    get_with(port, path, "")
}

/// The same with header lines, each ended by CR LF.
pub fn get_with(port: u16, path: &str, headers: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n").ok()?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text).ok()?;
    let text = String::from_utf8(text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let code = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { code, body: body.to_string() })
}

/// The status code of `GET path`.
pub fn code(port: u16, path: &str) -> Option<u16> {
    get(port, path).map(|a| a.code)
}

/// The value of a series, written as it is exposed: `name{label="value"}`.
pub fn metric(port: u16, series: &str) -> Option<f64> {
    let text = get(port, "/metrics")?.body;
    let line = text.lines().find(|l| l.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')))?;
    line.rsplit(' ').next()?.parse().ok()
}
