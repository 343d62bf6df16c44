//! A dry run: decides backfilled commands as the loop would, with the same stager and the same pure `decide`, against a state of
//! its own in memory. It must never write anything anywhere.

use super::Stop;
use super::rules::Rules;
use super::stage::Stager;
use super::tally::Tally;
use crate::domain::{CardId, StoredAccount};
use crate::kafka::{Committed, Input, Record};
use crate::projection::Projection;
use hashbrown::HashMap;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A card that the commands would change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedCard {
    /// The card.
    pub card_id: CardId,
    /// Its partition.
    pub partition: i32,
    /// Its accounts before.
    pub before: Vec<StoredAccount>,
    /// Its accounts after.
    pub after: Vec<StoredAccount>,
}

/// A dry run under way.
pub struct Rehearsal {
    stager: Stager,
    rules: Arc<Rules>,
    partitions: BTreeMap<i32, Projection>,
    tally: Tally,
    /// The accounts, before the first change, of cards that were changed; `None` when nobody asks.
    before: Option<BTreeMap<(i32, CardId), Vec<StoredAccount>>>,
}

impl Rehearsal {
    /// Begins with these states; `remember_changes` keeps what each changed card was before.
    pub fn new(rules: Arc<Rules>, partitions: BTreeMap<i32, Projection>, remember_changes: bool) -> Self {
        let before = remember_changes.then(BTreeMap::new);
        Self { stager: Stager::new(rules.clone()), rules, partitions, tally: Tally::default(), before }
    }

    /// Decides commands, in order, as if the loop read them from the backfill topic at `now_ms`.
    pub fn decide(&mut self, records: Vec<Record>, now_ms: i64) -> Result<(), Stop> {
        let mut waiting: Vec<(Input, Record)> = records.into_iter().map(|r| (Input::Backfill, r)).collect();
        let (refused, most) = (HashMap::new(), self.rules.batch_max_records);
        while !waiting.is_empty() {
            let partitions = &self.partitions;
            let staged = self.stager.stage(&waiting, |p| partitions.get(&p), (&refused, most), now_ms);
            let staged = staged.map_err(|(partition, error)| Stop(format!("partition {partition}: {error}")))?;
            if let Some(before) = &mut self.before {
                remember(before, partitions, staged.changed_cards());
            }
            // Nothing is written, so everything "commits".
            let committed = staged.committed(Committed::proven(Duration::ZERO));
            committed.apply_to(&mut self.partitions.iter_mut().map(|(p, projection)| (*p, projection)).collect());
            self.tally.add(committed.tally());
            let mut index = 0;
            waiting.retain(|_| {
                index += 1;
                !committed.took(index - 1)
            });
        }
        Ok(())
    }

    /// What became of the commands so far.
    pub const fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The cards that were changed, where that was asked for.
    pub fn changed(&self) -> impl Iterator<Item = ChangedCard> {
        self.before.iter().flatten().map(|((partition, card_id), before)| {
            let mut after = Vec::new();
            if let Some(projection) = self.partitions.get(partition) {
                projection.card(card_id, &mut after);
            }
            ChangedCard { card_id: *card_id, partition: *partition, before: before.clone(), after }
        })
    }
}

fn remember<'c>(
    before: &mut BTreeMap<(i32, CardId), Vec<StoredAccount>>,
    partitions: &BTreeMap<i32, Projection>,
    changed: impl Iterator<Item = (i32, &'c CardId)>,
) {
    for (partition, card_id) in changed {
        before.entry((partition, *card_id)).or_insert_with(|| {
            let mut accounts = Vec::new();
            if let Some(projection) = partitions.get(&partition) {
                projection.card(card_id, &mut accounts);
            }
            accounts
        });
    }
}
