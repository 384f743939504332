//! Asks the server, beside the stream, how far its WAL goes: the claims of [`crate::proof`].
//!
//! What must stay true: a standby makes no claim. What its primary has committed and it has not received
//! is unknown to it, so nothing is complete as of its present moment.

use pg_format::PgTimestamp;
use pg_replication::ReplicationConnection;
use tokio::time::Instant;

use super::Receiver;
use super::task::{Answer, Task};

/// What is shown while a standby is archived.
const STANDBY: &str = "the server is a standby, which cannot say what its primary has committed; its wal is archived, but \
                       without a latest restorable time";

/// The second connection, and when it is asked.
#[derive(Default)]
pub(super) struct Probe {
    pub(super) connection: Option<Box<ReplicationConnection>>,
    pub(super) running: bool,
    /// Ask as soon as the next message tells the server's clock.
    pub(super) wanted: bool,
    pub(super) last: Option<Instant>,
    /// The server is a standby, and that was said.
    standby: bool,
}

impl Receiver<'_> {
    /// Asks for a proof, at most once in a flush interval.
    pub(super) fn want_probe(&mut self) {
        let interval = self.branch.config.wal_flush_interval;
        if self
            .probe
            .last
            .is_none_or(|last| last.elapsed() >= interval)
        {
            self.probe.wanted = true;
        }
    }

    pub(super) fn begin_probe(&mut self, at: PgTimestamp) {
        if self.probe.running {
            return;
        }
        self.probe.wanted = false;
        if let Some(hurry) = &mut self.hurry {
            let _ = hurry.at.get_or_insert(at);
        }
        self.probe.running = true;
        self.probe.last = Some(Instant::now());
        let connection = self.probe.connection.take();
        let settings = self.settings.clone();
        self.pipeline.begin(Task::Probe {
            connection,
            settings,
            at,
        });
    }

    /// The server answered what was asked after its moment `at`, or could not be asked.
    pub(super) fn probe_done(&mut self, answer: Option<Answer>, at: PgTimestamp) {
        self.probe.running = false;
        let Some(answer) = answer else { return };
        self.note_standby(answer.standby);
        let identity = answer.identity;
        if identity.timeline != self.timeline {
            return;
        }
        self.heard(identity.flush_lsn, at);
        if !answer.standby && self.position.claim(identity.flush_lsn, at) {
            self.begin_position();
        }
    }
    fn note_standby(&mut self, standby: bool) {
        let was = std::mem::replace(&mut self.probe.standby, standby);
        if standby && !was {
            tracing::warn!("{STANDBY}");
        }
        self.branch.status.update(|seen| {
            if standby {
                let _ = seen.error.get_or_insert_with(|| STANDBY.to_owned());
            } else if was {
                seen.error = None;
            }
        });
    }
}
