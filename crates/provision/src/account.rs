//! Who runs PostgreSQL: it refuses to run as root, so root hands it to an unprivileged user.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use crate::InstallError;
use crate::run::run;

/// The user that runs PostgreSQL when we are root, as Debian's own packages do.
pub const UNPRIVILEGED_USER: &str = "postgres";

/// A user of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// The user's primary group.
    pub gid: u32,
}

/// Whether this process runs as root (by the owner of `/proc/self`, the effective user).
#[must_use]
pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// Looks a user up in `/etc/passwd`.
#[must_use]
pub fn account(name: &str) -> Option<Account> {
    parse(&fs::read_to_string("/etc/passwd").ok()?, name)
}

fn parse(passwd: &str, name: &str) -> Option<Account> {
    let line = passwd
        .lines()
        .find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some(Account {
        uid: fields.next()?.parse().ok()?,
        gid: fields.next()?.parse().ok()?,
    })
}

/// Makes sure that [`UNPRIVILEGED_USER`] exists when we are root; does nothing otherwise.
///
/// # Errors
/// When `useradd` fails.
pub fn ensure_unprivileged_user(say: &mut dyn FnMut(&str)) -> Result<(), InstallError> {
    if !is_root() || account(UNPRIVILEGED_USER).is_some() {
        return Ok(());
    }
    say("creating the system user `postgres`, because PostgreSQL refuses to run as root");
    let added = run(Command::new("useradd").args([
        "--system",
        "--user-group",
        "--no-create-home",
        "--shell",
        "/bin/sh",
        UNPRIVILEGED_USER,
    ]));
    // Another set-up may have been faster.
    if account(UNPRIVILEGED_USER).is_some() {
        Ok(())
    } else {
        added.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_exact_name_only() {
        let passwd = "postgres2:x:7:8::/:\npostgres:x:101:104:a,b:/var/lib:/bin/bash\n";
        assert_eq!(
            parse(passwd, "postgres"),
            Some(Account { uid: 101, gid: 104 })
        );
        assert_eq!(parse(passwd, "postgre"), None);
        assert_eq!(parse("postgres:x:bad:1::", "postgres"), None);
    }
}
