//! Where values come from: `--set` over the environment over the file over the defaults, each remembered with its origin.

use super::raw::Raw;
use super::values::is_secret;
use super::{Config, ConfigError};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use toml::{Table, Value as Toml};

const ENV_PREFIX: &str = "CARD_UPDATE_WORKER__";
/// Below this key names are free, and contain dots of their own.
const CLIENT: &str = "kafka.client.";

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// `--set`.
    Set,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Set => f.write_str("--set"),
        }
    }
}

/// A value, fit to be shown, and its origin.
#[derive(Clone, Debug)]
pub struct Value {
    /// The value; a secret is redacted.
    pub shown: Toml,
    /// Where it came from.
    pub origin: Origin,
}

/// The effective configuration.
pub struct Layered {
    /// The valid one.
    pub config: Config,
    /// Every key with its value and origin.
    pub values: BTreeMap<String, Value>,
}

/// Loads and validates. `environment` and `sets` are `(name, value)` pairs.
pub fn load(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    sets: &[String],
) -> Result<Layered, ConfigError> {
    let defaults = flat_defaults()?;
    let mut values: BTreeMap<String, (Toml, Origin)> =
        defaults.iter().map(|(key, value)| (key.clone(), (value.clone(), Origin::Default))).collect();
    let mut put = |key: String, value: Toml, origin: Origin| {
        check_key(&key, &defaults)?;
        values.insert(key, (value, origin));
        Ok::<(), ConfigError>(())
    };
    if let Some(path) = file {
        for (key, value) in flat_file(path)? {
            put(key, value, Origin::File(path.to_owned()))?;
        }
    }
    for (name, text) in environment {
        let Some(key) = name.strip_prefix(ENV_PREFIX).map(env_key) else { continue };
        put(key.clone(), typed(&key, &text, &defaults)?, Origin::Environment(name))?;
    }
    for set in sets {
        let Some((key, text)) = set.split_once('=') else {
            return Err(no_value());
        };
        put(key.to_owned(), typed(key, text, &defaults)?, Origin::Set)?;
    }
    let raw = raw_of(&values)?;
    Ok(Layered { config: Config::new(&raw)?, values: shown(values) })
}

/// What is wrong with how the program was called, whatever the configuration says: a file that cannot be read, a `--set` without
/// a value.
pub fn misuse(file: Option<&Path>, sets: &[String]) -> Option<ConfigError> {
    if let Some(path) = file
        && let Err(error) = std::fs::metadata(path)
    {
        return Some(ConfigError(format!("the configuration file {} cannot be read: {error}", path.display())));
    }
    sets.iter().any(|set| !set.contains('=')).then(no_value)
}

/// It does not repeat what was given, which may be a secret behind a missing `=`.
fn no_value() -> ConfigError {
    ConfigError("a --set has no '=': write it as section.key=value".to_owned())
}

fn shown(values: BTreeMap<String, (Toml, Origin)>) -> BTreeMap<String, Value> {
    let show = |(key, (value, origin)): (String, (Toml, Origin))| {
        let shown = if is_secret(&key) { Toml::String("(redacted)".to_owned()) } else { value };
        (key, Value { shown, origin })
    };
    values.into_iter().map(show).collect()
}

fn env_key(name: &str) -> String {
    let key = name.to_ascii_lowercase().replace("__", ".");
    match key.strip_prefix(CLIENT) {
        // librdkafka's properties are written with dots, which the names of variables cannot have.
        Some(property) => {
            let file = property.strip_suffix("_file");
            let dotted = file.unwrap_or(property).replace('_', ".");
            format!("{CLIENT}{dotted}{}", if file.is_some() { "_file" } else { "" })
        }
        None => key,
    }
}

fn check_key(key: &str, defaults: &BTreeMap<String, Toml>) -> Result<(), ConfigError> {
    if defaults.contains_key(key) || key.strip_prefix(CLIENT).is_some_and(|p| !p.is_empty()) {
        return Ok(());
    }
    let nearest = defaults.keys().min_by_key(|known| strsim::levenshtein(known, key));
    let hint = nearest.map_or(String::new(), |known| format!("; did you mean {known}?"));
    Err(ConfigError(format!("{key} is not a configuration key{hint}")))
}

/// A text as the type that the key has.
fn typed(key: &str, text: &str, defaults: &BTreeMap<String, Toml>) -> Result<Toml, ConfigError> {
    let wrong = |what: &str| ConfigError(format!("{key}: {text:?} is not {what}"));
    Ok(match defaults.get(key) {
        Some(Toml::Integer(_)) => Toml::Integer(text.parse().map_err(|_| wrong("a whole number"))?),
        Some(Toml::Boolean(_)) => Toml::Boolean(text.parse().map_err(|_| wrong("true or false"))?),
        Some(Toml::Array(_)) => {
            let list = text.trim_matches(['[', ']']).split(',').map(|item| item.trim().trim_matches('"'));
            Toml::Array(list.filter(|item| !item.is_empty()).map(|item| Toml::String(item.to_owned())).collect())
        }
        _ => Toml::String(text.to_owned()),
    })
}

fn flat_defaults() -> Result<BTreeMap<String, Toml>, ConfigError> {
    let table = Table::try_from(Raw::default()).map_err(|e| ConfigError(e.to_string()))?;
    Ok(flat(table))
}

fn flat_file(path: &Path) -> Result<BTreeMap<String, Toml>, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| ConfigError(format!("the configuration file {} cannot be read: {e}", path.display())))?;
    let table: Table = text.parse().map_err(|e| no_toml(path, &text, &e))?;
    Ok(flat(table))
}

/// Where it is wrong, without the line itself that the error would print: a secret may stand there.
fn no_toml(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let before = text.get(..error.span().map_or(0, |span| span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    let message = error.message();
    ConfigError(format!("{}: no valid TOML at line {line}, column {column}: {message}", path.display()))
}

/// Keys with dots; a table that is empty has none.
fn flat(table: Table) -> BTreeMap<String, Toml> {
    let mut out = BTreeMap::new();
    for (name, value) in table {
        match value {
            Toml::Table(inner) => {
                out.extend(flat(inner).into_iter().map(|(key, value)| (format!("{name}.{key}"), value)))
            }
            value => drop(out.insert(name, value)),
        }
    }
    out
}

fn raw_of(values: &BTreeMap<String, (Toml, Origin)>) -> Result<Raw, ConfigError> {
    let mut root = Table::new();
    for (key, (value, _)) in values {
        if let Some(property) = key.strip_prefix(CLIENT) {
            let text = match value {
                Toml::String(text) => text.clone(),
                other => other.to_string(),
            };
            table_in(table_in(&mut root, "kafka")?, "client")?.insert(property.to_owned(), Toml::String(text));
        } else if let Some((section, name)) = key.split_once('.') {
            table_in(&mut root, section)?.insert(name.to_owned(), value.clone());
        }
    }
    root.try_into().map_err(|e: toml::de::Error| ConfigError(e.to_string().trim().replace('\n', " ")))
}

fn table_in<'t>(table: &'t mut Table, name: &str) -> Result<&'t mut Table, ConfigError> {
    let entry = table.entry(name).or_insert_with(|| Toml::Table(Table::new()));
    entry.as_table_mut().ok_or_else(|| ConfigError(format!("{name} must be a section")))
}
