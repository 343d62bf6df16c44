//! Dead letters sent again: the original bytes (or what an operator's command makes of them) with the original's time and
//! partition, each at most once.
//!
//! That one was sent is noted in the transaction that sends it ([`super::ledger`]). A note is kept for
//! `offsets.retention.minutes` of the broker at least, counted from when it was written; a letter that is older than that may
//! have been sent by someone whose note is gone, so it is held back unless an operator insists.

use super::Failed;
use super::ledger::{Page, page_of};
use super::letters::Letter;
use super::lines::card_of;
use super::outgoing::sendable_ms;
use crate::kafka::{ClientSettings, MemoryRecord, Note, Outgoing, Sender, read_notes};
use crate::wire::{REDRIVE_SOURCE, Source, is_kept, partition_of};
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Letters of a transaction, and bytes of their values: it must not outlast its time-out.
const CHUNK: usize = 500;
const CHUNK_BYTES: usize = 8 << 20;
/// How long the operator's command may take for one letter.
const EDIT_TIMEOUT: Duration = Duration::from_secs(60);

/// What became of letters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redriven {
    /// Sent (or, dry, would be).
    pub sent: u64,
    /// Sent before.
    pub before: u64,
    /// Without their value, which was left out for its size: partition and offset.
    pub omitted: Vec<(i32, i64)>,
    /// Older than the notes are kept.
    pub doubtful: Vec<(i32, i64)>,
    /// Whose partition in the topic that they go to cannot be told.
    pub misplaced: Vec<(i32, i64)>,
    /// The operator's command failed: why.
    pub unedited: Vec<(i32, i64, String)>,
}

/// The transactional id of redrives, and the prefix of the groups that their notes stand under.
pub fn redrive_group(settings: &ClientSettings) -> String {
    format!("{}-redrive", settings.group_id)
}

/// A redrive under way.
pub struct Redrive {
    /// How the cluster is reached.
    pub settings: ClientSettings,
    /// The producer to the topic that letters go to; `None` sends nothing.
    pub sender: Option<Sender>,
    /// Prefix of the groups that notes stand under.
    pub group: String,
    /// The dead-letter topic and how many partitions it has.
    pub from: (String, i32),
    /// The number of partitions of the topic that letters go to.
    pub to_partitions: i32,
    /// The operator's command.
    pub edit: Option<String>,
    /// Letters set aside before this are held back.
    pub certain_from_ms: i64,
    /// Whether letters that were sent before are sent again.
    pub again: bool,
    /// Whether cards are where Java clients put their keys: a letter without a key may then be placed by its card.
    pub places_by_key: bool,
    /// What became of them so far.
    pub done: Redriven,
    pages: BTreeMap<i64, Vec<Page>>,
    waiting: Vec<(i64, Outgoing)>,
    waiting_bytes: usize,
    /// Partition and page of those that wait.
    at: (i32, i64),
}

impl Redrive {
    /// A redrive that has done nothing.
    pub fn new(settings: &ClientSettings, sender: Option<Sender>, from: (String, i32), to_partitions: i32) -> Self {
        let group = redrive_group(settings);
        Self {
            settings: settings.clone(),
            sender,
            group,
            from,
            to_partitions,
            edit: None,
            certain_from_ms: i64::MIN,
            again: false,
            places_by_key: true,
            done: Redriven::default(),
            pages: BTreeMap::new(),
            waiting: Vec::new(),
            waiting_bytes: 0,
            at: (0, 0),
        }
    }

    /// Takes a letter; they come partition after partition, in order.
    pub fn take(&mut self, letter: &Letter) -> Result<(), Failed> {
        let at = (letter.partition, page_of(letter.offset));
        if self.at != at || self.waiting.len() >= CHUNK || self.waiting_bytes >= CHUNK_BYTES {
            self.flush()?;
            self.at = at;
        }
        let place = (letter.partition, letter.offset);
        if self.page(at)?.has(letter.offset) && !self.again {
            self.done.before += 1;
        } else if letter.omitted.is_some() {
            self.done.omitted.push(place);
        } else if letter.at_ms < self.certain_from_ms {
            self.done.doubtful.push(place);
        } else {
            match self.mended(letter) {
                Ok(value) => match self.outgoing(letter, value) {
                    Some(out) => {
                        self.waiting_bytes += out.record.value.as_ref().map_or(0, Vec::len);
                        self.waiting.push((letter.offset, out));
                    }
                    None => self.done.misplaced.push(place),
                },
                Err(why) => self.done.unedited.push((letter.partition, letter.offset, why)),
            }
        }
        Ok(())
    }

