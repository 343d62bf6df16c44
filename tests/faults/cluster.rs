//! Owns clusters of three small nodes that tests may kill one by one.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::support::broker::{free_port, on_free_ports};
use crate::support::java::{SMALL, Server};
use crate::support::{Site, client, wait_until};

const NODES: usize = 3;

/// Nodes that are brokers and the quorum; everything is on as many of them as Kafka's durability asks for.
pub struct Cluster {
    /// All of them.
    pub bootstrap: String,
    /// Node `n` has the id `n + 1`.
    pub nodes: Vec<Server>,
    view: BaseConsumer,
}

impl Cluster {
    /// Starts them and waits for them; a port that was taken meanwhile is tried again.
    pub fn start() -> Result<Cluster, String> {
        on_free_ports(Self::start_once)
    }

    fn start_once() -> Result<Cluster, String> {
        let ports = (0..NODES).map(|_| Ok((free_port()?, free_port()?))).collect::<Result<Vec<_>, String>>()?;
        let voters: Vec<_> = ports.iter().zip(1..).map(|((_, port), id)| format!("{id}@127.0.0.1:{port}")).collect();
        let nodes = (0..NODES).map(|n| node(n + 1, ports[n], &voters.join(","))).collect::<Result<Vec<_>, _>>()?;
        nodes.iter().try_for_each(Server::wait)?;
        let bootstrap = nodes.iter().map(|n| n.bootstrap.as_str()).collect::<Vec<_>>().join(",");
        let view: BaseConsumer = client::config(&bootstrap).create().map_err(|e| e.to_string())?;
        wait_until("all nodes are brokers", 60, || {
            view.fetch_metadata(None, Duration::from_secs(5)).is_ok_and(|m| m.brokers().len() == NODES)
        });
        Ok(Cluster { bootstrap, nodes, view })
    }

    /// Waits until each node knows the site's topics: a worker asks any of them.
    pub fn wait_known(&self, site: &Site) {
        for node in &self.nodes {
            wait_until("each node knows the topics", 60, || {
                // A client asks the address that it was given first, and all the others later.
                let fresh: BaseConsumer = client::config(&node.bootstrap).create().expect("a client");
                site.topics.all().iter().all(|name| {
                    let metadata = fresh.fetch_metadata(Some(name), Duration::from_secs(5));
                    metadata.is_ok_and(|m| m.topics().iter().all(|t| t.partitions().len() == site.partitions as usize))
                })
            });
        }
    }

    /// Waits until every replica of the site's topics, and of the coordinators' own, has everything.
    pub fn wait_in_sync(&self, site: &Site) {
        wait_until("all replicas are in sync", 90, || {
            let Ok(metadata) = self.view.fetch_metadata(None, Duration::from_secs(5)) else { return false };
            let ours = |name: &str| site.topics.all().contains(&name) || name.starts_with("__");
            let topics = metadata.topics().iter().filter(|t| ours(t.name()));
            topics.flat_map(|t| t.partitions()).all(|p| p.leader() >= 0 && p.isr().len() == p.replicas().len())
        });
    }

    /// How many partitions of the site's topics and the coordinators' own a node leads.
    pub fn leads(&self, site: &Site, node: usize) -> usize {
        let id = node as i32 + 1;
        let metadata = self.view.fetch_metadata(None, Duration::from_secs(5)).expect("metadata");
        let ours = |name: &str| site.topics.all().contains(&name) || name.starts_with("__");
        let topics = metadata.topics().iter().filter(|t| ours(t.name()));
        topics.flat_map(|t| t.partitions()).filter(|p| p.leader() == id).count()
    }
}

fn node(id: usize, (port, controller): (u16, u16), voters: &str) -> Result<Server, String> {
    let (id, address) = (id.to_string(), format!("127.0.0.1:{port}"));
    let listeners = format!("PLAINTEXT://{address},CONTROLLER://127.0.0.1:{controller}");
    let advertised = format!("PLAINTEXT://{address}");
    let settings = [
        ("node.id", id.as_str()),
        ("listeners", &listeners),
        ("advertised.listeners", &advertised),
        ("controller.quorum.voters", voters),
        ("default.replication.factor", "3"),
        ("min.insync.replicas", "2"),
        ("offsets.topic.replication.factor", "3"),
        ("transaction.state.log.replication.factor", "3"),
        ("transaction.state.log.min.isr", "2"),
    ];
    Server::launch(&address, &settings, SMALL)
}
