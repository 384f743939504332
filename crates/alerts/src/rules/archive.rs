//! Rules about WAL and what can be restored from it.

use chrono::TimeDelta;
use events::Timestamp;
use events::event::{AlertSeverity, GapCause, SlotRiskLevel};

use super::words::{inside, span};
use super::{Finding, Judgement};
use crate::Settings;
use crate::facts::{Facts, Shrunk};

/// A lag so many times over the limit is urgent.
const URGENT: i32 = 12;
/// What explains a smaller window may be heard a little later than the window.
const EXPLANATION: TimeDelta = TimeDelta::minutes(10);
/// A smaller window is told for so long; then it is how things are.
const TOLD: TimeDelta = TimeDelta::days(7);
/// A slot that is harmless again must have been for so long.
const CALM: TimeDelta = TimeDelta::minutes(5);

pub(super) fn lag(facts: &Facts, settings: &Settings) -> Judgement {
    if facts.is_stopped() {
        return Judgement::Good("the server was stopped, and writes no WAL");
    }
    let [first, last] = &facts.looks()[..] else {
        return Judgement::Unsettled;
    };
    let over = |secs: i64, times: i32| TimeDelta::seconds(secs) > settings.lag * times;
    match (over(first.what.secs, 1), over(last.what.secs, 1)) {
        (false, false) => Judgement::Good("the archive has caught up"),
        (true, true) => {
            let urgent = over(first.what.secs, URGENT) && over(last.what.secs, URGENT);
            let why = last
                .what
                .error
                .as_deref()
                .map_or_else(String::new, |error| format!(": {}", inside(error)));
            Judgement::Bad(Finding {
                severity: if urgent { AlertSeverity::Critical } else { AlertSeverity::Warning },
                message: format!("the archive is {} behind its server{why}", span(TimeDelta::seconds(last.what.secs))),
                hint: "See `zektor wal status`; what was committed since would be lost with the server.".to_owned(),
                since: first.at - TimeDelta::seconds(first.what.secs),
            })
        }
        _ => Judgement::Unsettled,
    }
}

pub(super) fn gap(facts: &Facts) -> Judgement {
    let Some(gap) = facts.gaps.first() else {
        return Judgement::Good("a backup that begins behind the missing WAL was completed");
    };
    if gap.what.cause == GapCause::Damaged {
        return Judgement::Bad(Finding {
            severity: AlertSeverity::Critical,
            message: format!("archived WAL from {} to {} is damaged in the repository, or gone; no moment from there to the end of the next backup can be restored", gap.what.from_lsn, gap.what.to_lsn),
            hint: "See `zektor window`. If you have a sound copy of the object, write it back under its name: from then on it counts again. A backup is requested by itself if none begins behind it.".to_owned(),
            since: gap.at,
        });
    }
    let why = match gap.what.cause {
        GapCause::RemovedByServer => "the server removed it before it was read",
        GapCause::SlotLost => "the replication slot was lost",
        GapCause::SlotInvalidated => "the server invalidated the replication slot",
        GapCause::Released => "the slot was released because it threatened the server's disk",
        GapCause::NotPushed => "the server never pushed it",
        GapCause::Damaged => "it is damaged in the repository",
        GapCause::Unknown => "the reason is not known",
    };
    Judgement::Bad(Finding {
        severity: AlertSeverity::Critical,
        message: format!("WAL from {} to {} is missing, because {why}; nothing later can be restored until a backup is completed", gap.what.from_lsn, gap.what.to_lsn),
        hint: "A backup is requested by itself; see `zektor backup list`, and `zektor wal status` for the archive.".to_owned(),
        since: gap.at,
    })
}

pub(super) fn shrinking(facts: &Facts, now: Timestamp) -> Judgement {
    let Some(shrunk) = &facts.shrunk else {
        return Judgement::Good("the window reaches as far back as it did");
    };
    if facts.is_over(shrunk, now) {
        return Judgement::Good(
            "the window reaches as far back as it did, or its new length is wanted",
        );
    }
    if now - shrunk.seen_at < EXPLANATION {
        return Judgement::Unsettled;
    }
    let earliest = facts
        .window
        .as_ref()
        .and_then(|window| window.what.earliest);
    let (severity, message) = match earliest {
        None => (
            AlertSeverity::Critical,
            "nothing can be restored any more; there was a window before".to_owned(),
        ),
        Some(earliest) => (
            AlertSeverity::Warning,
            format!(
                "what can be restored begins {} later than before, and nothing was deleted by retention",
                span(earliest - shrunk.reached)
            ),
        ),
    };
    Judgement::Bad(Finding {
        severity,
        message,
        hint: "See `zektor window` and `zektor backup list`; check whether objects were deleted from the repository by somebody else.".to_owned(),
        since: shrunk.seen_at,
    })
}

pub(super) fn slot(facts: &Facts, now: Timestamp) -> Judgement {
    let Some(slot) = &facts.slot else {
        return Judgement::Unsettled;
    };
    let severity = match slot.what.level {
        SlotRiskLevel::Low if now - slot.at < CALM => return Judgement::Unsettled,
        SlotRiskLevel::Low => {
            return Judgement::Good("the WAL held back for the archive threatens nothing any more");
        }
        SlotRiskLevel::Unknown => return Judgement::Unsettled,
        SlotRiskLevel::Warning => AlertSeverity::Warning,
        SlotRiskLevel::Alert | SlotRiskLevel::Released => AlertSeverity::Critical,
    };
    Judgement::Bad(Finding {
        severity,
        message: format!("the WAL held back for the archive threatens the server's disk: {}", inside(&slot.what.message)),
        hint: "See `zektor wal status`: let the archive catch up, or give the server's disk more room.".to_owned(),
        since: slot.at,
    })
}

impl Facts {
    /// Whether a loss of the window needs nobody's attention (any more): it was wanted, or made good, or is old.
    pub(crate) fn is_over(&self, shrunk: &Shrunk, now: Timestamp) -> bool {
        let Some(earliest) = self.window.as_ref().and_then(|window| window.what.earliest) else {
            // Retention never lets go of the newest backup of a branch.
            return false;
        };
        let lost = shrunk.seen_at - shrunk.reached;
        now - earliest >= lost || now - shrunk.seen_at > TOLD || self.was_let_go(shrunk)
    }

    /// Whether retention, or a person, let go of what the window began with: the backup, or WAL that it leads on with.
    fn was_let_go(&self, shrunk: &Shrunk) -> bool {
        let Some(backup) = shrunk.backup else {
            return false;
        };
        let is_gone = self.let_go.iter().any(|gone| gone.what == Some(backup));
        let seen = (shrunk.seen_at, shrunk.seen_at + EXPLANATION);
        is_gone || self.sweeps.take_wal_behind(self.start_of(backup), seen)
    }
}
