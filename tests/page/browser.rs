//! Owns the browser: chromedriver, its sessions, and what the tests ask of a page.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder};
use http::Method;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use url::{ParseError, Url};

use super::program::{Folder, Program, find, wait_for};

const ARGUMENTS: [&str; 8] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];
/// How long a page may take to show what is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running chromedriver.
pub struct Browser {
    port: u16,
    chromium: PathBuf,
    _driver: Program,
}

impl Browser {
    /// Finds and starts it, or says what is missing.
    pub fn start(folder: &Folder) -> Result<Browser, String> {
        let chromium = find(&["chromium", "chromium-browser", "google-chrome"])?;
        let driver = Program::start(&folder.another("driver-"), &find(&["chromedriver"])?, &["--port=0"]);
        let port = wait_for("chromedriver tells its port", || {
            let log = driver.log();
            let (_, port) = log.split_once("started successfully on port ")?;
            port.split_once('.')?.0.parse().ok()
        });
        Ok(Browser { port, chromium, _driver: driver })
    }

    /// Opens an address in a browser of its own, with a fresh profile.
    pub async fn open(&self, address: &str, folder: &Folder) -> Page {
        let profile = folder.another("profile-");
        let mut arguments: Vec<String> = ARGUMENTS.map(str::to_owned).into();
        arguments.push(format!("--user-data-dir={}", profile.display()));
        let capabilities = json!({
            "goog:chromeOptions": { "binary": self.chromium, "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities.as_object().cloned().expect("an object"))
            .connect(&format!("http://127.0.0.1:{}", self.port))
            .await
            .expect("a browser session");
        client.goto(address).await.expect("the page loads");
        Page { client }
    }
}

/// A page in a browser window.
pub struct Page {
    client: Client,
}

impl Page {
    /// The value of a JavaScript expression.
    pub async fn ask(&self, expression: &str) -> Value {
        self.call(expression, Vec::new()).await
    }

    /// The same, with `arguments`.
    pub async fn call(&self, expression: &str, arguments: Vec<Value>) -> Value {
        let script = format!("return ({expression});");
        self.client.execute(&script, arguments).await.unwrap_or_else(|e| panic!("{expression}: {e}"))
    }

    /// Waits until an expression is true.
    pub async fn wait(&self, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.ask(expression).await != true {
            if Instant::now() > deadline {
                panic!("not within {PATIENCE:?}: {expression}; the page says:\n{}", self.text().await);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// All text that is shown.
    pub async fn text(&self) -> String {
        self.ask("document.body.innerText").await.as_str().expect("a text").to_owned()
    }

    /// What the console has been told since the last question.
    pub async fn console(&self) -> Value {
        self.command("se/log", json!({ "type": "browser" })).await
    }

    /// Shows the page as a window of this size would.
    pub async fn resize(&self, width: u32, height: u32, mobile: bool) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    /// Shows the page to somebody who prefers `light` or `dark`.
    pub async fn prefer(&self, scheme: &str) {
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", media).await;
    }

    /// A picture of what is in the window, PNG.
    pub async fn picture(&self) -> Vec<u8> {
        self.client.screenshot().await.expect("a screenshot")
    }

    /// Ends the browser.
    pub async fn close(self) {
        self.client.close().await.expect("the session ends");
    }

    async fn devtools(&self, command: &str, parameters: Value) {
        self.command("goog/cdp/execute", json!({ "cmd": command, "params": parameters })).await;
    }

    async fn command(&self, path: &'static str, body: Value) -> Value {
        self.client.issue_cmd(Extension { path, body }).await.unwrap_or_else(|e| panic!("{path}: {e}"))
    }
}

/// A command of chromedriver beyond the standard.
#[derive(Debug)]
struct Extension {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for Extension {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.body.to_string()))
    }
}
