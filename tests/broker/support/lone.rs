//! Owns brokers that are alone and may be killed, each with a controller process of its own.
//!
//! A node that is both takes itself for the leader of its partitions when it is back, until it is registered anew; what its transaction
//! coordinator does meanwhile is undone: Kafka 4.3.1 takes partitions without a leader for deleted ones and leaves a transaction's markers
//! out for good. With a controller that has already fenced the killed broker there is no such moment.

use super::broker::{free_port, on_free_ports};
use super::java::{MEMORY, SMALL, Server};
use super::wait_until;

/// What the controller logs when a broker's session is over.
const FENCED: &str = "Fencing broker 1 ";

/// How long that may take, seconds; the session is Kafka's default of 9 s.
const FENCED_WITHIN: u64 = 60;

/// One broker, and the controller that outlives it.
pub struct LoneBroker {
    /// Where clients connect.
    pub bootstrap: String,
    broker: Server,
    controller: Server,
}

impl LoneBroker {
    /// Starts both; a port that was taken meanwhile is tried again.
    pub fn start() -> Result<LoneBroker, String> {
        on_free_ports(Self::start_once)
    }

    fn start_once() -> Result<LoneBroker, String> {
        let bootstrap = format!("127.0.0.1:{}", free_port()?);
        let quorum = format!("127.0.0.1:{}", free_port()?);
        let (clients, controllers) = (format!("PLAINTEXT://{bootstrap}"), format!("CONTROLLER://{quorum}"));
        let voters = format!("2@{quorum}");
        let of_controller = [
            ("node.id", "2"),
            ("process.roles", "controller"),
            ("listeners", &*controllers),
            ("controller.quorum.voters", &*voters),
        ];
        let of_broker = [
            ("process.roles", "broker"),
            ("listeners", &*clients),
            ("advertised.listeners", &*clients),
            ("controller.quorum.voters", &*voters),
        ];
        let controller = Server::launch(&quorum, &of_controller, SMALL)?;
        let broker = Server::launch(&bootstrap, &of_broker, MEMORY)?;
        broker.wait()?;
        Ok(LoneBroker { bootstrap, broker, controller })
    }

    /// SIGKILL, and a start on the same data and port as soon as the controller has fenced it.
    pub fn restart(&mut self) {
        let before = self.controller.logged(FENCED);
        self.broker.kill();
        wait_until("the killed broker is fenced", FENCED_WITHIN, || self.controller.logged(FENCED) > before);
        self.broker.start_again();
    }
}
