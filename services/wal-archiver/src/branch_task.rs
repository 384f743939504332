//! The life of one branch's archiving: session after session, for ever.

use std::time::Duration;

use events::ArchiveMode;
use events::event::GapCause;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::error::ArchiveError;
use crate::receiver::SETTLE_LIMIT;
use crate::session::{self, BranchContext, Missing, Trouble};
use crate::{index, pushed, relations, slot_risk, window};

const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Archives a branch until it is cancelled.
pub(crate) async fn run(branch: BranchContext, cancel: CancellationToken) {
    let key = branch.key.clone();
    let span = tracing::info_span!("archive", instance = %key.instance, branch = %key.branch);
    // Beside archiving, and none of them in its way.
    let aside = [
        tokio::spawn(index::keep(branch.clone(), cancel.clone()).instrument(span.clone())),
        tokio::spawn(relations::keep(branch.clone(), cancel.clone()).instrument(span.clone())),
        tokio::spawn(slot_risk::keep(branch.clone(), cancel.clone()).instrument(span.clone())),
        tokio::spawn(window::keep(branch.clone(), cancel.clone()).instrument(span.clone())),
    ];
    archive(branch, cancel).instrument(span).await;
    for task in aside {
        if let Err(error) = task.await {
            tracing::error!(%error, "a task beside archiving ended abnormally");
        }
    }
}

async fn archive(branch: BranchContext, cancel: CancellationToken) {
    let mut pause = FIRST_PAUSE;
    let mut trouble = Trouble::default();
    while !cancel.is_cancelled() {
        let before = branch.status.observed().archived_lsn;
        let outcome = one_session(&branch, &mut trouble, &cancel).await;
        if branch.status.release_desk.is_wanted() && !cancel.is_cancelled() {
            release(&branch, &mut trouble).await;
        }
        let Err(error) = outcome else { continue };
        if branch.status.observed().archived_lsn != before {
            pause = FIRST_PAUSE;
            if !matches!(error, ArchiveError::WalRemoved { .. }) {
                trouble.slot_loss = None;
            }
        }
        if let ArchiveError::WalRemoved { timeline, from, .. } = &error {
            trouble.missing = Some(Missing {
                timeline: *timeline,
                from: *from,
            });
        }
        trouble.slot_is_invalid |= matches!(error, ArchiveError::SlotInvalidated(_));
        report(&branch, &error, pause);
        tokio::select! {
            () = cancel.cancelled() => {}
            () = branch.status.release_desk.wanted() => release(&branch, &mut trouble).await,
            () = tokio::time::sleep(pause.mul_f64(rand::random_range(0.7..=1.0))) => {}
        }
        pause = (pause * 2).min(branch.config.wal_longest_backoff);
    }
    branch.status.update(|seen| seen.streaming = false);
}

/// Archives until it is interrupted, cancelled, or the slot must be released.
async fn one_session(
    branch: &BranchContext,
    trouble: &mut Trouble,
    cancel: &CancellationToken,
) -> Result<(), ArchiveError> {
    let stop = cancel.child_token();
    let session = Box::pin(attend(branch, trouble, &stop));
    let ending = async {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = branch.status.release_desk.wanted() => stop.cancel(),
        }
        tokio::time::sleep(SETTLE_LIMIT * 2).await;
    };
    tokio::select! {
        outcome = session => outcome,
        () = ending => Ok(()),
    }
}

/// Releases the slot, which nobody of ours uses now. What is missing then is recorded when archiving begins anew.
async fn release(branch: &BranchContext, trouble: &mut Trouble) {
    let released = slot_risk::release(branch).await;
    branch.status.release_desk.done(released.is_ok());
    branch.status.update(|seen| seen.streaming = false);
    match released {
        Ok(()) => {
            trouble.slot_loss = Some(GapCause::Released);
            tracing::error!(
                "the slot was released; wal is missing from the archive from its end on"
            );
        }
        Err(error) => {
            let error = service::run::chain(&error);
            tracing::error!(error, "the slot could not be released; it is tried again");
        }
    }
}

/// One session, of the kind that the branch was registered for.
async fn attend(
    branch: &BranchContext,
    trouble: &mut Trouble,
    cancel: &CancellationToken,
) -> Result<(), ArchiveError> {
    match branch.branch.archive_mode {
        ArchiveMode::Stream => session::run(branch, trouble, cancel).await,
        ArchiveMode::Command => pushed::run(branch, cancel).await,
    }
}

fn report(branch: &BranchContext, error: &ArchiveError, pause: Duration) {
    let text = service::run::chain(error);
    branch.status.update(|seen| {
        seen.streaming = false;
        seen.error = Some(text.clone());
    });
    if error.is_transient() {
        tracing::warn!(error = text, ?pause, "archiving is interrupted");
    } else {
        tracing::error!(
            error = text,
            ?pause,
            "archiving is stopped until this is mended"
        );
    }
}
