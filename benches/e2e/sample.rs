//! A sample of what a worker has written, for a floor that writes the same.

use crate::support::Site;
use crate::support::client::Reader;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// Values kept of each topic: enough that no compressor sees one twice within a batch.
const KEPT: usize = 20_000;

#[derive(Serialize, Deserialize)]
pub struct Sample {
    pub completions: Vec<String>,
    /// Empty when the worker wrote none.
    pub cards: Vec<String>,
    pub cards_per_command: f64,
}

impl Sample {
    /// Takes it from a site's topics after `count` commands, evenly spread over all that was written.
    pub fn take(site: &Site, count: u64) -> PathBuf {
        let (completions, _) = values(site, &site.topics.completions, count);
        let (cards, written) = values(site, &site.topics.cards, count);
        let sample = Self { completions, cards, cards_per_command: written as f64 / count as f64 };
        let path = site.path("sample");
        fs::write(&path, serde_json::to_vec(&sample).unwrap()).unwrap();
        path
    }

    pub fn read(path: &Path) -> Self {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    /// The value of the completion of the command with this number.
    pub fn completion(&self, number: usize) -> &[u8] {
        self.completions[number % self.completions.len()].as_bytes()
    }

    /// The card record that goes with it, if one does.
    pub fn card(&self, number: usize) -> Option<&[u8]> {
        let before = |n: usize| (n as f64 * self.cards_per_command) as usize;
        let (index, next) = (before(number), before(number + 1));
        (next > index).then(|| self.cards[index % self.cards.len()].as_bytes())
    }
}

fn values(site: &Site, topic: &str, count: u64) -> (Vec<String>, u64) {
    let (mut kept, mut seen) = (Vec::new(), 0);
    let step = (count / KEPT as u64).max(1);
    Reader::new(&site.bootstrap, topic, site.partitions).each_to_end(|record| {
        if let Some(value) = record.value.filter(|_| seen % step == 0) {
            kept.push(String::from_utf8(value).unwrap());
        }
        seen += 1;
    });
    (kept, seen)
}
