//! What of a branch can be restored: worked out anew when something may have changed it, and told when its shape did.
//!
//! The repository alone decides, so it is the same answer as a restorer's. Heard news only say when to look; every ten
//! minutes it is looked at without any.

use std::time::Duration;

use bus::Bus;
use events::event::Event;
use events::window::Window;
use events::{Timestamp, subject, topology};
use futures::StreamExt;
use repository::archive;
use repository::{BranchReader, RepositoryError};
use tokio_util::sync::CancellationToken;

use crate::session::BranchContext;
use crate::status::{BranchKey, Observed, Statuses, moment};

/// Without any news, the window is looked at so often: backups expire, and news may have been missed.
const LOOK_EVERY: Duration = Duration::from_secs(600);
/// News that come together are looked at together.
const GATHER: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_secs(10);
/// News that change what can be restored, or the names in it.
const NEWS: [&str; 3] = ["backup.completed", "backup.failed", "branch.swept"];

/// Keeps the branch's window, until it is cancelled.
pub(crate) async fn keep(branch: BranchContext, cancel: CancellationToken) {
    let keeping = async {
        loop {
            tokio::time::sleep(GATHER).await;
            let rest = match look(&branch).await {
                Ok(()) => LOOK_EVERY,
                Err(error) => {
                    let error = service::run::chain(&error);
                    tracing::warn!(error, "the restorable window cannot be worked out now");
                    PAUSE
                }
            };
            let news = branch.status.window_news.notified();
            let _ = tokio::time::timeout(rest, news).await;
        }
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = keeping => {}
    }
}

async fn look(branch: &BranchContext) -> Result<(), RepositoryError> {
    let window = window_of(branch.uploader.writer().reader(), branch).await?;
    let mut changed = false;
    branch.status.update(|seen| {
        changed = seen.window.as_ref().map(shape) != Some(shape(&window));
        seen.window = Some(window.clone());
    });
    if changed {
        branch.announcer.announce_window(&branch.key, window);
    }
    Ok(())
}

/// What is announced when it changes; `latest` alone moves all the time.
pub(crate) fn shape(window: &Window) -> impl PartialEq + use<> {
    (
        window.earliest,
        window.earliest_backup_id,
        window.gaps.clone(),
        window.complete,
        window.latest.is_some(),
    )
}

async fn window_of(
    reader: &BranchReader,
    branch: &BranchContext,
) -> Result<Window, RepositoryError> {
    let archive = archive::read(reader).await?;
    let settings = branch.config.index_settings();
    reader.restorable_window(&archive, settings).await
}

/// The latest moment that can be restored now, as far as the archiver knows: the proof moves between two looks.
pub(crate) fn latest(seen: &Observed) -> Option<Timestamp> {
    let window = seen.window.as_ref()?;
    let latest = window.latest?;
    let goes_on = window
        .gaps
        .last()
        .is_none_or(|gap| gap.restorable_again_at.is_some());
    let proven = seen.proven_at.filter(|_| goes_on).and_then(moment);
    Some(proven.map_or(latest, |proven| proven.max(latest)))
}

/// Hears of backups, for all branches of this process, until `shutdown`.
pub(crate) async fn hear(bus: Bus, statuses: Statuses, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        let subjects = NEWS.iter().map(|news| subject::events_of(news)).collect();
        let mut news = bus.follow(subjects, bus::From::New, topology::EVENTS);
        loop {
            let heard = tokio::select! {
                () = shutdown.cancelled() => return,
                heard = news.next() => heard,
            };
            match heard {
                Some(Ok(stored)) => tell(&statuses, &stored.envelope.message),
                // One that is not understood is news nevertheless; the next look will see it.
                Some(Err(bus::BusError::Undecodable { .. })) => {}
                Some(Err(error)) => {
                    tracing::debug!(%error, "news of backups are listened for anew");
                    break;
                }
                None => break,
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
        // What was missed meanwhile is seen by looking.
        statuses
            .all()
            .iter()
            .for_each(|(_, status)| status.window_news.notify_one());
    }
}

fn tell(statuses: &Statuses, event: &Event) {
    let (instance, branch, completed) = match event {
        Event::BackupCompleted(backup) => (&backup.instance, &backup.branch, true),
        Event::BackupFailed(backup) => (&backup.instance, &backup.branch, false),
        Event::BranchSwept(swept) => (&swept.instance, &swept.branch, false),
        _ => return,
    };
    let (instance, branch) = (instance.clone(), branch.clone());
    if let Some(status) = statuses.find(&BranchKey { instance, branch }) {
        if completed {
            status.relations.want_all();
        }
        status.window_news.notify_one();
    }
}
