//! Debian's packages, for root only; everybody else is told what to install.

use std::process::Command;

use crate::run::{run, succeeds};
use crate::{InstallError, account};

/// Whether packages can be installed: root on a machine with `apt-get`.
pub(super) fn usable() -> bool {
    account::is_root() && succeeds(Command::new("apt-get").arg("--version"))
}

/// Whether the distribution has the package. Refreshes the lists once where a bare machine has none.
pub(super) fn has(package: &str, say: &mut dyn FnMut(&str)) -> bool {
    if candidate(package) {
        return true;
    }
    say("refreshing the package lists");
    // A machine that cannot reach its mirrors simply has no candidate.
    let _ = run(Command::new("apt-get").args(["update", "-qq"]));
    candidate(package)
}

fn candidate(package: &str) -> bool {
    run(Command::new("apt-cache").args(["policy", package])).is_ok_and(|policy| {
        policy.lines().any(|line| {
            line.trim()
                .strip_prefix("Candidate: ")
                .is_some_and(|version| version != "(none)")
        })
    })
}

/// Installs packages without their recommendations and without questions.
pub(super) fn install(packages: &[&str], say: &mut dyn FnMut(&str)) -> Result<(), InstallError> {
    say(&format!("apt-get install {}", packages.join(" ")));
    let _ = run(Command::new("apt-get")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args([
            "-o",
            "DPkg::Lock::Timeout=300",
            "install",
            "-y",
            "-qq",
            "--no-install-recommends",
        ])
        .args(packages))?;
    Ok(())
}
