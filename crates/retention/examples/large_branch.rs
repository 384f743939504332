//! How long planning takes for 10,000 backups and 1,000,000 segments on ten timelines.
//!
//! `cargo run -p retention --example large_branch`

use std::io::Write as _;
use std::time::Instant;

use chrono::{DateTime, TimeDelta};
use events::BackupId;
use pg_format::{Lsn, TimelineHistory, TimelineId, WalSegmentSize};
use retention::{Backup, HistoryFile, Stored, WalFile, WalFileKind, plan, project};

const BACKUPS: u64 = 10_000;
const SEGMENTS: u64 = 1_000_000;
const TIMELINES: u64 = 10;
const GAP_EVERY: u64 = 5_000;

fn main() -> std::io::Result<()> {
    let stored = branch();
    let mut out = std::io::stdout();
    let begin = Instant::now();
    let now = plan(&stored);
    let planned = begin.elapsed();
    let begin = Instant::now();
    let later = project(&stored, stored.now + TimeDelta::days(365));
    let later = plan(&later);
    let projected = begin.elapsed();
    writeln!(
        out,
        "{BACKUPS} backups, {} wal objects: planned in {planned:?} ({} stretches, {} marks); a year later in \
         {projected:?} ({} backups gone)",
        stored.wal.len(),
        now.wal.len(),
        now.marks().len(),
        later.deletions().count(),
    )
}

/// A backup every hour, kept for 30 days with its WAL, every tenth for ever without.
fn branch() -> Stored {
    let size = WalSegmentSize::DEFAULT;
    let segments_each = SEGMENTS / BACKUPS;
    let timeline_of = |segment: u64| u32::try_from(segment * TIMELINES / SEGMENTS).unwrap_or(0) + 1;
    let hours = |count: u64| TimeDelta::hours(i64::try_from(count).unwrap_or(0));
    let backup = |number: u64| {
        let first = number * segments_each;
        let at = DateTime::UNIX_EPOCH + hours(number);
        let for_ever = number.is_multiple_of(10);
        Backup {
            id: BackupId(uuid::Uuid::from_u128(u128::from(number))),
            name: format!("hourly-{number}"),
            timeline: TimelineId(timeline_of(first)),
            start_lsn: Lsn(first * size.bytes() + 40),
            stop_lsn: Lsn((first + 3) * size.bytes()),
            backed_up_at: at,
            expires_at: (!for_ever).then(|| at + hours(30 * 24)),
            wal_until: for_ever.then_some(at),
            stored_bytes: 1 << 30,
            damaged: false,
            hold: None,
            deletion: None,
            refers_to: Vec::new(),
        }
    };
    let file = |number: u64| WalFile {
        timeline: TimelineId(timeline_of(number)),
        number,
        kind: WalFileKind::Complete,
        stored_bytes: 4 << 20,
    };
    let mut history = TimelineHistory::root(TimelineId(1));
    let mut history_files = Vec::new();
    for child in 2..=TIMELINES {
        let from = Lsn((child - 1) * SEGMENTS / TIMELINES * size.bytes());
        let timeline = TimelineId(u32::try_from(child).unwrap_or(u32::MAX));
        if let Ok(forked) = history.fork(timeline, from, "promoted") {
            history = forked;
            history_files.push(HistoryFile {
                timeline,
                history: Some(history.clone()),
                stored_bytes: 100,
            });
        }
    }
    let wal = (0..SEGMENTS).filter(|number| number % GAP_EVERY != GAP_EVERY - 1);
    Stored {
        now: DateTime::UNIX_EPOCH + hours(BACKUPS),
        grace: TimeDelta::days(1),
        live: true,
        segment_size: size,
        archived_timeline: Some(history.timeline()),
        backups: (0..BACKUPS).map(backup).collect(),
        wal: wal.map(file).collect(),
        history_files,
        readers: Vec::new(),
        running: Vec::new(),
        leftovers: Vec::new(),
    }
}
