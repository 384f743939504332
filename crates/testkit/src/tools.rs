//! Where the servers and the temporary files of tests are.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use provision::{Found, Tool, Tools, is_root};
use tempfile::TempDir;

/// Finds an installed server.
///
/// # Errors
/// When it is missing; the error says what to do.
pub fn tool(tool: Tool) -> Result<Found> {
    Ok(Tools::from_environment()?.find(tool)?)
}

/// A temporary directory that the user `postgres` can enter when we are root; removed when it is dropped.
///
/// # Errors
/// When it cannot be created.
pub fn temporary_directory() -> Result<TempDir> {
    let base = if is_root() {
        PathBuf::from("/tmp")
    } else {
        std::env::temp_dir()
    };
    let directory = tempfile::Builder::new()
        .prefix("zektor-test-")
        .permissions(Permissions::from_mode(0o755))
        .tempdir_in(&base);
    directory.with_context(|| format!("cannot create a directory in {}", base.display()))
}

/// The end of a log file, for error messages.
pub(crate) fn tail(log: &Path) -> String {
    const LINES: usize = 30;
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(LINES)..];
    format!("--- end of {}\n{}\n---", log.display(), shown.join("\n"))
}
