//! Owns the Java way to a broker: jars by Maven, storage formatted, KRaft combined mode on free loopback ports.

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::broker::{BROKER_SETTINGS, KAFKA_VERSION, free_port, wait_reachable};

/// Takes a word per line; at the end of its input, which comes when this process ends in any way, it ends the broker and tidies up.
const SCRIPT: &str = r#"
start() { java -Xms512m -Xmx1g -XX:+UseG1GC -cp "$1" kafka.Kafka "$2" >>"$3/log" 2>&1 & pid=$!; }
start "$@"
while read -r word; do
    case $word in
        restart) kill -9 $pid; wait $pid; start "$@" ;;
        freeze) kill -STOP $pid ;;
        thaw) kill -CONT $pid ;;
    esac
done
kill -9 $pid; wait $pid; rm -rf "$3"
"#;

/// A broker process under a shell that ends it when this process is gone, however that happened.
pub struct Server {
    /// Where clients connect.
    pub bootstrap: String,
    shell: Child,
}

impl Server {
    /// Fetches the jars if they are not there yet and starts; a port that was taken meanwhile is tried again; `settings` come on top.
    pub fn start(settings: &[(&str, &str)]) -> Result<Server, String> {
        let jars = jars()?;
        let mut last = String::new();
        for _ in 0..3 {
            match Self::start_once(&jars, settings) {
                Ok(server) => return Ok(server),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    fn start_once(jars: &Path, settings: &[(&str, &str)]) -> Result<Server, String> {
        let dir = tempfile::Builder::new().prefix("card-update-kafka-").tempdir().map_err(|e| e.to_string())?;
        let (port, controller) = (free_port()?, free_port()?);
        let properties = dir.path().join("server.properties");
        let text = server_properties(port, controller, dir.path(), settings);
        fs::write(&properties, text).map_err(|e| e.to_string())?;
        let classpath = format!("{}/*", jars.display());
        format_storage(&classpath, &properties)?;
        // From here on the shell owns the directory: it outlives a killed test process by the time it takes to tidy up.
        let dir = dir.keep();
        let shell = Command::new("sh")
            .args(["-c", SCRIPT, "sh", &classpath])
            .args([properties.as_path(), dir.as_path()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|e| e.to_string())?;
        let server = Server { bootstrap: format!("127.0.0.1:{port}"), shell };
        let log = dir.join("log");
        wait_reachable(&server.bootstrap, || startup_error(&log)).map_err(|e| format!("{e}: {}", tail(&log)))?;
        Ok(server)
    }
}

/// What tests do to a broker of their own.
impl Server {
    /// SIGKILL, and a start on the same data and port.
    pub fn restart(&mut self) {
        self.tell("restart");
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

fn server_properties(port: u16, controller: u16, dir: &Path, settings: &[(&str, &str)]) -> String {
    let mut text = format!(
        "listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
         controller.quorum.voters=1@127.0.0.1:{controller}\n\
         log.dirs={}/data\n",
        dir.display()
    );
    for (key, value) in BROKER_SETTINGS.iter().chain(settings) {
        text.push_str(&format!("{key}={value}\n"));
    }
    text
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

/// The folder of jars, filled by Maven once and kept in cargo's target directory.
fn jars() -> Result<PathBuf, String> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kafka-{KAFKA_VERSION}"));
    let complete = dir.join("complete");
    if complete.exists() {
        return Ok(dir);
    }
    Command::new("java").arg("-version").output().map_err(|e| format!("java: {e}"))?;
    let pom = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kafka-pom/pom.xml");
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
    fs::write(&complete, "").map_err(|e| e.to_string())?;
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
