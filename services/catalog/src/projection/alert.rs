//! Alerts: raised, and over. What is over stays over; raised again, it is another one, with another beginning.

use events::Event;
use events::event::AlertSeverity;

use super::Change;
use crate::store::rows::AlertRow;

/// The change that `event` makes to an alert, if it is about one.
pub(super) fn of_event(event: &Event) -> Option<Change> {
    Some(Change::Alert(match event {
        Event::AlertRaised(raised) => AlertRow {
            instance: raised.instance.clone(),
            branch: raised.branch.clone(),
            rule: raised.rule,
            since: raised.since,
            severity: raised.severity,
            message: raised.message.clone(),
            hint: raised.hint.clone(),
            resolved_at: None,
        },
        // Shown as it stands here only if nobody knows any more how it was raised.
        Event::AlertResolved(resolved) => AlertRow {
            instance: resolved.instance.clone(),
            branch: resolved.branch.clone(),
            rule: resolved.rule,
            since: resolved.since,
            severity: AlertSeverity::Warning,
            message: resolved.message.clone(),
            hint: String::new(),
            resolved_at: Some(resolved.resolved_at),
        },
        _ => return None,
    }))
}
