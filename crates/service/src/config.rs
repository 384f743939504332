//! Configuration: defaults, then a TOML file, then `ZEKTOR_*` variables.
//!
//! A service's own settings are a plain serde struct with a `Default`; its keys stand beside the common
//! ones. The key `restore_min_target_age` is the variable `ZEKTOR_RESTORE_MIN_TARGET_AGE`; a key `b` inside
//! a table `a` is `ZEKTOR_A__B`. Durations are `#[serde(with = "humantime_serde")]`: `500ms`, `5s`, `2m`.
//! An unknown key of the file is refused, for it is a typing error; an unknown variable is not, for it
//! belongs to another service.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

mod conceal;

pub use conceal::conceal_url;

/// What every variable of ours begins with.
const PREFIX: &str = "ZEKTOR_";

/// The environment as it was at start. The process's own is read once, by [`Environment::of_process`].
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The environment of this process, without variables that are not text.
    #[must_use]
    pub fn of_process() -> Self {
        let pairs = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Environment(pairs.collect())
    }

    /// An environment of these variables.
    #[must_use]
    pub fn of<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Environment(variables.into_iter().map(own).collect())
    }

    /// A variable's value; an empty one counts as not set.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }
}

/// What a service's own settings must be able to do: all of it by derive.
pub trait Settings: Serialize + DeserializeOwned + Default + Clone + Send + Sync + 'static {}
impl<T: Serialize + DeserializeOwned + Default + Clone + Send + Sync + 'static> Settings for T {}

/// For a service without settings of its own.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct NoSettings {}

/// What every service is told.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CommonConfig {
    /// Where the bus is; several URLs are separated by commas.
    pub nats_url: String,
    /// Where the repository is: `file:///dir`, `s3://bucket/prefix`, `gs://`, `az://`.
    pub repository_url: String,
    /// Where the catalog's rows are: `sqlite:///file` or `postgres://`.
    pub catalog_url: String,
    /// The file of the key that secrets are sealed with.
    pub master_key_file: PathBuf,
    /// Where `/healthz`, `/readyz` and `/metrics` are served; port 0 takes a free one.
    pub http_listen: SocketAddr,
    /// The directory of an installation on one machine.
    pub home: PathBuf,
    /// How long a drain may take before the process ends anyway.
    #[serde(with = "humantime_serde")]
    pub shutdown_timeout: Duration,
    /// This process's name among its replicas; on events and leases.
    pub worker_name: String,
}

/// [`CommonConfig`] as it may be given: what is absent follows from `home` and the machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct GivenCommon {
    nats_url: String,
    repository_url: Option<String>,
    catalog_url: Option<String>,
    master_key_file: Option<PathBuf>,
    http_listen: SocketAddr,
    home: Option<PathBuf>,
    #[serde(with = "humantime_serde")]
    shutdown_timeout: Duration,
    worker_name: Option<String>,
}

impl Default for GivenCommon {
    fn default() -> Self {
        GivenCommon {
            nats_url: "nats://127.0.0.1:4222".to_owned(),
            repository_url: None,
            catalog_url: None,
            master_key_file: None,
            http_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            home: None,
            shutdown_timeout: Duration::from_secs(30),
            worker_name: None,
        }
    }
}

impl GivenCommon {
    fn resolve(self, environment: &Environment) -> CommonConfig {
        let home = self.home.unwrap_or_else(|| default_home(environment));
        CommonConfig {
            nats_url: self.nats_url,
            repository_url: self
                .repository_url
                .unwrap_or_else(|| format!("file://{}/repository", home.display())),
            catalog_url: self
                .catalog_url
                .unwrap_or_else(|| format!("sqlite://{}/catalog.sqlite", home.display())),
            master_key_file: self
                .master_key_file
                .unwrap_or_else(|| home.join("master.key")),
            http_listen: self.http_listen,
            shutdown_timeout: self.shutdown_timeout,
            worker_name: self.worker_name.unwrap_or_else(default_worker_name),
            home,
        }
    }
}

fn default_home(environment: &Environment) -> PathBuf {
    environment.get("HOME").map_or_else(
        || PathBuf::from("/var/lib/zektor"),
        |home| Path::new(home).join(".zektor"),
    )
}

