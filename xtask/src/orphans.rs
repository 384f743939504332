//! Shared memory that killed PostgreSQL servers left on this machine.
//!
//! Each server has a small System V segment as the interlock of its data directory. One that is killed leaves it, and
//! only a server of the same directory takes it away again; tests that were killed leave directories that nobody
//! starts a server in. Linux has room for 4096 (`kernel.shmmni`), and then no PostgreSQL starts at all.
//!
//! Only what is certainly nobody's is removed: no process has it, its maker is gone, and it is of the very size
//! and owner of such a segment.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use provision::{UNPRIVILEGED_USER, account, is_root};

use crate::say::say;
use crate::workspace::output;

/// The kernel's table (`proc_sysvipc_shm(5)`).
const TABLE: &str = "/proc/sysvipc/shm";

/// `sizeof(PGShmemHeader)` where the shared memory itself is mapped (`shared_memory_type = mmap`, the default).
const INTERLOCK_BYTES: u64 = 56;

/// Removes them, and says how many.
pub(crate) fn remove() -> Result<()> {
    let Ok(table) = fs::read_to_string(TABLE) else {
        return Ok(());
    };
    let uid = if is_root() {
        account(UNPRIVILEGED_USER).map(|account| account.uid)
    } else {
        fs::metadata("/proc/self").ok().map(|process| process.uid())
    };
    let Some(uid) = uid else {
        return Ok(());
    };
    let gone = |process: u32| !Path::new(&format!("/proc/{process}")).exists();
    let orphans = orphans(&table, uid, gone);
    for some in orphans.chunks(500) {
        let ids = some.iter().flat_map(|id| ["-m", id.as_str()]);
        let _ = output(Command::new("ipcrm").args(ids))?;
    }
    if !orphans.is_empty() {
        say(&format!(
            "  {} shared memory segments of killed servers are removed",
            orphans.len()
        ));
    }
    Ok(())
}

/// The ids of the orphaned ones. Columns: `key shmid perms size cpid lpid nattch uid ...`.
fn orphans(table: &str, uid: u32, gone: impl Fn(u32) -> bool) -> Vec<String> {
    let lines = table.lines().skip(1);
    lines
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, id, _, size, maker, _, attached, owner, ..] = fields[..] else {
                return None;
            };
            let orphaned = size.parse() == Ok(INTERLOCK_BYTES)
                && attached == "0"
                && owner.parse() == Ok(uid)
                && gone(maker.parse().ok()?);
            orphaned.then(|| id.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::orphans;

    #[test]
    fn only_what_nobody_can_have_is_removed() {
        let table = "\
       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid
  10216074          1   600                    56     7     8      0   101   104   101   104
  10216074          2   600                    56     7     8      3   101   104   101   104
  10216074          3   600                    56     9     8      0   101   104   101   104
  10216074          4   600                    57     7     8      0   101   104   101   104
  10216074          5   600                    56     7     8      0   102   104   102   104
";
        assert_eq!(orphans(table, 101, |process| process == 7), ["1"]);
    }
}
