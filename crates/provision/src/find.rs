//! Looks for an installed tool and asks the program itself for its version.

use std::path::Path;
use std::process::Command;

use crate::pins::Pins;
use crate::run::run;
use crate::{Found, Missing, Tool, Tools};

/// The oldest NATS server whose answers can be trusted: older ones ignore headers they do not know.
const OLDEST_NATS: (u32, u32) = (2, 12);

impl Tools {
    /// Finds a tool: the pinned installation first, then what the system has.
    ///
    /// # Errors
    /// [`Missing`] says what to do; also for a NATS server older than 2.12.
    pub fn find(&self, tool: Tool) -> Result<Found, Missing> {
        let missing = |hint: String| Missing { tool, hint };
        let place = self.place_of(tool);
        let pinned = place.join(programs_in(tool));
        if pinned.join(tool.program()).is_file() {
            let version = version_of(&pinned, tool).map_err(missing)?;
            return Ok(Found {
                bin_directory: pinned,
                version,
            });
        }
        if place.exists() {
            let place = place.display();
            return Err(missing(format!(
                "{place} is damaged; remove it, then {SETUP_HINT}"
            )));
        }
        match tool {
            Tool::NatsServer => self.nats_of_the_system(),
            _ => self.postgres_of_the_system(tool),
        }
    }

    /// The folder of the pinned version, whether or not it exists.
    pub(crate) fn place_of(&self, tool: Tool) -> std::path::PathBuf {
        let version = Pins::committed().version(tool).to_owned();
        self.directory.join(format!("{tool}-{version}"))
    }

    fn nats_of_the_system(&self) -> Result<Found, Missing> {
        let tool = Tool::NatsServer;
        let missing = |hint: String| Missing { tool, hint };
        let Some(directory) = self
            .search
            .iter()
            .find(|place| place.join("nats-server").is_file())
        else {
            return Err(missing(SETUP_HINT.to_owned()));
        };
        let version = version_of(directory, tool).map_err(missing)?;
        if new_enough_nats(&version) {
            return Ok(Found {
                bin_directory: directory.clone(),
                version,
            });
        }
        Err(missing(format!(
            "{} is version {version}, and before {}.{} it silently ignores the headers that keep two \
             workers apart; {SETUP_HINT}",
            directory.join("nats-server").display(),
            OLDEST_NATS.0,
            OLDEST_NATS.1,
        )))
    }

    /// Of the tools that are no PostgreSQL the system has none.
    fn postgres_of_the_system(&self, tool: Tool) -> Result<Found, Missing> {
        let missing = |hint: String| Missing { tool, hint };
        let directory = tool
            .postgres_major()
            .map(|major| self.system_postgres.join(major.to_string()).join("bin"))
            .filter(|directory| directory.join("postgres").is_file())
            .ok_or_else(|| missing(SETUP_HINT.to_owned()))?;
        let version = version_of(&directory, tool).map_err(missing)?;
        Ok(Found {
            bin_directory: directory,
            version,
        })
    }
}

/// Where the programs are inside an installation: a wheel keeps its own layout, because programs look for
/// their libraries relative to themselves.
pub(crate) fn programs_in(tool: Tool) -> String {
    Pins::committed()
        .wheel(tool)
        .map_or_else(|| "bin".to_owned(), |wheel| wheel.programs.clone())
}

const SETUP_HINT: &str = "run `cargo xtask setup`";

/// Asks the program; the error is a sentence.
fn version_of(directory: &Path, tool: Tool) -> Result<String, String> {
    let program = directory.join(tool.program());
    let argument = if tool == Tool::SeaweedFs {
        "version"
    } else {
        "--version"
    };
    let printed = run(Command::new(&program).arg(argument)).map_err(|error| {
        format!(
            "{} does not run on this machine: {error}",
            program.display()
        )
    })?;
    version_in(&printed).ok_or_else(|| {
        format!(
            "{} does not say its version: {printed:?}",
            program.display()
        )
    })
}

/// The first word that looks like a version: `nats-server: v2.15.1`, `postgres (PostgreSQL) 15.18 (...)`,
/// `version 30GB 4.48 <commit>`.
fn version_in(printed: &str) -> Option<String> {
    printed
        .split_whitespace()
        .map(|word| word.strip_prefix('v').unwrap_or(word))
        .find(|word| word.contains('.') && word.split('.').all(|part| part.parse::<u32>().is_ok()))
        .map(str::to_owned)
}

fn new_enough_nats(version: &str) -> bool {
    let mut parts = version
        .split('.')
        .map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= OLDEST_NATS
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn versions_are_read_from_what_programs_print() {
        let check = |printed, version: Option<&str>| {
            assert_eq!(version_in(printed).as_deref(), version, "{printed}");
        };
        check("nats-server: v2.15.1\n", Some("2.15.1"));
        check(
            "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)",
            Some("15.18"),
        );
        check("version 30GB 4.48 a1b2c3 linux amd64", Some("4.48"));
        check("something else", None);
    }

    fn tools_with_nats(version: &str) -> (tempfile::TempDir, Tools) {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("nats-server");
        fs::write(
            &program,
            format!("#!/bin/sh\necho nats-server: v{version}\n"),
        )
        .unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let mut tools = Tools::in_directory(folder.path().join("tools"));
        tools.search = vec![folder.path().to_owned()];
        (folder, tools)
    }

    #[test]
    fn an_old_nats_server_is_refused_with_the_reason() {
        let (_folder, tools) = tools_with_nats("2.9.10");
        let missing = tools.find(Tool::NatsServer).unwrap_err();
        assert!(
            missing.hint.contains("2.9.10") && missing.hint.contains("2.12"),
            "{missing}"
        );
        let (_folder, tools) = tools_with_nats("2.12.0");
        assert_eq!(tools.find(Tool::NatsServer).unwrap().version, "2.12.0");
    }

    #[test]
    fn a_damaged_installation_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let tools = Tools::in_directory(folder.path());
        fs::create_dir(tools.place_of(Tool::SeaweedFs)).unwrap();
        let hint = tools.find(Tool::SeaweedFs).unwrap_err().hint;
        assert!(
            hint.contains("damaged") && hint.contains("seaweedfs-4.48"),
            "{hint}"
        );
    }

    #[test]
    fn what_is_not_there_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let mut tools = Tools::in_directory(folder.path());
        tools.system_postgres = folder.path().to_owned();
        for tool in Tool::ALL {
            assert!(
                tools
                    .find(tool)
                    .unwrap_err()
                    .hint
                    .contains("cargo xtask setup")
            );
        }
    }
}
