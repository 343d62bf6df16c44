//! Owns the Java way to a broker: jars by Maven, storage formatted, KRaft combined mode on free loopback ports.

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::broker::{BROKER_SETTINGS, KAFKA_VERSION, free_port, on_free_ports, wait_reachable};

/// Takes a word per line; at the end of its input, which comes when this process ends in any way, it ends the broker and tidies up.
const SCRIPT: &str = r#"
start() { java $4 $5 -XX:+UseG1GC -cp "$1" kafka.Kafka "$2" >>"$3/log" 2>&1 & pid=$!; }
end() { [ -z "$pid" ] || { kill -9 "$pid"; wait "$pid"; pid=; }; }
start "$@"
while read -r word; do
    case $word in
        kill) end ;;
        start) end; start "$@" ;;
        freeze) kill -STOP $pid ;;
        thaw) kill -CONT $pid ;;
    esac
done
end; rm -rf "$3"
"#;

/// What a node logs: errors, the transactions that it leaves without markers, and the brokers that it fences.
const LOGS: &str = "-Dorg.slf4j.simpleLogger.defaultLogLevel=error \
     -Dorg.slf4j.simpleLogger.log.kafka.coordinator.transaction.TransactionMarkerChannelManager=info \
     -Dorg.slf4j.simpleLogger.log.org.apache.kafka.controller.ReplicationControlManager=info";

/// What a broker of a run may take of memory.
pub const MEMORY: &str = "-Xms512m -Xmx1g";

/// What keeps a node small: several run at once.
pub const SMALL: &str = "-Xms256m -Xmx512m";

/// A broker process under a shell that ends it when this process is gone, however that happened.
pub struct Server {
    /// Where clients connect.
    pub bootstrap: String,
    shell: Child,
    log: PathBuf,
}

impl Server {
    /// Fetches the jars if they are not there yet and starts; a port that was taken meanwhile is tried again; `settings` come on top.
    pub fn start(settings: &[(&str, &str)]) -> Result<Server, String> {
        on_free_ports(|| Self::start_once(settings))
    }

    fn start_once(settings: &[(&str, &str)]) -> Result<Server, String> {
        let (port, controller) = (free_port()?, free_port()?);
        let listeners = format!("PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}");
        let advertised = format!("PLAINTEXT://127.0.0.1:{port}");
        let voters = format!("1@127.0.0.1:{controller}");
        let mut all = vec![
            ("listeners", &*listeners),
            ("advertised.listeners", &advertised),
            ("controller.quorum.voters", &voters),
        ];
        all.extend(settings);
        let server = Self::launch(&format!("127.0.0.1:{port}"), &all, MEMORY)?;
        server.wait()?;
        Ok(server)
    }

    /// Starts a node that `settings`, over `BROKER_SETTINGS`, describe but for its folder, and waits for nothing.
    pub fn launch(bootstrap: &str, settings: &[(&str, &str)], memory: &str) -> Result<Server, String> {
        let classpath = classpath()?;
        let dir = tempfile::Builder::new().prefix("card-update-kafka-").tempdir().map_err(|e| e.to_string())?;
        let properties = dir.path().join("server.properties");
        fs::write(&properties, server_properties(dir.path(), settings)).map_err(|e| e.to_string())?;
        format_storage(&classpath, &properties)?;
        // From here on the shell owns the directory: it outlives a killed test process by the time it takes to tidy up.
        let dir = dir.keep();
        let shell = Command::new("sh")
            .args(["-c", SCRIPT, "sh", &classpath])
            .args([properties.as_path(), dir.as_path()])
            .args([memory, LOGS])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|e| e.to_string())?;
        Ok(Server { bootstrap: bootstrap.to_string(), shell, log: dir.join("log") })
    }

    /// Waits until it answers.
    pub fn wait(&self) -> Result<(), String> {
        wait_reachable(&self.bootstrap, || startup_error(&self.log)).map_err(|e| format!("{e}: {}", tail(&self.log)))
    }
}

/// What tests do to a broker of their own.
impl Server {
    /// How often the node has logged a text.
    pub fn logged(&self, text: &str) -> usize {
        fs::read_to_string(&self.log).unwrap_or_default().matches(text).count()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.tell("kill");
    }

    /// A start on the same data and port.
    pub fn start_again(&mut self) {
        self.tell("start");
    }

    /// SIGSTOP.
    pub fn freeze(&mut self) {
        self.tell("freeze");
    }

    /// SIGCONT.
    pub fn thaw(&mut self) {
        self.tell("thaw");
    }

    fn tell(&mut self, word: &str) {
        let stdin = self.shell.stdin.as_mut().expect("the shell listens");
        writeln!(stdin, "{word}").expect("the shell is there");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

fn server_properties(dir: &Path, settings: &[(&str, &str)]) -> String {
    let mut text = format!("log.dirs={}/data\n", dir.display());
    for (key, value) in BROKER_SETTINGS.iter().chain(settings) {
        text.push_str(&format!("{key}={value}\n"));
    }
    text
}

/// Fetches the jars if they are not there yet.
fn classpath() -> Result<String, String> {
    jars().map(|dir| format!("{}/*", dir.display()))
}

fn format_storage(classpath: &str, properties: &Path) -> Result<(), String> {
    let output = Command::new("java")
        .args(["-Xmx256m", "-cp", classpath, "kafka.tools.StorageTool", "format"])
        .args(["-t", "4L6g3nShT-eMCtK--X86sw", "-c"])
        .arg(properties)
        .output()
        .map_err(|e| format!("java: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("StorageTool format: {}", String::from_utf8_lossy(&output.stderr)))
}

/// The folder of jars, filled by Maven once for a list of them and kept in cargo's target directory.
fn jars() -> Result<PathBuf, String> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kafka-{KAFKA_VERSION}"));
    let complete = dir.join("complete");
    let pom = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kafka-pom/pom.xml");
    let list = fs::read_to_string(&pom).map_err(|e| e.to_string())?;
    if fs::read_to_string(&complete).is_ok_and(|of| of == list) {
        return Ok(dir);
    }
    Command::new("java").arg("-version").output().map_err(|e| format!("java: {e}"))?;
    let output = Command::new("mvn")
        .args(["-q", "-B", "-f"])
        .arg(&pom)
        .arg("dependency:copy-dependencies")
        .arg(format!("-DoutputDirectory={}", dir.display()))
        .output()
        .map_err(|e| format!("mvn: {e}"))?;
    if !output.status.success() {
        return Err(format!("mvn dependency:copy-dependencies: {}", String::from_utf8_lossy(&output.stdout)));
    }
    fs::write(&complete, list).map_err(|e| e.to_string())?;
    Ok(dir)
}

fn startup_error(log: &Path) -> Option<String> {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.contains("Address already in use").then(|| "a port was taken meanwhile".to_string())
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
