//! What is said of a branch's WAL.

use events::Event;

use super::Change;
use crate::store::rows::{SlotRiskRow, WalFileRow, WalGapRow, WalPruneRow};

/// The change that `event` makes to a branch's WAL, if it is about that.
pub(super) fn of_event(event: &Event) -> Option<Change> {
    Some(match event {
        Event::WalSegmentArchived(archived) => Change::PutFile(WalFileRow {
            instance: archived.instance.clone(),
            branch: archived.branch.clone(),
            timeline: archived.timeline,
            start_lsn: archived.start_lsn,
            kind: archived.kind,
            segment: archived.segment.clone(),
            end_lsn: archived.end_lsn,
            stored_bytes: archived.stored_bytes,
            archived_at: archived.archived_at,
        }),
        Event::WalGapDetected(gap) => Change::PutGap(WalGapRow {
            instance: gap.instance.clone(),
            branch: gap.branch.clone(),
            timeline: gap.timeline,
            from_lsn: gap.from_lsn,
            to_lsn: gap.to_lsn,
            cause: gap.cause,
            detected_at: gap.detected_at,
        }),
        Event::WalPruned(pruned) => Change::Prune(WalPruneRow {
            instance: pruned.instance.clone(),
            branch: pruned.branch.clone(),
            timeline: pruned.timeline,
            from_lsn: pruned.from_lsn,
            to_lsn: pruned.to_lsn,
            pruned_at: pruned.pruned_at,
        }),
        Event::SlotRiskChanged(changed) => Change::PutSlotRisk(SlotRiskRow {
            instance: changed.instance.clone(),
            branch: changed.branch.clone(),
            level: changed.level,
            held_bytes: changed.held_bytes,
            limit_bytes: changed.limit_bytes,
            message: changed.message.clone(),
            changed_at: changed.changed_at,
        }),
        _ => return None,
    })
}
