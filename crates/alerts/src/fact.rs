//! What may be heard of a branch.

use chrono::TimeDelta;
use events::event::{DrillStep, FailureCause, GapCause, SlotRiskLevel};
use events::{BackupId, BackupType, DrillId, ScheduleId, SweepId, Timestamp};
use pg_format::{Lsn, TimelineId};
use serde::{Deserialize, Serialize};

/// A fact about a branch. When it became true is told beside it.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// A backup is in the repository.
    BackupCompleted(Completed),
    /// A backup was given up.
    BackupFailed {
        /// The backup.
        backup_id: BackupId,
        /// The likely cause.
        cause: FailureCause,
        /// One sentence.
        message: String,
        /// What can be done.
        hint: String,
    },
    /// A stored backup was read whole.
    BackupVerified {
        /// The backup.
        backup_id: BackupId,
        /// What is wrong; sound when absent.
        problem: Option<String>,
    },
    /// What is wanted of a stored backup was changed.
    BackupMarked {
        /// The backup.
        backup_id: BackupId,
        /// Whether it is to go when the time of grace is over.
        to_go: bool,
    },
    /// A backup has been let go.
    LetGo {
        /// The backup.
        backup_id: BackupId,
    },
    /// Retention, or a person, lets go of backups and WAL.
    SweepAsked {
        /// The sweep.
        sweep_id: SweepId,
        /// The backups; none when only WAL goes.
        backups: Vec<BackupId>,
        /// Where its stretches of WAL end.
        wal: Vec<(TimelineId, Lsn)>,
    },
    /// That has been done, or was withdrawn.
    Swept {
        /// The sweep.
        sweep_id: SweepId,
        /// What is gone; nothing when it was withdrawn before it began.
        objects: u64,
    },
    /// What can be restored has changed its shape.
    WindowChanged {
        /// Its beginning; absent when nothing can be restored.
        earliest: Option<Timestamp>,
        /// The backup it begins with.
        backup: Option<BackupId>,
    },
    /// WAL is missing for good.
    GapDetected(Gap),
    /// The WAL held back for the archive threatens the source's disk more, or less.
    SlotRisk {
        /// How much.
        level: SlotRiskLevel,
        /// Why, and what can be done.
        message: String,
    },
    /// A rehearsed restore ended.
    DrillEnded {
        /// The drill.
        drill_id: DrillId,
        /// How it failed; well when absent.
        failed: Option<FailedDrill>,
    },
    /// How far the archive was behind its server.
    LagSeen {
        /// The age of what is safe.
        lag: TimeDelta,
        /// What the archiver says is in the way.
        error: Option<String>,
    },
    /// What the schedules in force promise.
    Promised(Vec<Promised>),
    /// A due backup was not taken, because of another one.
    FireSkipped {
        /// The schedule.
        schedule: ScheduleId,
        /// Why.
        reason: String,
    },
    /// Bytes of WAL that the repository holds, by the day (UTC) they were stored on, as far as it still does.
    WalStored(Vec<(Timestamp, u64)>),
    /// Somebody stopped the branch's server by hand: it writes no WAL.
    ServerStopped,
    /// It was started again.
    ServerStarted,
}

/// What a schedule in force promises; or that a restored branch has a backup at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promised {
    /// The schedule.
    pub schedule: ScheduleId,
    /// Its name.
    pub name: String,
    /// The longest time between two of its backups; zero if one keeps the promise for good.
    pub every: TimeDelta,
    /// How long they are kept. A backup that is kept as long is as good as its own.
    pub kept: TimeDelta,
    /// It promises nothing for the time before.
    pub since: Timestamp,
}

/// A completed backup, as far as the rules want to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completed {
    /// The backup.
    pub backup_id: BackupId,
    /// How it was taken.
    #[serde(rename = "type")]
    pub backup_type: BackupType,
    /// What it added to the repository, in bytes.
    pub stored_bytes: u64,
    /// Where replay begins.
    pub start_lsn: Lsn,
    /// The timeline of that.
    pub timeline: TimelineId,
    /// How long it took, in seconds.
    pub took_secs: i64,
    /// Pages with a wrong checksum on the source.
    pub damaged_pages: u64,
    /// How long it is kept, in seconds; until it is deleted when absent.
    #[serde(default)]
    pub kept_secs: Option<i64>,
}

/// WAL that is missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The timeline.
    pub timeline: TimelineId,
    /// First missing byte.
    pub from_lsn: Lsn,
    /// First byte that is there again.
    pub to_lsn: Lsn,
    /// Why.
    pub cause: GapCause,
}

/// A drill that did not come out as foretold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedDrill {
    /// Where.
    pub step: DrillStep,
    /// The likely cause.
    pub cause: FailureCause,
    /// Whether something stored is missing or not what was stored.
    #[serde(default)]
    pub damaged: bool,
    /// One sentence.
    pub message: String,
    /// What can be done.
    pub hint: String,
    /// The user's checks that do not hold, by name.
    #[serde(default)]
    pub false_checks: Vec<String>,
}
