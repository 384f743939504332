//! The codemap of ARCHITECTURE.md, held against cargo's metadata.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::say::{complain, say};
use crate::workspace;

/// Which of our crates a crate may use. Everything under `services/` and the `zektor` command may use
/// all of [`SHARED`]; the integration tests may use everything.
const ARROWS: &[(&str, &[&str])] = &[
    ("pg-format", &[]),
    ("calendar", &[]),
    ("events", &["pg-format"]),
    ("pg-replication", &["pg-format"]),
    ("wal-index", &["pg-format"]),
    ("retention", &["events", "pg-format"]),
    ("alerts", &["events", "pg-format"]),
    ("repository", &["events", "pg-format", "wal-index"]),
    ("bus", &["events"]),
    ("service", &["events"]),
    ("provision", &[]),
    ("testkit", &["provision"]),
    ("xtask", &["provision", "events"]),
];

/// What services and the command are made of.
const SHARED: &[&str] = &[
    "pg-format",
    "calendar",
    "events",
    "pg-replication",
    "wal-index",
    "retention",
    "alerts",
    "repository",
    "bus",
    "service",
    "provision",
];

/// For tests only: never a normal dependency, except of the integration tests.
const TEST_ONLY: &str = "testkit";

/// A foreign crate, its one owner, and whether tests elsewhere may use it.
const OWNED: &[(&str, &str, bool)] = &[
    ("async-nats", "bus", true),
    ("object_store", "repository", true),
    ("postgres-protocol", "pg-replication", false),
];

/// Crates that do no I/O, and what would be a sign of it.
const PURE: &[&str] = &[
    "pg-format",
    "calendar",
    "events",
    "wal-index",
    "retention",
    "alerts",
];
const NOT_IN_PURE: &[&str] = &["tokio", "reqwest", "async-nats", "object_store", "sqlx"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `dev`, `build`, or none for a normal one.
    kind: Option<String>,
    /// Only on crates of the workspace.
    path: Option<String>,
}

impl Dependency {
    fn for_tests(&self) -> bool {
        self.kind.as_deref() == Some("dev")
    }
}

/// Fails on every arrow that the codemap does not have.
pub(super) fn check() -> Result<()> {
    let text = workspace::output(
        Command::new("cargo")
            .args(["metadata", "--format-version", "1", "--no-deps"])
            .current_dir(workspace::root()?),
    )?;
    let metadata: Metadata = serde_json::from_str(&text).context("cannot read cargo metadata")?;
    let wrong = wrong_arrows(&metadata);
    if wrong.is_empty() {
        say(&format!(
            "arrows     ok: {} crates",
            metadata.packages.len()
        ));
        return Ok(());
    }
    for line in &wrong {
        complain(&format!("  {line}"));
    }
    bail!("these arrows are not in the codemap of ARCHITECTURE.md")
}

fn wrong_arrows(metadata: &Metadata) -> Vec<String> {
    let mut wrong = Vec::new();
    for package in &metadata.packages {
        let allowed = allowed(package);
        if allowed.is_none() {
            wrong.push(format!("{} is not in the codemap", package.name));
        }
        for dependency in &package.dependencies {
            let own = dependency.path.is_some();
            let right = if own {
                allowed
                    .as_ref()
                    .is_none_or(|allowed| own_is_right(allowed, dependency))
            } else {
                foreign_is_right(package, dependency)
            };
            if !right {
                let kind = dependency.kind.as_deref().unwrap_or("normal");
                wrong.push(format!("{} -> {} ({kind})", package.name, dependency.name));
            }
        }
    }
    wrong
}

/// None: a crate nobody has given a place.
fn allowed(package: &Package) -> Option<BTreeSet<&'static str>> {
    if is_integration(package) {
        return Some(SHARED.iter().chain(&[TEST_ONLY]).copied().collect());
    }
    if is_program(package) {
        return Some(SHARED.iter().copied().collect());
    }
    let (_, allowed) = ARROWS.iter().find(|(name, _)| *name == package.name)?;
    Some(allowed.iter().copied().collect())
}

/// Tests may also use the testkit, whatever the crate is.
fn own_is_right(allowed: &BTreeSet<&str>, dependency: &Dependency) -> bool {
    allowed.contains(dependency.name.as_str())
        || (dependency.for_tests() && dependency.name == TEST_ONLY)
}

fn foreign_is_right(package: &Package, dependency: &Dependency) -> bool {
    let name = dependency.name.as_str();
    if PURE.contains(&package.name.as_str()) && NOT_IN_PURE.contains(&name) {
        return false;
    }
    let Some((_, owner, tests_may)) = OWNED.iter().find(|(owned, ..)| *owned == name) else {
        return true;
    };
    let tests = dependency.for_tests() || is_integration(package) || package.name == TEST_ONLY;
    package.name == *owner || (*tests_may && tests)
}

fn is_program(package: &Package) -> bool {
    let mut folders = package.manifest_path.rsplit('/').skip(1);
    let (own, parent) = (folders.next(), folders.next());
    parent == Some("services") || own == Some("cli")
}

fn is_integration(package: &Package) -> bool {
    package
        .manifest_path
        .ends_with("/tests/integration/Cargo.toml")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(folder: &str, name: &str, dependency: &str, kind: Option<&str>, own: bool) -> bool {
        let metadata = Metadata {
            packages: vec![Package {
                name: name.to_owned(),
                manifest_path: format!("/x/{folder}/Cargo.toml"),
                dependencies: vec![Dependency {
                    name: dependency.to_owned(),
                    kind: kind.map(str::to_owned),
                    path: own.then(|| "/x".to_owned()),
                }],
            }],
        };
        wrong_arrows(&metadata).is_empty()
    }

    #[test]
    fn arrows_of_the_codemap_and_no_others() {
        let own = |folder, name, to, kind| check(folder, name, to, kind, true);
        assert!(own("crates/events", "events", "pg-format", None));
        assert!(!own("crates/pg-format", "pg-format", "events", None));
        assert!(!own("crates/pg-format", "pg-format", "events", Some("dev")));
        assert!(!own("crates/bus", "bus", "repository", None));
        assert!(own("crates/bus", "bus", "testkit", Some("dev")));
        assert!(!own("crates/bus", "bus", "testkit", None));
        assert!(own("services/catalog", "catalog", "repository", None));
        assert!(!own("services/catalog", "catalog", "scheduler", None));
        assert!(!own("services/catalog", "catalog", "testkit", None));
        assert!(own("tests/integration", "integration", "testkit", None));
        assert!(
            !own("crates/newcomer", "newcomer", "events", None),
            "it has no place yet"
        );
    }

    #[test]
    fn clients_have_one_owner() {
        let foreign = |folder, name, to, kind| check(folder, name, to, kind, false);
        assert!(foreign("crates/bus", "bus", "async-nats", None));
        assert!(!foreign("services/catalog", "catalog", "async-nats", None));
        assert!(foreign(
            "services/catalog",
            "catalog",
            "async-nats",
            Some("dev")
        ));
        assert!(foreign(
            "tests/integration",
            "integration",
            "object_store",
            None
        ));
        assert!(!foreign(
            "tests/integration",
            "integration",
            "postgres-protocol",
            None
        ));
        assert!(!foreign("crates/events", "events", "tokio", None));
        assert!(foreign("crates/bus", "bus", "tokio", None));
    }
}
