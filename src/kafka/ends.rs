//! Ends of changelogs on request, answered beside the loops: a checkpoint round never makes a batch wait for the broker.

use super::offsets::{OFFSETS_TIMEOUT, bounds};
use super::settings::{Quiet, watched};
use super::{ClientSettings, Fault, LogEnds, Slot};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use rdkafka::consumer::BaseConsumer;
use std::sync::Arc;

type Answer = (i32, Option<LogEnds>);
type Request = (i32, Sender<Answer>);

/// Requests that may wait: one a partition at most, and a partition without a place asks again.
const QUEUE: usize = 1024;

/// One loop's line to the thread that asks.
pub struct Ends {
    requests: Sender<Request>,
    answers: (Sender<Answer>, Receiver<Answer>),
}

impl Clone for Ends {
    /// A line of its own for another loop.
    fn clone(&self) -> Self {
        Self { requests: self.requests.clone(), answers: unbounded() }
    }
}

impl Ends {
    /// Starts the thread; it ends with the last line to it.
    pub fn start(settings: &ClientSettings, slot: Slot) -> Result<Self, Fault> {
        let client: BaseConsumer<Quiet> =
            settings.uncommitted().create_with_context(Quiet).map_err(|e| super::error::fault("the client", &e))?;
        let (requests, queue) = bounded::<Request>(QUEUE);
        let topics = Arc::new([settings.topics.cards.clone(), settings.topics.completions.clone()]);
        std::thread::Builder::new()
            .name("log-ends".into())
            .spawn(move || {
                for (partition, reply) in queue {
                    let end = |topic: &str| {
                        let ask = || bounds(&client, topic, partition);
                        watched(&slot, "offsets::bounds", OFFSETS_TIMEOUT, ask).ok().map(|(_, end)| end)
                    };
                    let ends = end(&topics[0]).zip(end(&topics[1]));
                    let ends = ends.map(|(cards, completions)| LogEnds { cards, completions });
                    // A loop that has ended needs no answer.
                    let _ = reply.send((partition, ends));
                }
            })
            .map_err(|e| Fault::Fatal(e.to_string()))?;
        Ok(Self { requests, answers: unbounded() })
    }

    /// Asks for a partition's ends.
    pub fn request(&self, partition: i32) {
        if self.requests.try_send((partition, self.answers.0.clone())).is_err() {
            // The caller sees that the broker did not say, and asks again.
            let _ = self.answers.0.send((partition, None));
        }
    }

    /// The answers that have come.
    pub fn answers(&self) -> Vec<Answer> {
        self.answers.1.try_iter().collect()
    }
}
