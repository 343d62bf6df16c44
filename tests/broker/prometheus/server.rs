//! Owns a real Prometheus: its configuration, its process, and what is asked of it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use url::form_urlencoded::Serializer;

use crate::support::broker::{Guard, free_port};
use crate::support::wait_until;

/// The program, or why these tests cannot run.
pub fn program() -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("prometheus")).find(|p| p.is_file());
    found.ok_or_else(|| "there is no program prometheus (of the package of this name) on the search path".into())
}

/// A Prometheus that scrapes workers and evaluates rules every second; dropping it kills it.
pub struct Prometheus {
    port: u16,
    child: Child,
    log: PathBuf,
    guard: Option<Guard>,
}

impl Prometheus {
    /// Starts one that keeps all it writes in `folder` and scrapes the workers that serve HTTP on these ports.
    pub fn start(folder: &Path, rules: &str, workers: &[u16]) -> Prometheus {
        let port = free_port().expect("a port");
        let log = folder.join("prometheus.log");
        fs::create_dir_all(folder).expect("a folder");
        fs::write(folder.join("rules.yaml"), rules).expect("the rules are written");
        fs::write(folder.join("prometheus.yaml"), configuration(workers)).expect("the configuration is written");
        let child = Command::new(program().expect("seen before the tests"))
            .arg(format!("--config.file={}", folder.join("prometheus.yaml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("a log file"))
            .spawn()
            .expect("prometheus starts");
        let guard = Guard::start("kill -9 \"$0\"", &child.id().to_string()).ok();
        let mut prometheus = Prometheus { port, child, log, guard };
        wait_until("prometheus is ready", 60, || {
            let ended = prometheus.child.try_wait().expect("the state of a child");
            assert!(ended.is_none(), "prometheus ended: {ended:?}");
            prometheus.get("/-/ready").is_some_and(|answer| answer.contains(" 200 "))
        });
        prometheus
    }

    /// The value of an instant query, with the labels of each series.
    pub fn query(&self, expression: &str) -> Vec<(Value, f64)> {
        let data = self.api("query", &[("query", expression)]);
        let series = data["result"].as_array().expect("a vector").iter();
        series.map(|s| (s["metric"].clone(), number(&s["value"][1]))).collect()
    }

    /// How many series a selector finds.
    pub fn series(&self, selector: &str) -> usize {
        self.api("series", &[("match[]", selector)]).as_array().expect("series").len()
    }

    /// The names of all metrics that it has.
    pub fn names(&self) -> Vec<String> {
        let names = self.api("label/__name__/values", &[]);
        names.as_array().expect("names").iter().filter_map(|n| n.as_str().map(str::to_owned)).collect()
    }

    /// Every rule that there is.
    pub fn rules(&self) -> Vec<Value> {
        let data = self.api("rules", &[]);
        let groups = data["groups"].as_array().expect("groups").iter();
        groups.flat_map(|group| group["rules"].as_array().expect("rules").clone()).collect()
    }

    /// The firing alerts of a name, with labels and annotations.
    pub fn firing(&self, alert: &str) -> Vec<Value> {
        let data = self.api("alerts", &[]);
        let all = data["alerts"].as_array().expect("alerts").iter();
        all.filter(|a| a["labels"]["alertname"] == alert && a["state"] == "firing").cloned().collect()
    }

    /// Whether an alert of this name is firing or would be if it went on.
    pub fn is_active(&self, alert: &str) -> bool {
        let data = self.api("alerts", &[]);
        data["alerts"].as_array().expect("alerts").iter().any(|a| a["labels"]["alertname"] == alert)
    }

    /// How often rules could not be evaluated or scrapes not be taken, since it started.
    pub fn failures(&self) -> Vec<String> {
        let text = self.get("/metrics").expect("its own metrics");
        let counts = ["prometheus_rule_evaluation_failures_total", "prometheus_target_scrapes_sample_"];
        let failed = |line: &&str| counts.iter().any(|c| line.starts_with(c)) && !line.ends_with(" 0");
        text.lines().filter(failed).map(str::to_owned).collect()
    }

    fn api(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let query = Serializer::new(String::new()).extend_pairs(parameters).finish();
        let answer = self.get(&format!("/api/v1/{path}?{query}")).expect("prometheus answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.contains(" 200 "), "{path} {parameters:?}: {answer}");
        let mut answer: Value = serde_json::from_str(body).expect("JSON");
        answer["data"].take()
    }

    /// HTTP/1.0: nobody chunks the answer.
    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // The guard goes first: it knows a process id, which is free for others once the child is waited for.
        drop(self.guard.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- prometheus:\n{}\n---", lines[lines.len().saturating_sub(10)..].join("\n"));
        }
    }
}

/// The job has the name that the rules know.
fn configuration(workers: &[u16]) -> String {
    let targets: Vec<String> = workers.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
    format!(
        "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\n\
         rule_files: [rules.yaml]\n\
         scrape_configs:\n\
         - job_name: card-update-worker\n  static_configs: [{{ targets: [{}] }}]\n",
        targets.join(", ")
    )
}

fn number(value: &Value) -> f64 {
    value.as_str().and_then(|v| v.parse().ok()).expect("a number")
}
