//! Records in words: those of the reader, and the same from a line of `pg_waldump`.

use std::fmt::Write;

use pg_format::Lsn;
use pg_format::wal::WalRecord;

use super::content::{content_in_words, described_content};

/// What `pg_waldump` and the reader both say of a record.
pub(super) fn in_words(record: &WalRecord<'_>) -> String {
    let header = record.header;
    let mut words = format!(
        "{} {} bytes, tx {}, at {:?} after {:?}",
        header.resource_manager, header.length, header.xid, record.start, header.previous
    );
    if let Some(end) = record.transaction_end().unwrap() {
        write!(words, ", ended {}", end.time).unwrap();
    }
    for block in record.body().unwrap().blocks() {
        let (file, block_number) = (block.relation, block.block);
        let fork = ["", " fork fsm", " fork vm", " fork init"][usize::from(block.fork)];
        let image = block.image.map_or("", |_| " FPW");
        write!(
            words,
            ", #{}: rel {}/{}/{}{fork} blk {block_number}{image}",
            block.id, file.tablespace, file.database, file.number
        )
        .unwrap();
    }
    words + &content_in_words(record)
}

/// The same, from a line of `pg_waldump`:
/// `rmgr: Heap len (rec/tot): 59/ 59, tx: 743, lsn: 0/0A28, prev 0/E860, desc: INSERT, blkref #0: …`
pub(super) fn waldump_in_words(line: &str) -> (Lsn, String) {
    let (head, description) = line.split_once(", desc: ").unwrap();
    let between = |from: &str, to: &str| {
        let rest = &head[head.find(from).unwrap() + from.len()..];
        rest[..rest.find(to).unwrap_or(rest.len())]
            .trim()
            .to_owned()
    };
    let lsn: Lsn = between("lsn: ", ",").parse().unwrap();
    let previous: Lsn = between("prev ", ",").parse().unwrap();
    let length = between("(rec/tot): ", ",");
    let length = length.split_once('/').unwrap().1.trim();
    let manager = between("rmgr: ", " len");
    let mut words = format!(
        "{manager} {length} bytes, tx {}, at {lsn:?} after {previous:?}",
        between("tx: ", ",")
    );
    let operation = description.split([' ', ':']).next().unwrap();
    let ends = ["COMMIT", "ABORT", "COMMIT_PREPARED", "ABORT_PREPARED"].contains(&operation);
    if manager == "Transaction" && ends {
        let before_zone = description.split(" UTC").next().unwrap();
        let time = &before_zone[before_zone.len() - "2026-11-22 15:09:59.956115".len()..];
        write!(words, ", ended {}Z", time.replace(' ', "T")).unwrap();
    }
    for block in description.split(", blkref ").skip(1) {
        write!(words, ", {}", block.trim_end()).unwrap();
    }
    let xid = between("tx: ", ",");
    words += &described_content(&manager, &xid, description);
    (lsn, words)
}
