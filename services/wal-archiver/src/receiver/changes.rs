//! Sees in the stream that names of relations may have changed: a commit that created or dropped files.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pg_format::wal::{RecordContent, ResourceManager, TransactionCommit, WalRecord};
use tokio::time::Instant;

use crate::relations::Wanted;

/// Transactions with new files that are remembered until they end.
const MOST_CREATING: usize = 4096;
/// A file that was made before its transaction had an xid is anybody's who changes catalogs within this time.
const UNOWNED_FOR: Duration = Duration::from_secs(60);

/// Transactions in flight that will change names.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// The database of the files that a transaction created.
    creating: BTreeMap<u32, u32>,
    unowned: BTreeMap<u32, Instant>,
    databases: bool,
    wanted: Wanted,
}

impl Changes {
    /// Looks at the next record.
    pub(super) fn observe(&mut self, record: &WalRecord<'_>) {
        match record.header.resource_manager {
            ResourceManager::STORAGE | ResourceManager::TRANSACTION => {}
            ResourceManager::DATABASE => {
                self.databases = true;
                return;
            }
            _ => return,
        }
        // A record that is valid and yet not understood is not archived less for it.
        match record.content() {
            Ok(RecordContent::FileCreated { file, fork: 0 }) => {
                let xid = record.header.xid;
                if xid != 0 && self.creating.len() < MOST_CREATING {
                    let _ = self.creating.insert(xid, file.database);
                } else {
                    let _ = self.unowned.insert(file.database, Instant::now());
                }
            }
            Ok(RecordContent::Commit(commit)) => self.commit(&commit),
            Ok(RecordContent::Abort(abort)) => {
                for xid in abort.subtransactions.iter().chain(abort.xid) {
                    let _ = self.creating.remove(&xid);
                }
            }
            _ => {}
        }
    }

    fn commit(&mut self, commit: &TransactionCommit<'_>) {
        for xid in commit.subtransactions.iter().chain(commit.xid) {
            self.wanted.databases.extend(self.creating.remove(&xid));
        }
        let dropped = commit.dropped_files.iter().map(|file| file.database);
        self.wanted.databases.extend(dropped);
        if commit.invalidations == 0 {
            return;
        }
        let now = Instant::now();
        self.unowned.retain(|_, since| now - *since < UNOWNED_FOR);
        self.wanted.databases.extend(self.unowned.keys());
        self.wanted.all |= std::mem::take(&mut self.databases);
    }

    /// What changed since the last call.
    pub(super) fn take(&mut self) -> Option<Wanted> {
        let wanted = std::mem::take(&mut self.wanted);
        (wanted.all || wanted.databases != BTreeSet::new()).then_some(wanted)
    }
}
