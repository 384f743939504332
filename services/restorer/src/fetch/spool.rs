//! The spool: a directory in which the script asks and the service answers.
//!
//! ```text
//! want/<file>     made by the script: recovery waits for this file
//! ready/<file>    whole files; the script takes one by renaming it
//! absent/<file>   the plan knows that this file is not part of the restore
//! heartbeat       touched by the service
//! ```

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

use repository::Owner;

use super::FetchError;
use crate::settings::shell_quoted;

/// Minutes without a heartbeat after which recovery is ended: the restorer is dead, and whoever takes the
/// restore over begins anew.
const STALE_MINUTES: u32 = 5;

/// How the script says "not in the archive"; no other failure of the script or of its shell may mean that.
const ABSENT_STATUS: u32 = 44;

/// The `restore_command` that runs the script at `path`.
///
/// Exit 1 means "not in the archive" to PostgreSQL; anything above 128 is fatal for recovery
/// (`RestoreArchivedFile`, PostgreSQL `src/backend/access/transam/xlogarchive.c`), which is what a question
/// without an answer must be.
#[must_use]
pub fn restore_command(path: &Path) -> String {
    // In this setting % begins an escape.
    let path = shell_quoted(path).replace('%', "%%");
    format!("/bin/sh {path} %f %p; case $? in 0) ;; {ABSENT_STATUS}) exit 1;; *) exit 255;; esac")
}

/// The text of the script for a spool.
#[must_use]
pub fn script(spool: &Path) -> String {
    let spool = shell_quoted(spool);
    format!(
        r#"#!/bin/sh
# Written by Zektor. Asks the restorer for one WAL file: fetch_wal.sh NAME DESTINATION
spool={spool}
file=$1
looks=0
while :; do
  if [ -e "$spool/ready/$file" ]; then
    rm -f "$spool/want/$file"
    mv -f "$spool/ready/$file" "$2" 2>/dev/null && exit 0
    # It may have been withdrawn at this moment; otherwise the destination is at fault.
    [ ! -e "$spool/ready/$file" ] || exit 255
  fi
  if [ -e "$spool/absent/$file" ]; then
    rm -f "$spool/want/$file" "$spool/absent/$file"
    exit {ABSENT_STATUS}
  fi
  [ -e "$spool/want/$file" ] || touch "$spool/want/$file" || exit 255
  looks=$((looks + 1))
  if [ "$looks" -ge 100 ]; then
    looks=0
    [ -n "$(find "$spool/heartbeat" -mmin -{STALE_MINUTES} 2>/dev/null)" ] || exit 255
  fi
  sleep 0.02 || exit 255
done
"#
    )
}

pub(super) struct Spool {
    directory: PathBuf,
    owner: Option<Owner>,
}

impl Spool {
    pub(super) fn new(directory: PathBuf, owner: Option<Owner>) -> Self {
        Spool { directory, owner }
    }

    pub(super) fn heartbeat(&self) -> Result<(), FetchError> {
        self.touch(&self.directory.join("heartbeat"))
    }

    pub(super) fn wanted(&self) -> Result<BTreeSet<String>, FetchError> {
        self.names("want")
    }

    pub(super) fn ready(&self) -> Result<BTreeSet<String>, FetchError> {
        self.names("ready")
    }

    pub(super) fn say_absent(&self, file: &str) -> Result<(), FetchError> {
        self.touch(&self.directory.join("absent").join(file))?;
        self.forget("want", file)
    }

    pub(super) fn withdraw(&self, file: &str) -> Result<(), FetchError> {
        self.forget("ready", file)
    }

    /// A file appears whole or not at all.
    pub(super) fn put(&self, file: &str, bytes: &[u8]) -> Result<(), FetchError> {
        let temporary = self.directory.join("tmp").join(file);
        let ready = self.directory.join("ready").join(file);
        let written = self
            .create(&temporary)
            .and_then(|mut created| created.write_all(bytes));
        written
            .and_then(|()| fs::rename(&temporary, &ready))
            .map_err(self.failed(&ready))
    }

    fn touch(&self, path: &Path) -> Result<(), FetchError> {
        self.create(path)
            .and_then(|file| file.set_modified(now()))
            .map_err(self.failed(path))
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        let mut options = File::options();
        let _ = options.create(true).truncate(true).write(true).mode(0o600);
        let file = options.open(path)?;
        if let Some(owner) = self.owner {
            chown(path, Some(owner.uid), Some(owner.gid))?;
        }
        Ok(file)
    }

    fn forget(&self, folder: &str, file: &str) -> Result<(), FetchError> {
        let path = self.directory.join(folder).join(file);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed(&path)(error)),
            _ => Ok(()),
        }
    }

    fn names(&self, folder: &str) -> Result<BTreeSet<String>, FetchError> {
        let path = self.directory.join(folder);
        let entries = fs::read_dir(&path).map_err(self.failed(&path))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.collect())
    }

    fn failed(&self, path: &Path) -> impl FnOnce(io::Error) -> FetchError + use<> {
        let path = path.to_owned();
        move |source| FetchError::Spool { path, source }
    }
}

/// A file's time is the machine's business, compared by `find` with the machine's own clock.
#[expect(
    clippy::disallowed_methods,
    reason = "the file system's clock, not a decision's"
)]
fn now() -> std::time::SystemTime {
    std::time::SystemTime::now()
}