    /// Sends those that wait.
    pub fn flush(&mut self) -> Result<(), Failed> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let (offsets, records): (Vec<i64>, Vec<Outgoing>) = std::mem::take(&mut self.waiting).into_iter().unzip();
        self.waiting_bytes = 0;
        self.done.sent += records.len() as u64;
        let (partition, number) = self.at;
        let mut page = self.page(self.at)?.clone();
        offsets.iter().for_each(|offset| page.add(*offset));
        let last = offsets.last().map_or(0, |o| o + 1);
        let note = Note { partition, number: last, text: page.text() };
        let group = self.group_of(number);
        if let Some(sender) = &mut self.sender {
            sender.send(&records, &group, &self.from.0, &[note])?;
        }
        if let Some(pages) = self.pages.get_mut(&number) {
            pages[partition as usize] = page;
        }
        Ok(())
    }

    fn group_of(&self, page: i64) -> String {
        format!("{}-{page}", self.group)
    }

    fn page(&mut self, (partition, number): (i32, i64)) -> Result<&Page, Failed> {
        if !self.pages.contains_key(&number) {
            let (topic, partitions) = &self.from;
            let notes = read_notes(&self.settings, &self.group_of(number), topic, *partitions)?;
            let read = |note: Option<String>| note.map_or(Some(Page::default()), |text| Page::parse(&text));
            let pages: Option<Vec<Page>> = notes.into_iter().map(read).collect();
            let unreadable =
                || Failed::Stop(format!("the notes under the group {} are no redrive's", self.group_of(number)));
            self.pages.insert(number, pages.ok_or_else(unreadable)?);
        }
        let page = self.pages.get(&number).and_then(|pages| pages.get(partition as usize));
        page.ok_or_else(|| Failed::Stop(format!("{} has grown while it was read", self.from.0)))
    }

    fn mended(&self, letter: &Letter) -> Result<Option<Vec<u8>>, String> {
        match &self.edit {
            None => Ok(letter.original.value.clone()),
            Some(command) => edited(command, letter).map(Some),
        }
    }

    /// The letter as it is sent: where it came from, under its key. Without a key its partition was chance; a value that names a
    /// card goes where that card's key belongs, `None` where that cannot be told.
    fn outgoing(&self, letter: &Letter, value: Option<Vec<u8>>) -> Option<Outgoing> {
        let (partition, key) = match (&letter.original.key, card_of(value.as_deref())) {
            (None, Some(_)) if !self.places_by_key => return None,
            (None, Some(card)) => {
                let key = card.to_string().into_bytes();
                (partition_of(&key, self.to_partitions), Some(key))
            }
            (_, _) if letter.source_partition >= self.to_partitions => return None,
            (key, _) => (letter.source_partition, key.clone()),
        };
        let mut headers: Vec<_> = letter.original.headers.iter().filter(|(n, _)| is_kept(n)).cloned().collect();
        let mut source = Vec::new();
        Source { topic: &self.from.0, partition: letter.partition, offset: letter.offset }.write(&mut source);
        headers.push((REDRIVE_SOURCE.to_owned(), Some(source)));
        let record = MemoryRecord {
            key,
            value,
            headers,
            // A record without a time counts as of when it was decided, which is when it was set aside.
            timestamp_ms: Some(sendable_ms(letter.timestamp_ms.unwrap_or(letter.at_ms))),
        };
        Some(Outgoing { partition, record })
    }
}

/// What the operator's command makes of a letter's value: on its standard input the value, on its output the mended one.
fn edited(command: &str, letter: &Letter) -> Result<Vec<u8>, String> {
    let mut child = Command::new("sh")
        .args(["-c", command])
        .env("DLQ_REASON", &letter.reason)
        .env("DLQ_PARTITION", letter.partition.to_string())
        .env("DLQ_OFFSET", letter.offset.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("the command cannot be started: {e}"))?;
    let value = letter.original.value.clone().unwrap_or_default();
    let (input, output) = (child.stdin.take(), child.stdout.take());
    // A command that reads nothing closes the pipe: no matter. It must not wait for us while we wait for it.
    std::thread::spawn(move || input.map(|mut input| input.write_all(&value)));
    let (done, all) = crossbeam_channel::bounded(1);
    std::thread::spawn(move || {
        let mut value = Vec::new();
        let read = output.map_or(Ok(0), |mut output| output.read_to_end(&mut value));
        // Nobody listens once the time is over.
        let _ = done.send(read.map(|_| value));
    });
    let deadline = Instant::now() + EDIT_TIMEOUT;
    let late = || format!("the command took longer than {} s", EDIT_TIMEOUT.as_secs());
    // Its output ends when it does, and whatever it has started.
    let value = all.recv_deadline(deadline);
    let status = loop {
        match child.try_wait().map_err(|e| e.to_string())? {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                // An error here is seen by the wait.
                let _ = child.kill();
                let _ = child.wait();
                return Err(late());
            }
            None => std::thread::park_timeout(Duration::from_millis(2)),
        }
    };
    let value = value.map_err(|_| late())?.map_err(|e| e.to_string())?;
    match (status.success(), value.is_empty()) {
        (false, _) => Err(format!("the command ended with {status}")),
        (true, true) => Err("the command gave nothing".into()),
        (true, false) => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(value: &[u8]) -> Letter {
        Letter {
            partition: 1,
            offset: 2,
            at_ms: 3,
            reason: "malformed_json".into(),
            message: String::new(),
            topic: "in".into(),
            source_partition: 4,
            source_offset: 5,
            timestamp_ms: Some(6),
            omitted: None,
            original: MemoryRecord { value: Some(value.to_vec()), ..MemoryRecord::default() },
        }
    }

    #[test]
    fn the_operators_command_mends_a_value_or_says_that_it_could_not() {
        let letter = letter(b"{\"a\":1");
        assert_eq!(edited("cat; printf '}'", &letter).unwrap(), b"{\"a\":1}");
        assert_eq!(edited("echo $DLQ_REASON/$DLQ_PARTITION/$DLQ_OFFSET", &letter).unwrap(), b"malformed_json/1/2\n");
        assert!(edited("cat; exit 3", &letter).unwrap_err().contains("exit status: 3"));
        assert!(edited("true", &letter).unwrap_err().contains("nothing"));
        let large = vec![b'x'; 1 << 20];
        assert_eq!(edited("cat", &super::tests::letter(&large)).unwrap().len(), large.len());
    }
}
