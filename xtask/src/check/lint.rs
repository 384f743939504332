//! Formatting, clippy and cargo-deny, each where it is installed.

use anyhow::Result;

use crate::say::say;
use crate::workspace::{cargo, has};

pub(super) fn fmt() -> Result<()> {
    where_installed("fmt", &["fmt", "--all", "--", "--check", "-l"])
}

pub(super) fn clippy() -> Result<()> {
    let arguments = [
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ];
    where_installed("clippy", &arguments)
}

/// Offline parts only: the advisory database is fetched from the network.
pub(super) fn deny() -> Result<()> {
    let arguments = [
        "deny",
        "--workspace",
        "--log-level",
        "error",
        "check",
        "bans",
        "licenses",
        "sources",
    ];
    where_installed("deny", &arguments)
}

fn where_installed(subcommand: &str, arguments: &[&str]) -> Result<()> {
    if !has(subcommand) {
        say(&format!(
            "{subcommand:<10} skipped: cargo-{subcommand} is not installed"
        ));
        return Ok(());
    }
    cargo(arguments)?;
    say(&format!("{subcommand:<10} ok"));
    Ok(())
}
