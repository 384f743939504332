//! The sweeps that let go what nothing needs any more. What they took is told of each thing by itself; only the
//! history files of timelines go without a word of their own.

use events::Event;

use super::Change;
use crate::store::rows::SweepRow;

/// The change that `event` makes to a sweep, if it is about one.
pub(super) fn of_event(event: &Event) -> Option<Change> {
    Some(Change::Sweep(match event {
        Event::BranchSweepRequested(requested) => SweepRow {
            instance: requested.instance.clone(),
            branch: requested.branch.clone(),
            id: requested.sweep_id,
            asked_at: Some(requested.sweep.asked_at),
            histories: requested.sweep.histories.clone(),
            objects: None,
            bytes: None,
            swept_at: None,
        },
        Event::BranchSwept(swept) => SweepRow {
            instance: swept.instance.clone(),
            branch: swept.branch.clone(),
            id: swept.sweep_id,
            asked_at: None,
            histories: Vec::new(),
            objects: Some(swept.objects),
            bytes: Some(swept.bytes),
            swept_at: Some(swept.swept_at),
        },
        _ => return None,
    }))
}
