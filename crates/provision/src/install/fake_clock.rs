//! libfaketime, Debian's: lets a test give a server and the services another day. Only tests need it.

use std::path::{Path, PathBuf};

use super::apt;
use crate::InstallError;

const PACKAGE: &str = "libfaketime";
/// Where Debian and Ubuntu put it, by machine.
const PLACES: [&str; 2] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
];

/// The library, if it is installed.
#[must_use]
pub fn fake_clock() -> Option<PathBuf> {
    let there = PLACES.iter().map(Path::new).find(|place| place.exists());
    there.map(Path::to_path_buf)
}

/// Finds the library, and installs its package where it is missing.
///
/// # Errors
/// When this machine has no such package, or only root may install it.
pub fn install_fake_clock(say: &mut dyn FnMut(&str)) -> Result<PathBuf, InstallError> {
    if let Some(found) = fake_clock() {
        return Ok(found);
    }
    let impossible = || {
        InstallError::Unavailable(format!(
            "install the package {PACKAGE} as root: apt-get install {PACKAGE}"
        ))
    };
    if !(apt::usable() && apt::has(PACKAGE, say)) {
        return Err(impossible());
    }
    apt::install(&[PACKAGE], say)?;
    fake_clock().ok_or_else(impossible)
}
