//! Owns the one real Kafka of a test run: finds it (an address given, Docker, Java with Maven, in this order) and ends it with the run.

use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use testcontainers::core::{IntoContainerPort, WaitFor};
use testcontainers::runners::SyncRunner;
use testcontainers::{Container, GenericImage, ImageExt};

use super::client;
use super::java;

/// The release that the Docker and the Java way run.
pub const KAFKA_VERSION: &str = "4.3.1";

/// What both own ways set; everything else is Kafka's default.
pub const BROKER_SETTINGS: &[(&str, &str)] = &[
    ("node.id", "1"),
    ("process.roles", "broker,controller"),
    ("controller.listener.names", "CONTROLLER"),
    ("listener.security.protocol.map", "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT"),
    ("auto.create.topics.enable", "false"),
    ("offsets.topic.replication.factor", "1"),
    ("offsets.topic.num.partitions", "4"),
    ("transaction.state.log.replication.factor", "1"),
    ("transaction.state.log.min.isr", "1"),
    ("transaction.state.log.num.partitions", "4"),
    ("group.initial.rebalance.delay.ms", "0"),
    ("log.cleaner.dedupe.buffer.size", "33554432"),
];

/// A running broker; dropping it ends what this run started, and nothing else.
pub struct Broker {
    /// Where clients connect.
    pub bootstrap: String,
    /// Which of the three ways it came by.
    pub how: &'static str,
    /// The release, where it is known.
    pub version: &'static str,
    _owned: Owned,
}

enum Owned {
    Nothing,
    Docker { _container: Box<Container<GenericImage>>, _guard: Option<Guard> },
    Java { _server: java::Server },
}

impl Broker {
    /// The first of the three ways that works, or why none did.
    pub fn find() -> Result<Broker, String> {
        if let Some(bootstrap) = given() {
            wait_reachable(&bootstrap, || None).map_err(|e| format!("KAFKA_BOOTSTRAP_SERVERS={bootstrap}: {e}"))?;
            return Ok(Broker { bootstrap, how: "given", version: "(version unknown)", _owned: Owned::Nothing });
        }
        let docker = match start_docker() {
            Ok(broker) => return Ok(broker),
            Err(e) => e,
        };
        match java::Server::start(&[]) {
            Ok(server) => Ok(Broker {
                bootstrap: server.bootstrap.clone(),
                how: "java",
                version: KAFKA_VERSION,
                _owned: Owned::Java { _server: server },
            }),
            Err(java) => Err(format!("KAFKA_BOOTSTRAP_SERVERS is not set; Docker: {docker}; Java: {java}")),
        }
    }
}

fn given() -> Option<String> {
    std::env::var("KAFKA_BOOTSTRAP_SERVERS").ok().filter(|s| !s.trim().is_empty())
}

fn start_docker() -> Result<Broker, String> {
    docker_answers()?;
    let port = free_port()?;
    let mut image = GenericImage::new("apache/kafka", KAFKA_VERSION)
        .with_wait_for(WaitFor::message_on_stdout("Kafka Server started"))
        .with_mapped_port(port, 9092.tcp())
        .with_startup_timeout(Duration::from_secs(180))
        .with_env_var("KAFKA_LISTENERS", "PLAINTEXT://0.0.0.0:9092,CONTROLLER://localhost:9093")
        .with_env_var("KAFKA_ADVERTISED_LISTENERS", format!("PLAINTEXT://127.0.0.1:{port}"))
        .with_env_var("KAFKA_CONTROLLER_QUORUM_VOTERS", "1@localhost:9093");
    for (key, value) in BROKER_SETTINGS {
        image = image.with_env_var(format!("KAFKA_{}", key.to_uppercase().replace('.', "_")), *value);
    }
    let container = image.start().map_err(|e| e.to_string())?;
    let guard = Guard::start("docker rm -f \"$0\" >/dev/null 2>&1", container.id()).ok();
    let bootstrap = format!("127.0.0.1:{port}");
    wait_reachable(&bootstrap, || None)?;
    Ok(Broker {
        bootstrap,
        how: "docker",
        version: KAFKA_VERSION,
        _owned: Owned::Docker { _container: Box::new(container), _guard: guard },
    })
}

/// A quick look before testcontainers is asked, which would take its time to say the same.
fn docker_answers() -> Result<(), String> {
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    if host.is_empty() && !Path::new("/var/run/docker.sock").exists() {
        return Err("no DOCKER_HOST and no /var/run/docker.sock".into());
    }
    if let Some(path) = host.strip_prefix("unix://") {
        std::os::unix::net::UnixStream::connect(path).map_err(|e| format!("{host}: {e}"))?;
    } else if host.is_empty() {
        std::os::unix::net::UnixStream::connect("/var/run/docker.sock").map_err(|e| format!("docker.sock: {e}"))?;
    }
    Ok(())
}

/// Starts what listens on free ports; where one was taken meanwhile it is tried again, three times in all.
pub fn on_free_ports<T>(start: impl Fn() -> Result<T, String>) -> Result<T, String> {
    start().or_else(|_| start()).or_else(|_| start())
}

/// A loopback port that was free a moment ago.
pub fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    listener.local_addr().map(|a| a.port()).map_err(|e| e.to_string())
}

/// Waits until the broker answers a metadata request; `ended` says when waiting is pointless.
pub fn wait_reachable(bootstrap: &str, mut ended: impl FnMut() -> Option<String>) -> Result<(), String> {
    let consumer: BaseConsumer = client::config(bootstrap).create().map_err(|e| e.to_string())?;
    let deadline = std::time::Instant::now() + Duration::from_secs(90);
    loop {
        match consumer.fetch_metadata(None, Duration::from_secs(2)) {
            Ok(m) if !m.brokers().is_empty() => return Ok(()),
            Ok(_) | Err(_) if std::time::Instant::now() < deadline => {}
            Ok(_) => return Err("no broker in its metadata".into()),
            Err(e) => return Err(e.to_string()),
        }
        if let Some(why) = ended() {
            return Err(why);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A small shell that runs `command` (its `$0` is `argument`) when this process is gone, however it ended: it waits for the end of
/// its input, which this process holds. Let go by `Drop`, it runs nothing.
pub struct Guard(Child);

impl Guard {
    /// Starts the guard in a process group of its own, out of reach of a Ctrl-C that ends this process.
    pub fn start(command: &str, argument: &str) -> std::io::Result<Guard> {
        use std::os::unix::process::CommandExt;
        let script = format!("read line; [ \"$line\" = done ] || {{ {command}; }}");
        let child = Command::new("sh")
            .args(["-c", &script, argument])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Guard(child))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(stdin) = self.0.stdin.as_mut() {
            let _ = stdin.write_all(b"done\n");
        }
        let _ = self.0.wait();
    }
}
