//! A segment that was not pushed although later ones were: when it is a gap, and what becomes of the chain then.

use events::event::GapCause;
use pg_format::SegmentName;
use repository::{GapProof, RepositoryError, WalGap};
use tokio::time::Instant;

use super::{LOOK_PAUSE, LOOKS, Watch};
use crate::error::ArchiveError;
use crate::position::PositionKeeper;
use crate::start_point::{StartPoint, StartReason};

/// A segment that is not there, though later ones are.
pub(super) struct MissingSegment {
    name: SegmentName,
    since: Instant,
    /// The server does not have it either.
    gone: bool,
}

impl Watch<'_> {
    /// A segment that will not come any more is a gap; the chain goes on behind it.
    pub(super) async fn pass_gap(&mut self) -> Result<(), ArchiveError> {
        let beyond = self.chain.next_beyond().filter(|_| self.position.is_some());
        let Some((name, beyond)) = beyond else {
            self.missing = None;
            return Ok(());
        };
        let now = Instant::now();
        let missing = match self.missing.take() {
            Some(missing) if missing.name == name => missing,
            _ => {
                tracing::warn!(segment = %name, behind = %beyond, "a segment was not pushed, but a later one was");
                MissingSegment {
                    name,
                    since: now,
                    gone: false,
                }
            }
        };
        // It was listed after the server said that it is gone, and it is removed there only when it is stored.
        let given_up =
            missing.gone || missing.since.elapsed() >= self.branch.config.wal_pushed_gap_after;
        if !given_up {
            let gone = self.server.has_removed(name).await?;
            self.missing = Some(MissingSegment { gone, ..missing });
            return Ok(());
        }
        if self.is_there(name).await? {
            self.chain.found(name);
            self.advance();
            return Ok(());
        }
        self.record_gap(name, beyond).await?;
        self.advance();
        Ok(())
    }

    async fn record_gap(
        &mut self,
        name: SegmentName,
        beyond: SegmentName,
    ) -> Result<(), ArchiveError> {
        let size = self.branch.branch.wal_segment_size;
        let from = name.start(size);
        let position = self.position.as_ref().map(PositionKeeper::wanted);
        let proven = position.and_then(|position| GapProof::of(&position, name.timeline, from));
        let gap = WalGap {
            timeline: name.timeline,
            from_lsn: from,
            to_lsn: beyond.start(size),
            cause: GapCause::NotPushed,
            detected_at: self.branch.clock.now(),
            proven,
        };
        tracing::error!(
            from_lsn = %gap.from_lsn, to_lsn = %gap.to_lsn, cause = ?gap.cause,
            "wal is missing for good; targets after the gap need a new base backup"
        );
        self.branch.uploader.record_gap(gap.clone()).await?;
        let start = StartPoint {
            timeline: self.server.history().timeline_at(gap.to_lsn),
            lsn: gap.to_lsn,
            chain_first: beyond,
            reason: StartReason::Now,
        };
        let mut keeper = PositionKeeper::new(self.branch, None, &start, self.server.history());
        keeper.record_start(start.reason).await?;
        self.position = Some(keeper);
        self.chain.begin(start.lsn, start.timeline);
        self.branch.announcer.announce_gaps(&self.branch.key);
        self.branch.status.window_news.notify_one();
        Ok(())
    }

    /// A listing may leave something out, and a store may answer "not there" for a while; a gap is for good.
    async fn is_there(&self, name: SegmentName) -> Result<bool, ArchiveError> {
        let reader = self.branch.uploader.writer().reader();
        for look in 1..=LOOKS {
            match reader.get_segment(name).await {
                Ok(_) => return Ok(true),
                Err(error) if error.is_absent() => {}
                // As good as none.
                Err(RepositoryError::Corrupt { .. }) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
            if look < LOOKS {
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        }
        Ok(false)
    }
}
