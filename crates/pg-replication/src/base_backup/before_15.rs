//! How PostgreSQL 14 sends a base backup: one copy for each archive, in the order of the tablespace rows, and
//! one more for the manifest (server `basebackup.c`). Made to look like what newer servers send.
//!
//! Two things are added here. Archives end with the two empty blocks that tar demands and this server leaves
//! to its client, and progress is what came so far, because only newer servers say it.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{BackupMessage, BaseBackupOptions, Tablespace};

/// How often progress is told; newer servers do it about as often.
const PROGRESS_EVERY_BYTES: u64 = 1 << 20;
/// Two blocks of zeros (POSIX, pax, "ustar Interchange Format").
static END_OF_ARCHIVE: [u8; 1024] = [0; 1024];

/// The command in the grammar of PostgreSQL 14, which the newer one replaced.
pub(super) fn command(options: &BaseBackupOptions) -> String {
    let mut command = format!(
        "BASE_BACKUP LABEL '{}' PROGRESS TABLESPACE_MAP",
        options.label.replace('\'', "''")
    );
    for (wanted, word) in [
        (options.fast_checkpoint, " FAST"),
        (!options.wait_for_wal, " NOWAIT"),
        (options.include_wal, " WAL"),
        (!options.verify_checksums, " NOVERIFY_CHECKSUMS"),
        (
            options.manifest,
            " MANIFEST 'yes' MANIFEST_CHECKSUMS 'CRC32C'",
        ),
    ] {
        if wanted {
            command.push_str(word);
        }
    }
    if let Some(rate) = options.max_rate_kib {
        command.push_str(&format!(" MAX_RATE {rate}"));
    }
    command
}

/// The copies that are still to come, and where the one that runs stands.
#[derive(Debug)]
pub(super) struct SeparateCopies {
    /// What begins with each copy.
    coming: VecDeque<BackupMessage>,
    in_archive: bool,
    done_bytes: u64,
    told_bytes: u64,
}

impl SeparateCopies {
    pub(super) fn new(tablespaces: &[Tablespace], manifest: bool) -> Self {
        let mut coming: VecDeque<_> = tablespaces.iter().map(archive).collect();
        if manifest {
            coming.push_back(BackupMessage::Manifest);
        }
        SeparateCopies {
            coming,
            in_archive: false,
            done_bytes: 0,
            told_bytes: 0,
        }
    }

    /// A copy begins; `None` if none was due.
    pub(super) fn begin(&mut self) -> Option<BackupMessage> {
        let message = self.coming.pop_front()?;
        self.in_archive = matches!(message, BackupMessage::Archive { .. });
        Some(message)
    }

    /// Bytes came; the progress to tell after them, if it is time.
    pub(super) fn count(&mut self, length: usize) -> Option<BackupMessage> {
        if self.in_archive {
            self.done_bytes += length as u64;
        }
        (self.done_bytes - self.told_bytes >= PROGRESS_EVERY_BYTES).then(|| self.progress())
    }

    /// A copy ended; what is added to it.
    pub(super) fn end(&mut self) -> Vec<BackupMessage> {
        if !std::mem::take(&mut self.in_archive) {
            return Vec::new();
        }
        let ending = BackupMessage::Data(Bytes::from_static(&END_OF_ARCHIVE));
        vec![ending, self.progress()]
    }

    /// Every copy has begun, so after the end of this one the end row is due.
    pub(super) fn is_last(&self) -> bool {
        self.coming.is_empty()
    }

    fn progress(&mut self) -> BackupMessage {
        self.told_bytes = self.done_bytes;
        BackupMessage::Progress(self.done_bytes)
    }
}

/// Named as newer servers name it.
fn archive(tablespace: &Tablespace) -> BackupMessage {
    BackupMessage::Archive {
        name: match tablespace.oid {
            Some(oid) => format!("{oid}.tar"),
            None => "base.tar".to_owned(),
        },
        location: tablespace.location.clone().unwrap_or_default(),
    }
}
