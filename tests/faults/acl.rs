//! Owns the rights of users on a broker with an authorizer: what the worker's user may do, as deploy/kubernetes/strimzi/user.yaml
//! lists it, with or without one right. Spoken to the broker by hand, as the client's binding has no call for it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::rig::USER;
use crate::support::Site;

/// Kafka's number of the request, and the oldest version that brokers still take.
const CREATE_ACLS: (i16, i16) = (30, 1);

/// Numbers of resource types.
const TOPIC: i8 = 2;
const GROUP: i8 = 3;
const TRANSACTIONAL_ID: i8 = 5;

/// Numbers of pattern types.
const LITERAL: i8 = 3;
const PREFIXED: i8 = 4;

/// What a right allows to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// To consume, or to be in a group.
    Read = 3,
    /// To produce.
    Write = 4,
    /// To know of.
    Describe = 8,
    /// To know the settings of.
    DescribeConfigs = 10,
}

use Operation::{Describe, DescribeConfigs, Read as ToRead, Write as ToWrite};

struct Right<'a>(i8, &'a str, i8, Operation);

/// Gives the worker's user all that it needs on a site but for one operation on one topic.
pub fn grant(site: &Site, but: Option<(&str, Operation)>) {
    let topics = &site.topics;
    let (inputs, outputs) = ([&topics.commands, &topics.backfill], site.topics.all());
    let mut rights = Vec::new();
    for topic in outputs {
        let is_input = inputs.iter().any(|input| *input == topic);
        let all = [ToRead, Describe, DescribeConfigs].into_iter().chain((!is_input).then_some(ToWrite));
        rights.extend(all.filter(|o| but != Some((topic, *o))).map(|o| Right(TOPIC, topic, LITERAL, o)));
    }
    rights.extend([ToRead, Describe].map(|o| Right(GROUP, &site.group, LITERAL, o)));
    let prefix = format!("{}-", site.group);
    rights.extend([ToWrite, Describe].map(|o| Right(TRANSACTIONAL_ID, &prefix, PREFIXED, o)));
    create(&site.bootstrap, &rights).expect("the rights are given");
}

fn create(broker: &str, rights: &[Right<'_>]) -> std::io::Result<()> {
    let answer = ask(broker, &request(rights))?;
    // Correlation id, throttle time, count; then a code and a message for each.
    let mut at = 12;
    for _ in rights {
        let code = i16::from_be_bytes([answer[at], answer[at + 1]]);
        assert_eq!(code, 0, "a right is given: {}", String::from_utf8_lossy(&answer[at..]));
        let length = i16::from_be_bytes([answer[at + 2], answer[at + 3]]);
        at += 4 + usize::try_from(length).unwrap_or(0);
    }
    Ok(())
}

fn request(rights: &[Right<'_>]) -> Vec<u8> {
    let (key, version) = CREATE_ACLS;
    let mut bytes = [key.to_be_bytes(), version.to_be_bytes()].concat();
    bytes.extend(1_i32.to_be_bytes());
    text(&mut bytes, "tests");
    bytes.extend((rights.len() as i32).to_be_bytes());
    for Right(resource, name, pattern, operation) in rights {
        bytes.push(*resource as u8);
        text(&mut bytes, name);
        bytes.push(*pattern as u8);
        text(&mut bytes, &format!("User:{}", USER.0));
        text(&mut bytes, "*");
        // 3: to allow.
        bytes.extend([*operation as u8, 3]);
    }
    bytes
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as i16).to_be_bytes());
    bytes.extend(text.as_bytes());
}

fn ask(broker: &str, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(broker)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(&(request.len() as i32).to_be_bytes())?;
    stream.write_all(request)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; i32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}
