//! A proof out of turn, because somebody waits for it (see [`crate::haste`]).

use pg_format::PgTimestamp;

use super::Receiver;
use crate::error::ArchiveError;

/// Somebody waits for a proof.
pub(super) struct Hurry {
    /// Their number.
    pub(super) ask: u64,
    /// What the server said of its clock after they had asked: proving this answers them.
    pub(super) at: Option<PgTimestamp>,
}

impl Receiver<'_> {
    /// Does what is left to do for whoever waits for a proof: store the open segment, ask the server, write
    /// the position. Each step's end calls this again.
    pub(super) async fn hurry_on(&mut self) -> Result<(), ArchiveError> {
        let Some(hurry) = &self.hurry else {
            return Ok(());
        };
        let asked_server = hurry.at.is_some();
        self.pipeline.begin_partial_now();
        self.begin_position();
        if asked_server || self.probe.running {
            return Ok(());
        }
        self.probe.wanted = true;
        self.send_status(true).await
    }

    pub(super) fn answer_hurry(&mut self) {
        let fulfilled = self
            .hurry
            .as_ref()
            .and_then(|hurry| self.position.proves(hurry.at?).then_some(hurry.ask));
        if let Some(ask) = fulfilled {
            self.branch.status.haste.answer(ask);
            self.hurry = None;
        }
    }
}
