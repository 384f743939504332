//! Everything that is said on the bus, as pure values: commands, events, ids, subjects, the
//! envelope they travel in, the streams they rest in, and the instance document.
//!
//! Nothing here does I/O. A released message version is frozen: its golden example under
//! `schemas/golden` must decode in every later build.

pub mod command;
pub mod document;
pub mod envelope;
pub mod event;
pub mod example;
mod ids;
pub mod mark;
mod message;
pub mod moments;
pub mod notifications;
pub mod plan;
pub mod position;
pub mod query;
mod retention;
pub mod retention_plan;
pub mod schedules;
pub mod schema;
mod secret;
pub mod slot;
pub mod subject;
mod target;
pub mod topology;
pub mod window;

pub use command::Command;
pub use document::InstanceDocument;
pub use envelope::{Envelope, MessageId};
pub use event::{BackupSummary, Event, RestoreSummary};
pub use ids::{
    BackupId, BranchName, CommandId, DrillId, InstanceName, InvalidName, PoolName, RestoreId,
    ScheduleId, SweepId,
};
pub use retention::{Retention, RetentionError};
pub use secret::SealedSecret;
pub use target::{
    ArchiveMode, BackupType, ClusterSize, DiskRiskPolicy, RestoreTarget, Trigger, WalKeep,
};

/// A moment in UTC. Written in RFC 3339 with microseconds.
pub type Timestamp = chrono::DateTime<chrono::Utc>;