/// Host and process: the same name is never alive twice.
fn default_worker_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = match host.trim() {
        "" => "host",
        name => name,
    };
    format!("{host}-{}", std::process::id())
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration file {path} cannot be read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("the configuration file {path} is not valid TOML")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: toml::de::Error,
    },
    /// The file has a key that nobody reads.
    #[error("{path} has the unknown key {key:?}; known are {known}")]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// All that may stand there.
        known: String,
    },
    /// A value is not what its key wants.
    #[error("{place} cannot be used: {reason}")]
    Value {
        /// The variable, or the key and its file.
        place: String,
        /// What was found and what is expected.
        reason: String,
    },
}

/// The configuration of a service.
#[derive(Clone, Debug)]
pub struct Loaded<C> {
    /// What every service is told.
    pub common: CommonConfig,
    /// The service's own settings.
    pub own: C,
}

/// Reads defaults, then `file`, then `environment`.
///
/// # Errors
/// Names the variable, or the key and file, and what is expected.
pub fn load<C: Settings>(
    file: Option<&Path>,
    environment: &Environment,
) -> Result<Loaded<C>, ConfigError> {
    let from_file = file.map(read_file).transpose()?.unwrap_or_default();
    if let Some(path) = file {
        refuse_unknown_keys::<C>(path, &from_file)?;
    }
    let place = |key: &str| {
        let variable = format!("{PREFIX}{}", key.to_uppercase().replace('.', "__"));
        match file {
            _ if environment.get(&variable).is_some() => variable,
            Some(path) => format!("the key {key} in {}", path.display()),
            None => format!("the setting {variable}"),
        }
    };
    let refuse = |error: config::ConfigError| refused_value(&error, place);
    let given: GivenCommon = layered(&from_file, environment).map_err(refuse)?;
    Ok(Loaded {
        common: given.resolve(environment),
        own: layered(&from_file, environment).map_err(refuse)?,
    })
}

/// One struct from its defaults, the file and the environment. Keys of other structs are passed over, so that
/// several can be read from the same sources without `flatten`, which would lose the conversion from text.
fn layered<T: Serialize + DeserializeOwned + Default>(
    file: &toml::Table,
    environment: &Environment,
) -> Result<T, config::ConfigError> {
    let variables = config::Environment::with_prefix("ZEKTOR")
        .prefix_separator("_")
        .separator("__")
        .ignore_empty(true)
        .source(Some(environment.0.clone().into_iter().collect()));
    config::Config::builder()
        .add_source(config::Config::try_from(&T::default())?)
        .add_source(config::Config::try_from(file)?)
        .add_source(variables)
        .build()?
        .try_deserialize()
}

fn read_file(path: &Path) -> Result<toml::Table, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    text.parse().map_err(|source| ConfigError::Syntax {
        path: path.to_owned(),
        source,
    })
}

fn refuse_unknown_keys<C: Settings>(path: &Path, file: &toml::Table) -> Result<(), ConfigError> {
    let known: BTreeSet<String> = keys(&GivenCommon::default())
        .chain(keys(&C::default()))
        .collect();
    match file.keys().find(|key| !known.contains(*key)) {
        None => Ok(()),
        Some(key) => Err(ConfigError::UnknownKey {
            path: path.to_owned(),
            key: key.clone(),
            known: known.into_iter().collect::<Vec<_>>().join(", "),
        }),
    }
}

/// The keys of a struct, those of absent values too.
fn keys<T: Serialize>(value: &T) -> impl Iterator<Item = String> + use<T> {
    let object = match serde_json::to_value(value) {
        Ok(serde_json::Value::Object(object)) => object,
        _ => serde_json::Map::new(),
    };
    object.into_iter().map(|(key, _)| key)
}

fn refused_value(error: &config::ConfigError, place: impl Fn(&str) -> String) -> ConfigError {
    let (key, reason) = match error {
        config::ConfigError::Type {
            unexpected,
            expected,
            key,
            ..
        } => (
            key.as_deref(),
            format!("found {unexpected}, expected {expected}"),
        ),
        config::ConfigError::At { error, key, .. } => (key.as_deref(), error.to_string()),
        other => (None, other.to_string()),
    };
    ConfigError::Value {
        place: key.map_or_else(|| "the configuration".to_owned(), place),
        reason,
    }
}

impl<C: Settings> Loaded<C> {
    /// The whole configuration as TOML, every secret hidden.
    #[must_use]
    pub fn concealed(&self) -> String {
        let mut all = serde_json::Map::new();
        for part in [
            serde_json::to_value(&self.common),
            serde_json::to_value(&self.own),
        ] {
            if let Ok(serde_json::Value::Object(part)) = part {
                all.extend(part);
            }
        }
        conceal::to_toml(all)
    }
}

#[cfg(test)]
mod tests;
