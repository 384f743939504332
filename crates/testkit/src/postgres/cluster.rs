//! Files and programs of a cluster, with the right owner.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use provision::{Account, Found, Tool};

use super::Postgres;
use crate::tool;

/// Hands a path to the server's user and to nobody else.
pub(super) fn give(path: &Path, account: Option<Account>) -> Result<()> {
    let what = || format!("cannot give {} to the server's user", path.display());
    let mode = if path.is_dir() { 0o700 } else { 0o600 };
    fs::set_permissions(path, Permissions::from_mode(mode)).with_context(what)?;
    if let Some(account) = account {
        chown(path, Some(account.uid), Some(account.gid)).with_context(what)?;
    }
    Ok(())
}

pub(super) fn make_directory(path: &Path, account: Option<Account>) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))?;
    give(path, account)
}

/// Appends to a file that exists, so that its owner stays.
pub(super) fn append(path: &Path, text: &str) -> Result<()> {
    let mut file = File::options()
        .append(true)
        .open(path)
        .with_context(|| format!("cannot append to {}", path.display()))?;
    Ok(file.write_all(text.as_bytes())?)
}

/// Clients of 18 that older servers are used with: they speak the wire protocol, or read a format that is
/// the same in every version (`backup_manifest`, but not the WAL beside it).
const WORK_WITH_EVERY_VERSION: &[&str] = &[
    "pg_amcheck",
    "pg_basebackup",
    "pg_dump",
    "pg_dumpall",
    "pg_isready",
    "pg_receivewal",
    "pg_restore",
    "pg_verifybackup",
    "psql",
];

pub(super) fn program(found: &Found, name: &str) -> Result<PathBuf> {
    let own = found.program(name);
    if own.is_file() {
        return Ok(own);
    }
    if WORK_WITH_EVERY_VERSION.contains(&name) {
        let newest = tool(Tool::Postgres18)?.program(name);
        if newest.is_file() {
            return Ok(newest);
        }
    }
    bail!(
        "the installation of PostgreSQL {} has no {name}, and that of another version does not do",
        found.version
    )
}

/// A command that runs as the server's user, with no connection setting inherited from our environment.
pub(super) fn as_account(program: &Path, account: Option<Account>) -> Command {
    let mut command = Command::new(program);
    let _ = command.current_dir("/").stdin(Stdio::null());
    // Not our home: its .pgpass and certificates are not part of the test, and closed to that user.
    let _ = command
        .env("HOME", "/")
        .env("LC_ALL", "C")
        .env("PGTZ", "UTC");
    for variable in [
        "PGHOST",
        "PGPORT",
        "PGUSER",
        "PGDATABASE",
        "PGDATA",
        "PGOPTIONS",
    ] {
        let _ = command.env_remove(variable);
    }
    if let Some(account) = account {
        let _ = command.uid(account.uid).gid(account.gid);
    }
    command
}

/// Runs a command to its end without holding up the runtime, and returns its stdout.
pub(super) async fn finish(mut command: Command) -> Result<String> {
    let line = format!("{command:?}");
    let output = tokio::task::spawn_blocking(move || command.output())
        .await?
        .with_context(|| format!("cannot start {line}"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{line} failed ({}): {}", output.status, errors.trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Copies a running primary and makes the copy its standby. Not with `--write-recovery-conf`: a newer
/// `pg_basebackup` writes connection parameters that an older server refuses.
pub(super) async fn base_backup(standby: &Postgres, primary: &str) -> Result<()> {
    let mut command = standby.command("pg_basebackup")?;
    let _ = command
        .args(["--wal-method", "stream", "--checkpoint", "fast"])
        .args(["--no-sync", "--dbname", primary, "--pgdata"])
        .arg(&standby.data);
    let _ = finish(command).await.context("cannot copy the primary")?;
    let signal = standby.data.join("standby.signal");
    fs::write(&signal, "").context("cannot write standby.signal")?;
    give(&signal, standby.account)?;
    append(
        &standby.data.join("postgresql.conf"),
        &format!("primary_conninfo = '{primary}'\n"),
    )
}

/// The id of the segment that a running server's processes share: line 7 of `postmaster.pid` is `key id`
/// (`pidfile.h`).
pub(super) fn shared_memory(data: &Path) -> Option<String> {
    let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let id = text.lines().nth(6)?.split_whitespace().nth(1)?;
    Some(id.to_owned())
}

/// Removes a segment; one that is gone is fine.
pub(super) fn remove_shared_memory(id: &str) {
    let _ = Command::new("ipcrm")
        .args(["-m", id])
        .stderr(Stdio::null())
        .status();
}

/// The processes whose parent is `parent`, from `/proc`.
pub(super) fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|process| state_and_parent(*process).is_some_and(|(_, of)| of == parent))
        .collect()
}

/// Whether a process exists and is more than an exit status nobody has read.
pub(super) fn alive(process: u32) -> bool {
    state_and_parent(process).is_some_and(|(state, _)| state != 'Z')
}

/// `/proc/<pid>/stat` is `pid (name) state ppid ...`; the name may hold anything, so look from its end.
fn state_and_parent(process: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}
