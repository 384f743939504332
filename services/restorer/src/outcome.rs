//! What is remembered beside a branch's files: the plan while it is being built, the outcome when it is finished.
//!
//! The outcome is written last. With it the branch exists here, whatever happens afterwards; everything that
//! must still be said is in it.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use events::command::BranchRegister;
use events::{RestoreId, RestoreSummary};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::compute::ComputeError;
use crate::error::RestoreError;
use crate::plan::StoredPlan;
use crate::site::Site;

/// A finished branch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FinishedBranch {
    /// The restore that made it.
    pub restore_id: RestoreId,
    /// Its server's major version.
    pub major: u32,
    /// Its server's port.
    pub port: u16,
    /// What came of the restore.
    pub summary: RestoreSummary,
    /// What registers it. Holds the credentials, sealed.
    pub register: BranchRegister,
    /// Whether it was seen as a part of its instance. Until then it is nobody's but the restore's.
    #[serde(default = "registered_by_default")]
    pub registered: bool,
}

/// What was written before this was remembered is not to be taken for a branch that nobody has.
fn registered_by_default() -> bool {
    true
}

impl FinishedBranch {
    /// The finished branch at a site, if there is one.
    ///
    /// # Errors
    /// The file is damaged or cannot be read.
    pub fn at(site: &Site) -> Result<Option<Self>, RestoreError> {
        read(&site.outcome_file())
    }

    /// Writes it down.
    ///
    /// # Errors
    /// As the file system's.
    pub fn store(&self, site: &Site) -> Result<(), RestoreError> {
        write(&site.outcome_file(), self)
    }
}

/// The plan that an earlier attempt at this restore followed, if it got so far here.
///
/// # Errors
/// The file is damaged or cannot be read.
pub fn stored_plan(site: &Site) -> Result<Option<StoredPlan>, RestoreError> {
    read(&site.plan_file())
}

/// Remembers the plan.
///
/// # Errors
/// As the file system's.
pub fn store_plan(site: &Site, plan: &StoredPlan) -> Result<(), RestoreError> {
    write(&site.plan_file(), plan)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, RestoreError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ComputeError::file("read", path)(error).into()),
    };
    let value = serde_json::from_slice(&text).map_err(|source| RestoreError::Stored {
        what: path.display().to_string(),
        source: Box::new(source),
    })?;
    Ok(Some(value))
}

/// Whole or not at all, and durable.
fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), RestoreError> {
    let text = serde_json::to_vec_pretty(value).map_err(|source| RestoreError::Stored {
        what: path.display().to_string(),
        source: Box::new(source),
    })?;
    let temporary = path.with_extension("new");
    let mut options = fs::File::options();
    let _ = options.create(true).truncate(true).write(true).mode(0o600);
    let written = options
        .open(&temporary)
        .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| {
            path.parent()
                .map_or(Ok(()), |parent| fs::File::open(parent)?.sync_all())
        });
    Ok(written.map_err(ComputeError::file("write", path))?)
}
