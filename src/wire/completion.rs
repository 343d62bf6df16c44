//! Completions: the answer as it stands in Kafka, and what a restore reads back of it.

use super::bytes;
use super::headers::{SOURCE, Source, names};
use super::json::push_string;
use super::{OutTopic, Outbox};
use crate::domain::{Answer, CardId, Dt, Fingerprint, Remembered, RequestId, UtcOffset};
use serde::Deserialize;

/// The body of a success, by far the most frequent one, with places for the ids and the time: it is appended at once.
const SUCCESS: &[u8; 176] = br#"{"request_id":"00000000-0000-0000-0000-000000000000","card_id":"00000000-0000-0000-0000-000000000000","status":"ok","request_status":"success","dt":"0000-00-00T00:00:00+00:00"}"#;
const SUCCESS_REQUEST_ID: usize = 15;
const SUCCESS_CARD_ID: usize = 64;
const SUCCESS_DT: usize = 149;

/// Appends the completion's body. A pure function of the answer: a replay is byte for byte the first one.
pub fn encode_completion(answer: &Answer, out: &mut Vec<u8>) {
    match (answer.card_id, answer.result) {
        (Some(card_id), Ok(_)) => encode_success(answer, &card_id, out),
        _ => encode_any(answer, out),
    }
}

fn encode_success(answer: &Answer, card_id: &CardId, out: &mut Vec<u8>) {
    let mut text = [0; 36];
    let mut body = *SUCCESS;
    body[SUCCESS_REQUEST_ID..][..36].copy_from_slice(answer.request_id.encode(&mut text).as_bytes());
    body[SUCCESS_CARD_ID..][..36].copy_from_slice(card_id.encode(&mut text).as_bytes());
    body[SUCCESS_DT..][..Dt::TEXT].copy_from_slice(&answer.dt.text());
    out.extend_from_slice(&body);
}

