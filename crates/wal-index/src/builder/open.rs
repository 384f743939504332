//! What transactions in flight have done so far.

mod rows;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use pg_format::wal::RelationFile;

use super::FILES;
use crate::model::{CreatedFile, DroppedDatabase, OpenTransaction, RowCounts};
use rows::TableRows;

/// Transactions remembered over a segment's end.
const CARRIED: usize = 1000;
/// Transactions remembered within a segment.
const IN_FLIGHT: usize = 10 * CARRIED;
/// Databases that a transaction drops, and tables it is said to truncate; it rarely is more than one.
const ITEMS: usize = 1000;

/// Keys are numbers that the server counts up; nobody chooses them to collide.
#[derive(Default)]
pub(super) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        let mixed = (self.0.rotate_left(5) ^ u64::from(number)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

pub(super) type NumberMap<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;

/// Transactions and subtransactions that have done something worth remembering, by their own xid.
#[derive(Debug)]
pub(super) struct OpenTransactions {
    open: NumberMap<u32, InFlight>,
    /// Files created to which nothing was written yet, and by whom.
    unfilled: NumberMap<RelationFile, u32>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct InFlight {
    prepared: bool,
    rows: TableRows,
    created: Vec<CreatedFile>,
    created_more: u32,
    dropped_databases: Vec<DroppedDatabase>,
    truncated: Vec<(u32, u32)>,
}

impl OpenTransactions {
    pub(super) fn new(carry: Vec<OpenTransaction>) -> Self {
        let mut transactions = OpenTransactions {
            open: NumberMap::default(),
            unfilled: NumberMap::default(),
        };
        for open in carry {
            for created in open.created.iter().filter(|created| !created.filled) {
                let _ = transactions.unfilled.insert(created.file, open.xid);
            }
            let _ = transactions.open.insert(open.xid, InFlight::from(open));
        }
        transactions
    }

    /// Whether it matters what is written to.
    pub(super) fn awaits_filling(&self) -> bool {
        !self.unfilled.is_empty()
    }

    fn of(&mut self, xid: u32) -> Option<&mut InFlight> {
        if xid == 0 {
            return None;
        }
        if self.open.len() >= IN_FLIGHT && !self.open.contains_key(&xid) {
            self.shrink();
        }
        Some(self.open.entry(xid).or_default())
    }

    pub(super) fn rows(
        &mut self,
        xid: u32,
        file: RelationFile,
        count: impl FnOnce(&mut RowCounts) -> &mut u64,
    ) {
        if let Some(rows) = self.of(xid).and_then(|open| open.rows.of(file)) {
            let count = count(rows);
            *count = count.saturating_add(1);
        }
    }

    pub(super) fn created(&mut self, xid: u32, file: RelationFile) {
        let filled = false;
        if self.of(xid).is_some_and(|open| open.create(file, filled)) {
            let _ = self.unfilled.insert(file, xid);
        }
    }

    /// What is written to it is not logged, so it counts as filled: it is not known to be empty.
    pub(super) fn created_unlogged(&mut self, xid: u32, file: RelationFile) {
        if let Some(open) = self.of(xid)
            && open.created.last().is_none_or(|last| last.file != file)
        {
            let _ = open.create(file, true);
        }
    }

    pub(super) fn fill(&mut self, file: RelationFile) {
        if self.unfilled.is_empty() {
            return;
        }
        let creator = self.unfilled.remove(&file);
        let Some(open) = creator.and_then(|xid| self.open.get_mut(&xid)) else {
            return;
        };
        // What was created last is filled first, as a rule.
        if let Some(created) = open
            .created
            .iter_mut()
            .rev()
            .find(|created| created.file == file)
        {
            created.filled = true;
        }
    }

    pub(super) fn dropped_database(&mut self, xid: u32, dropped: DroppedDatabase) {
        if let Some(open) = self.of(xid) {
            let room = open.dropped_databases.len() < ITEMS;
            // One record for each tablespace, in 14: the first removes files already.
            let known = open
                .dropped_databases
                .iter()
                .any(|known| known.database == dropped.database);
            if room && !known {
                open.dropped_databases.push(dropped);
            }
        }
    }

    pub(super) fn truncated(&mut self, xid: u32, database: u32, tables: impl Iterator<Item = u32>) {
        if let Some(open) = self.of(xid) {
            let room = ITEMS.saturating_sub(open.truncated.len());
            open.truncated
                .extend(tables.map(|table| (database, table)).take(room));
        }
    }

    /// The transaction is prepared: what its subtransactions did is its own from now on.
    pub(super) fn prepare(&mut self, xid: u32, subtransactions: impl Iterator<Item = u32>) {
        if self.open.is_empty() {
            return;
        }
        let mut whole = self.open.remove(&xid);
        for subtransaction in subtransactions {
            if let Some(part) = self.open.remove(&subtransaction) {
                whole.get_or_insert_default().add(part);
            }
        }
        if let Some(mut whole) = whole {
            whole.prepared = true;
            for created in whole.created.iter().filter(|created| !created.filled) {
                let _ = self.unfilled.insert(created.file, xid);
            }
            let _ = self.open.insert(xid, whole);
        }
    }

    /// What a transaction and its subtransactions did, which are in flight no more.
    pub(super) fn take(&mut self, xids: impl Iterator<Item = u32>) -> OpenTransaction {
        let mut whole: Option<InFlight> = None;
        if !self.open.is_empty() {
            for part in xids.filter_map(|xid| self.remove(xid)) {
                match &mut whole {
                    Some(whole) => whole.add(part),
                    None => whole = Some(part),
                }
            }
        }
        whole.map_or_else(OpenTransaction::default, |whole| whole.into_open(0))
    }

    pub(super) fn remove(&mut self, xid: u32) -> Option<InFlight> {
        let open = self.open.remove(&xid)?;
        if !self.unfilled.is_empty() {
            for created in &open.created {
                let _ = self.unfilled.remove(&created.file);
            }
        }
        Some(open)
    }

    /// The server ended, in order or not: only prepared transactions survive that.
    pub(super) fn server_ended(&mut self) {
        self.open.retain(|_, open| open.prepared);
        let open = &self.open;
        self.unfilled.retain(|_, xid| open.contains_key(xid));
    }

    /// Forgets all but the largest, and gives those.
    pub(super) fn carry(&mut self) -> Vec<OpenTransaction> {
        self.shrink();
        self.snapshot()
    }

    /// What [`OpenTransactions::carry`] would give, the lowest xid first.
    pub(super) fn snapshot(&self) -> Vec<OpenTransaction> {
        let mut carried: Vec<OpenTransaction> = self
            .largest()
            .into_iter()
            .filter_map(|xid| Some(self.open.get(&xid)?.clone().into_open(xid)))
            .collect();
        carried.sort_by_key(|open| open.xid);
        carried
    }

    fn largest(&self) -> Vec<u32> {
        let mut xids: Vec<u32> = self.open.keys().copied().collect();
        if xids.len() > CARRIED {
            xids.sort_by_cached_key(|xid| {
                let size = self.open.get(xid).map(InFlight::size);
                (Reverse(size), *xid)
            });
            xids.truncate(CARRIED);
        }
        xids
    }

    fn shrink(&mut self) {
        if self.open.len() <= CARRIED {
            return;
        }
        let mut keep = self.largest();
        keep.sort_unstable();
        self.open.retain(|xid, _| keep.binary_search(xid).is_ok());
        let open = &self.open;
        self.unfilled.retain(|_, xid| open.contains_key(xid));
    }
}

impl InFlight {
    /// Whether there was room.
    fn create(&mut self, file: RelationFile, filled: bool) -> bool {
        let room = self.created.len() < FILES;
        match room {
            true => self.created.push(CreatedFile { file, filled }),
            false => self.created_more = self.created_more.saturating_add(1),
        }
        room
    }

    /// What matters most comes first.
    fn size(&self) -> (usize, usize, u64) {
        (
            self.dropped_databases.len(),
            self.created.len() + self.truncated.len(),
            self.rows.total(),
        )
    }

    fn add(&mut self, part: InFlight) {
        for rows in part.rows.into_counts() {
            if let Some(own) = self.rows.of(rows.file) {
                own.deleted = own.deleted.saturating_add(rows.deleted);
                own.updated = own.updated.saturating_add(rows.updated);
            }
        }
        let room = FILES.saturating_sub(self.created.len());
        let more = part.created.len().saturating_sub(room);
        self.created.extend(part.created.into_iter().take(room));
        self.created_more = self
            .created_more
            .saturating_add(part.created_more)
            .saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
        self.dropped_databases.extend(part.dropped_databases);
        self.dropped_databases.truncate(ITEMS);
        self.truncated.extend(part.truncated);
        self.truncated.truncate(ITEMS);
    }

    fn into_open(self, xid: u32) -> OpenTransaction {
        OpenTransaction {
            xid,
            prepared: self.prepared,
            rows: self.rows.into_counts(),
            created: self.created,
            created_more: self.created_more,
            dropped_databases: self.dropped_databases,
            truncated: self.truncated,
        }
    }
}

impl From<OpenTransaction> for InFlight {
    fn from(open: OpenTransaction) -> Self {
        InFlight {
            prepared: open.prepared,
            rows: TableRows::new(open.rows),
            created: open.created,
            created_more: open.created_more,
            dropped_databases: open.dropped_databases,
            truncated: open.truncated,
        }
    }
}
