//! Owns what all tests of this command share: the seed, and one broker with a listener behind each proxy, one with users and
//! rights, and two with TLS.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::proxy::Proxy;
use crate::support::Ctx;
use crate::support::broker::{free_port, on_free_ports};
use crate::support::java::{SMALL, Server};
use crate::table::Table;
use crate::tls;

/// How many tests may take a proxy.
const PROXIES: usize = 8;

/// The name and password that the listener `USERS` knows.
pub const USER: (&str, &str) = ("worker", "worker-secret");

/// The shared broker and what the tests have found.
pub struct Rig {
    /// The address that goes to the broker directly.
    pub ctx: Ctx,
    /// SASL PLAIN without TLS, under the authorizer.
    pub users: String,
    /// SASL PLAIN over TLS.
    pub secure: String,
    /// The same with a certificate that has expired.
    pub expired: String,
    /// Whom to trust for those two.
    pub ca: PathBuf,
    /// What the tests have measured.
    pub table: Table,
    /// Where random numbers start.
    pub seed: u64,
    /// How many times the usual number of rounds.
    pub rounds: usize,
    proxies: Mutex<Vec<Proxy>>,
    _folder: tempfile::TempDir,
    _server: Server,
}

impl Rig {
    /// Starts the broker and its proxies; a port that was taken meanwhile is tried again.
    pub fn start(seed: u64, rounds: usize) -> Result<Rig, String> {
        on_free_ports(|| Self::start_once(seed, rounds))
    }

    fn start_once(seed: u64, rounds: usize) -> Result<Rig, String> {
        let folder = tempfile::Builder::new().prefix("card-update-tls-").tempdir().map_err(|e| e.to_string())?;
        let (valid, expired) = tls::certificates(folder.path())?;
        let mut listeners = Listeners::default();
        let direct = listeners.add("PLAINTEXT", "PLAINTEXT")?;
        listeners.add("CONTROLLER", "PLAINTEXT")?;
        let users = listeners.add("USERS", "SASL_PLAINTEXT")?;
        let secure = listeners.add("SECURE", "SASL_SSL")?;
        let old = listeners.add("EXPIRED", "SASL_SSL")?;
        let proxies = (0..PROXIES).map(|n| listeners.add_behind_proxy(n)).collect::<Result<Vec<_>, _>>()?;
        let mut settings = listeners.settings();
        settings.extend(security(&valid, &expired));
        let settings: Vec<_> = settings.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let server = Server::launch(&direct, &settings, SMALL)?;
        server.wait()?;
        Ok(Rig {
            ctx: Ctx { bootstrap: direct },
            users,
            secure,
            expired: old,
            ca: tls::ca(folder.path()),
            table: Table::default(),
            seed,
            rounds,
            proxies: Mutex::new(proxies),
            _folder: folder,
            _server: server,
        })
    }

    /// A proxy that nobody else uses.
    pub fn proxy(&self) -> Proxy {
        self.proxies.lock().unwrap().pop().expect("as many proxies as tests that want one")
    }
}

/// Users, rights and certificates. Without SASL one is `ANONYMOUS`, who may do everything: the tests themselves and the broker.
fn security(valid: &Path, expired: &Path) -> Vec<(String, String)> {
    let (name, password) = USER;
    let module = "org.apache.kafka.common.security.plain.PlainLoginModule required";
    let mut settings = vec![
        ("authorizer.class.name".into(), "org.apache.kafka.metadata.authorizer.StandardAuthorizer".into()),
        ("super.users".into(), "User:ANONYMOUS".into()),
    ];
    for listener in ["users", "secure", "expired"] {
        let mut set = |key: &str, value: String| settings.push((format!("listener.name.{listener}.{key}"), value));
        set("sasl.enabled.mechanisms", "PLAIN".into());
        set("plain.sasl.jaas.config", format!("{module} user_{name}=\"{password}\";"));
    }
    for (listener, file) in [("secure", valid), ("expired", expired)] {
        settings.push((format!("listener.name.{listener}.ssl.keystore.type"), "PEM".into()));
        settings.push((format!("listener.name.{listener}.ssl.keystore.location"), file.display().to_string()));
    }
    settings
}

/// Listeners of a node in the making.
#[derive(Default)]
pub struct Listeners {
    bound: Vec<String>,
    advertised: Vec<String>,
    protocols: Vec<String>,
}

impl Listeners {
    /// On a free port, which is where clients go.
    pub fn add(&mut self, name: &str, protocol: &str) -> Result<String, String> {
        let address = format!("127.0.0.1:{}", free_port()?);
        self.push(name, protocol, &address, &address);
        Ok(address)
    }

    /// Clients are told to go to a proxy.
    fn add_behind_proxy(&mut self, number: usize) -> Result<Proxy, String> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let proxy = Proxy::start(&address).map_err(|e| e.to_string())?;
        self.push(&format!("PROXY{number}"), "PLAINTEXT", &address, &proxy.address);
        Ok(proxy)
    }

    fn push(&mut self, name: &str, protocol: &str, bound: &str, advertised: &str) {
        self.bound.push(format!("{name}://{bound}"));
        if name != "CONTROLLER" {
            self.advertised.push(format!("{name}://{advertised}"));
        }
        self.protocols.push(format!("{name}:{protocol}"));
    }

    /// As properties, for a node that is its own quorum.
    fn settings(&self) -> Vec<(String, String)> {
        let controller = self.bound.iter().find_map(|l| l.strip_prefix("CONTROLLER://")).unwrap_or_default();
        vec![
            ("listeners".into(), self.bound.join(",")),
            ("advertised.listeners".into(), self.advertised.join(",")),
            ("listener.security.protocol.map".into(), self.protocols.join(",")),
            ("controller.quorum.voters".into(), format!("1@{controller}")),
        ]
    }
}