fn encode_any(answer: &Answer, out: &mut Vec<u8>) {
    let mut text = [0; 36];
    out.extend_from_slice(br#"{"request_id":""#);
    out.extend_from_slice(answer.request_id.encode(&mut text).as_bytes());
    if let Some(card_id) = answer.card_id {
        out.extend_from_slice(br#"","card_id":""#);
        out.extend_from_slice(card_id.encode(&mut text).as_bytes());
    }
    out.extend_from_slice(match answer.result {
        Ok(_) => br#"","status":"ok","request_status":"success","dt":""#.as_slice(),
        Err(_) => br#"","status":"error","request_status":"error","dt":""#.as_slice(),
    });
    out.extend_from_slice(&answer.dt.text());
    out.push(b'"');
    if let Err(rejection) = answer.result {
        out.extend_from_slice(br#","error":{"code":"#);
        push_string(out, rejection.code.name().as_bytes());
        out.extend_from_slice(br#","message":"#);
        push_string(out, rejection.code.message().as_bytes());
        out.extend_from_slice(br#","path":"#);
        push_string(out, rejection.path.to_string().as_bytes());
        out.push(b'}');
    }
    out.push(b'}');
}

/// Adds the completion with its key and headers to the outbox; the caller passes further headers on, then ends the record.
pub fn completion(
    answer: &Answer,
    source: &Source<'_>,
    key: Option<&[u8]>,
    decided_at_ms: i64,
    input: usize,
    out: &mut Outbox,
) {
    out.begin(OutTopic::Completions, source.partition, decided_at_ms, input);
    out.key(key);
    out.header_with(SOURCE, |v| source.write(v));
    if let Ok(fingerprint) = answer.result {
        out.header(names::REQUEST_FINGERPRINT, Some(&fingerprint.text()));
    }
    if answer.replayed {
        out.header(names::IDEMPOTENT_REPLAYED, Some(b"true"));
    }
    out.value_with(|v| encode_completion(answer, v));
}

/// An `ok` completion that is not a replay: what the dedup memory is folded from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstCompletion {
    /// The command's id.
    pub request_id: RequestId,
    /// What is remembered of it.
    pub remembered: Remembered,
}

/// A record of the completions topic that this worker cannot have written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a completion: {0}")]
pub struct CompletionError(&'static str);

#[derive(Deserialize)]
struct Body<'a> {
    request_id: &'a str,
    dt: &'a str,
}

/// Reads a completion for the fold: `None` for what is not remembered (errors and replays).
pub fn decode_first_completion<'h>(
    headers: impl Iterator<Item = (&'h str, Option<&'h [u8]>)>,
    value: Option<&[u8]>,
    timestamp_ms: i64,
) -> Result<Option<FirstCompletion>, CompletionError> {
    let (mut fingerprint, mut replayed) = (None, false);
    for (name, value) in headers {
        match name {
            names::REQUEST_FINGERPRINT => fingerprint = value,
            names::IDEMPOTENT_REPLAYED => replayed = true,
            _ => {}
        }
    }
    let Some(fingerprint) = fingerprint.filter(|_| !replayed) else { return Ok(None) };
    let fingerprint = Fingerprint::parse(fingerprint).ok_or(CompletionError("its fingerprint is not readable"))?;
    let timed = |(request_id, offset)| FirstCompletion {
        request_id,
        remembered: Remembered { fingerprint, dt: Dt { at_ms: timestamp_ms, offset } },
    };
    if let Some(found) = read_success(value.unwrap_or_default()) {
        return Ok(Some(timed(found)));
    }
    let body: Body<'_> = serde_json::from_slice(value.unwrap_or_default())
        .map_err(|_| CompletionError("its body is not the JSON object of a completion"))?;
    let request_id = RequestId::parse(body.request_id).ok_or(CompletionError("its request_id is not readable"))?;
    let offset = Dt::offset_of(body.dt).ok_or(CompletionError("its dt is not readable"))?;
    Ok(Some(timed((request_id, offset))))
}

/// Reads a body that [`encode_success`] wrote, to the letter; `None` for anything else.
fn read_success(body: &[u8]) -> Option<(RequestId, UtcOffset)> {
    let places = [(SUCCESS_REQUEST_ID, 36), (SUCCESS_CARD_ID, 36), (SUCCESS_DT, Dt::TEXT)];
    let mut at = 0;
    for (place, len) in places.into_iter().chain([(SUCCESS.len(), 0)]) {
        if body.get(at..place)? != &SUCCESS[at..place] {
            return None;
        }
        at = place + len;
    }
    let [request_id, card_id, dt] = places.map(|(place, len)| std::str::from_utf8(body.get(place..place + len)?).ok());
    let dt = dt.filter(|dt| bytes::are_plain(dt.as_bytes()) && bytes::position(dt.as_bytes(), b'"').is_none());
    CardId::parse(card_id?)?;
    (body.len() == SUCCESS.len()).then_some((RequestId::parse(request_id?)?, Dt::offset_of(dt?)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ErrorCode, Path, Rejection};

    const ID: &str = "019ab688-bef2-72c4-6a29-d0e08be76d95";

    fn answer(result: Result<Fingerprint, Rejection>) -> Answer {
        let dt = Dt { at_ms: 1_735_687_861_000, offset: UtcOffset::parse(b"+00:30").unwrap() };
        Answer { request_id: RequestId::parse(ID).unwrap(), card_id: CardId::parse(ID), dt, result, replayed: false }
    }

    fn text(answer: &Answer) -> String {
        let mut out = Vec::new();
        encode_completion(answer, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn bodies_are_the_contracts() {
        let ok = answer(Ok(Fingerprint(7)));
        let mut any = Vec::new();
        encode_any(&ok, &mut any);
        assert_eq!(text(&ok).into_bytes(), any, "both ways to write a success write the same");
        assert_eq!(
            text(&ok),
            format!(
                r#"{{"request_id":"{ID}","card_id":"{ID}","status":"ok","request_status":"success","dt":"2025-01-01T00:01:01+00:30"}}"#
            )
        );
        let path = Path::AccountField(0, "iban");
        let mut error = answer(Err(Rejection { code: ErrorCode::InvalidIban, path }));
        error.card_id = None;
        assert_eq!(
            text(&error),
            format!(
                r#"{{"request_id":"{ID}","status":"error","request_status":"error","dt":"2025-01-01T00:01:01+00:30","error":{{"code":"invalid_iban","message":"the account number is not valid for its type","path":"/accounts/0/iban"}}}}"#
            )
        );
    }

    fn folded(answer: &Answer) -> Option<FirstCompletion> {
        let mut out = Outbox::default();
        completion(answer, &Source { topic: "t", partition: 1, offset: 2 }, None, answer.dt.at_ms, 0, &mut out);
        out.end();
        let record = out.get(0);
        let headers = record.headers().map(|(n, v)| (std::str::from_utf8(n).unwrap(), v));
        decode_first_completion(headers, record.value, record.timestamp_ms).unwrap()
    }

    #[test]
    fn the_fold_reads_back_first_successes_only() {
        let ok = answer(Ok(Fingerprint(7)));
        let read = folded(&ok).unwrap();
        assert_eq!(read.request_id, ok.request_id);
        assert_eq!(read.remembered, Remembered { fingerprint: Fingerprint(7), dt: ok.dt });
        assert_eq!(folded(&Answer { replayed: true, ..ok }), None);
        let rejection = Rejection { code: ErrorCode::InvalidIban, path: Path::Root };
        assert_eq!(folded(&answer(Err(rejection))), None);
    }

    #[test]
    fn the_quick_reading_reads_what_is_written_and_nothing_that_the_general_one_reads_otherwise() {
        let ok = answer(Ok(Fingerprint(7)));
        let good = text(&ok);
        assert_eq!(read_success(good.as_bytes()), Some((ok.request_id, ok.dt.offset)));
        let general = |body: &str| {
            let body: Body<'_> = serde_json::from_str(body).ok()?;
            Some((RequestId::parse(body.request_id)?, Dt::offset_of(body.dt)?))
        };
        for at in 0..good.len() {
            for other in ['"', '\\', ',', '\n', 'f', '0', '-', '}'] {
                let mut changed = good.clone();
                changed.replace_range(at..=at, &other.to_string());
                let quick = read_success(changed.as_bytes());
                assert!(quick.is_none() || quick == general(&changed), "{changed}");
            }
            assert_eq!(read_success(&good.as_bytes()[..at]), None);
        }
        assert_eq!(read_success(format!("{good} ").as_bytes()), None);
    }

    #[test]
    fn a_record_that_is_no_completion_is_an_error() {
        let good = Fingerprint(7).text();
        for (fingerprint, body) in
            [(&b"x"[..], "{}"), (&good, "{}"), (&good, ""), (&good, r#"{"request_id":"x","dt":"y"}"#)]
        {
            let headers = [(names::REQUEST_FINGERPRINT, Some(fingerprint))];
            assert!(decode_first_completion(headers.into_iter(), Some(body.as_bytes()), 0).is_err());
        }
    }
}
