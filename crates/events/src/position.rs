//! The question "where is the archive of this branch now?" and its answer.
//!
//! Asked on [`crate::subject::archiver_position`] of the archiver that holds the branch.

use pg_format::{Lsn, TimelineId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// Asks for the present position. The subject names the branch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PositionQuestion {
    /// Answer only when the archive is proven complete up to this moment, or after a few seconds.
    #[serde(default)]
    pub prove: bool,
}

/// Where the archive of a branch is, as its archiver knows at this moment.
///
/// What is absent is not known: the archiver has not reached the server yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ArchiverPosition {
    /// The timeline that is archived.
    pub timeline: Option<TimelineId>,
    /// Durable in the repository without a gap up to here, the open segment included.
    pub archived_lsn: Option<Lsn>,
    /// How far the server's WAL went when it was last heard.
    pub server_lsn: Option<Lsn>,
    /// Bytes from `archived_lsn` to `server_lsn`.
    pub lag_bytes: Option<u64>,
    /// Seconds, by the server's clock, from `proven_at` to when the server was last heard.
    pub lag_seconds: Option<f64>,
    /// Everything committed by then, by the server's clock, is in the repository.
    pub proven_at: Option<Timestamp>,
    /// Whether WAL is being received now.
    pub streaming: bool,
    /// Why not, or what is in the way.
    pub error: Option<String>,
}
