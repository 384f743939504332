//! Where tools are: one folder shared by every clone, and the system's own folders.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use crate::{Missing, account};

/// Root's tools stand where the unprivileged user that runs PostgreSQL can read them; `/root` is closed to it.
const ROOT_DIRECTORY: &str = "/var/cache/zektor/tools";

/// The places where tools are looked for, and the one where they are installed.
#[derive(Debug, Clone)]
pub struct Tools {
    /// Where installations go, one folder each.
    pub(crate) directory: PathBuf,
    /// Where programs of the system are looked for.
    pub(crate) search: Vec<PathBuf>,
    /// Where Debian puts PostgreSQL, one folder for each major version.
    pub(crate) system_postgres: PathBuf,
}

impl Tools {
    /// Tools in `directory`, with nothing taken from `PATH`.
    #[must_use]
    pub fn in_directory(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            search: Vec::new(),
            system_postgres: PathBuf::from("/usr/lib/postgresql"),
        }
    }

    /// Tools in `ZEKTOR_TOOLS_DIR`, else for root in `/var/cache/zektor/tools`, else in the user's cache
    /// directory; programs also from `PATH`.
    ///
    /// # Errors
    /// When we are not root and neither `ZEKTOR_TOOLS_DIR`, `XDG_CACHE_HOME` nor `HOME` is set.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the environment: set-up runs before any configuration"
    )]
    pub fn from_environment() -> Result<Self, Missing> {
        let directory = directory(account::is_root(), |name| env::var_os(name))?;
        let search = env::var_os("PATH").map(|path| env::split_paths(&path).collect());
        Ok(Self {
            search: search.unwrap_or_default(),
            ..Self::in_directory(directory)
        })
    }

    /// Where installations go.
    #[must_use]
    pub fn directory(&self) -> &std::path::Path {
        &self.directory
    }
}

fn directory(root: bool, variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, Missing> {
    let variable = |name: &str| {
        variable(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(given) = variable("ZEKTOR_TOOLS_DIR") {
        return Ok(given);
    }
    if root {
        return Ok(PathBuf::from(ROOT_DIRECTORY));
    }
    variable("XDG_CACHE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("zektor").join("tools"))
        .ok_or_else(|| Missing {
            tool: crate::Tool::NatsServer,
            hint: "set HOME or ZEKTOR_TOOLS_DIR, so that there is a place for the tools".to_owned(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(root: bool, set: &[(&str, &str)]) -> String {
        directory(root, |name| {
            set.iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| OsString::from(value))
        })
        .map_or_else(|missing| missing.hint, |path| path.display().to_string())
    }

    #[test]
    fn the_given_place_wins_then_root_then_the_cache() {
        let home = ("HOME", "/home/a");
        assert_eq!(place(true, &[("ZEKTOR_TOOLS_DIR", "/t"), home]), "/t");
        assert_eq!(place(true, &[home]), ROOT_DIRECTORY);
        assert_eq!(
            place(false, &[home, ("ZEKTOR_TOOLS_DIR", "")]),
            "/home/a/.cache/zektor/tools"
        );
        assert_eq!(
            place(false, &[home, ("XDG_CACHE_HOME", "/c")]),
            "/c/zektor/tools"
        );
        assert!(place(false, &[]).contains("ZEKTOR_TOOLS_DIR"));
    }
}
