//! Finds the programs of a major version: what the operator named, what Zektor installed, what the system has.

use std::path::{Path, PathBuf};

use pg_format::ServerVersion;
use provision::{Tool, Tools};

use super::{Compute, ComputeError};

/// An installation of PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// The folder of its programs.
    pub bin: PathBuf,
    /// Its version.
    pub version: ServerVersion,
}

impl Programs {
    /// The path of a program, whether or not it exists.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }
}

/// The folders to look in, best first.
fn candidates(major: u32, configured: &[PathBuf]) -> Vec<PathBuf> {
    let mut folders = configured.to_vec();
    if let (Some(tool), Ok(tools)) = (Tool::postgres(major), Tools::from_environment())
        && let Ok(found) = tools.find(tool)
    {
        folders.push(found.bin_directory);
    }
    folders.push(PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")));
    folders
}

/// The first installation of `major` whose `postgres` runs as the server's user.
pub(super) async fn find(
    compute: &dyn Compute,
    major: u32,
    configured: &[PathBuf],
) -> Result<Programs, ComputeError> {
    let configured = configured.to_vec();
    // Asks programs for their versions, which blocks.
    let folders = tokio::task::spawn_blocking(move || candidates(major, &configured))
        .await
        .unwrap_or_default();
    for bin in &folders {
        if let Some(version) = version_of(compute, bin).await
            && version.major() == major
        {
            return Ok(Programs {
                bin: bin.clone(),
                version,
            });
        }
    }
    let looked: Vec<String> = folders
        .iter()
        .map(|folder| folder.display().to_string())
        .collect();
    Err(ComputeError::NoPrograms {
        major,
        looked: looked.join(", "),
    })
}

/// `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`
async fn version_of(compute: &dyn Compute, bin: &Path) -> Option<ServerVersion> {
    let program = bin.join("postgres");
    if !program.is_file() {
        return None;
    }
    let printed = compute.run(&program, &["--version"]).await.ok()?;
    let (_, version) = printed.split_once(") ")?;
    ServerVersion::from_server_version(version.trim()).ok()
}
