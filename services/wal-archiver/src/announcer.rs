//! Tells the others what is archived, apart from archiving, from the repository's own listing.
//!
//! What must stay true: nothing is announced that is not in the repository, everything is announced at
//! last, and in order, so that the last event of a branch says where to go on. What is to be announced is
//! never queued: a branch is marked, and its listing tells. So there is nothing to overflow, and a bus that
//! was down for days costs one listing.

mod changed_risk;
mod changed_window;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bus::{Bus, BusError, Outgoing};
use events::event::{
    Event, SlotRiskChanged, WalGapDetected, WalObjectKind as EventKind, WalSegmentArchived,
};
use events::window::Window;
use events::{MessageId, Timestamp, subject, topology};
use pg_format::{Lsn, SegmentName, TimelineId, WalSegmentSize};
use repository::{BranchReader, RepositoryError, WalGap, WalObject, WalObjectKind};
use service::Clock;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::status::{BranchKey, ChainEnd, Statuses};

/// Segments that come within this time are announced with one listing.
const GATHER: Duration = Duration::from_millis(500);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// After a listing that took a second, the branch is not listed for so many.
const LISTING_REST: u32 = 20;

/// Marks what is to be announced. Clones share the marks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Announcer {
    waiting: Arc<Mutex<BTreeMap<BranchKey, Waiting>>>,
    wake: Arc<Notify>,
}

#[derive(Clone, Debug, Default)]
struct Waiting {
    listing: bool,
    gaps: bool,
    /// Only the last one counts.
    window: Option<Window>,
    /// Here too.
    slot_risk: Option<SlotRiskChanged>,
}

/// A branch's place in the repository.
#[derive(Clone, Debug)]
pub(crate) struct Announced {
    /// Lists.
    pub(crate) reader: BranchReader,
    /// The branch's segment size.
    pub(crate) size: WalSegmentSize,
}

/// Where announcing stands: timeline, then history file, segments, partial.
type Place = (TimelineId, WalObjectKind);

/// Announcing failed for now.
#[derive(Debug, thiserror::Error)]
enum AnnounceError {
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error(transparent)]
    Repository(#[from] RepositoryError),
}

impl Announcer {
    /// There is something new in the branch's listing.
    pub(crate) fn announce(&self, key: &BranchKey) {
        self.lock().entry(key.clone()).or_default().listing = true;
        self.wake.notify_one();
    }

    /// There may be a gap that was not told.
    pub(crate) fn announce_gaps(&self, key: &BranchKey) {
        self.lock().entry(key.clone()).or_default().gaps = true;
        self.wake.notify_one();
    }

    /// What can be restored has changed.
    pub(crate) fn announce_window(&self, key: &BranchKey, window: Window) {
        self.lock().entry(key.clone()).or_default().window = Some(window);
        self.wake.notify_one();
    }

    /// What the slot means for its source's disk has changed.
    pub(crate) fn announce_slot_risk(&self, key: &BranchKey, changed: SlotRiskChanged) {
        self.lock().entry(key.clone()).or_default().slot_risk = Some(changed);
        self.wake.notify_one();
    }

    /// Announces until `shutdown`. `branches` gives the place of each branch that is ours.
    pub(crate) async fn run(
        self,
        bus: Bus,
        statuses: Statuses,
        clock: Arc<dyn Clock>,
        branches: impl Fn(&BranchKey) -> Option<Announced>,
        shutdown: CancellationToken,
    ) {
        let mut speaker = Speaker {
            bus,
            clock,
            last: BTreeMap::new(),
            stream: None,
            rests: BTreeMap::new(),
        };
        let mut pause = FIRST_PAUSE;
        let mut next_look = None;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.wake.notified() => {}
                () = sleep_until(next_look) => {}
            }
            tokio::time::sleep(GATHER).await;
            next_look = None;
            let marked = std::mem::take(&mut *self.lock());
            for (key, waiting) in marked {
                let (Some(place), Some(status)) = (branches(&key), statuses.find(&key)) else {
                    continue;
                };
                if let Some(rest) = speaker.rests_until(&key) {
                    next_look = Some(next_look.map_or(rest, |look: Instant| look.min(rest)));
                    self.put_back(key, waiting);
                    continue;
                }
                let chain_end = status.observed().chain_end;
                let Err((error, waiting)) = speaker.speak(&key, &place, chain_end, waiting).await
                else {
                    pause = FIRST_PAUSE;
                    continue;
                };
                tracing::warn!(
                    instance = %key.instance, branch = %key.branch, ?pause,
                    error = service::run::chain(&error), "archived wal is announced later"
                );
                self.put_back(key, waiting);
                self.wake.notify_one();
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    fn put_back(&self, key: BranchKey, failed: Waiting) {
        let mut waiting = self.lock();
        let entry = waiting.entry(key).or_default();
        entry.listing |= failed.listing;
        entry.gaps |= failed.gaps;
        if entry.window.is_none() {
            entry.window = failed.window;
        }
        entry.slot_risk = entry.slot_risk.take().or(failed.slot_risk);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<BranchKey, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Speaker {
    bus: Bus,
    clock: Arc<dyn Clock>,
    /// What was announced last of each branch, in the stream made at `stream`.
    last: BTreeMap<BranchKey, Option<Place>>,
    stream: Option<Timestamp>,
    /// Listings of large archives are slow and cost money.
    rests: BTreeMap<BranchKey, Instant>,
}

async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

impl Speaker {
    async fn speak(
        &mut self,
        key: &BranchKey,
        place: &Announced,
        chain_end: Option<ChainEnd>,
        mut waiting: Waiting,
    ) -> Result<(), (AnnounceError, Waiting)> {
        // First of all: what follows asks the repository, which may be what is in the way.
        if let Some(changed) = &waiting.slot_risk {
            if let Err(error) = self.slot_risk(changed).await {
                return Err((error.into(), waiting));
            }
            waiting.slot_risk = None;
        }
        if waiting.gaps {
            if let Err(error) = self.gaps(key, place).await {
                return Err((error, waiting));
            }
            waiting.gaps = false;
        }
        if let Some(window) = &waiting.window {
            if let Err(error) = self.window(key, window).await {
                return Err((error.into(), waiting));
            }
            waiting.window = None;
        }
        if let Some(chain_end) = chain_end.filter(|_| waiting.listing)
            && let Err(error) = self.listing(key, place, chain_end).await
        {
            // Whether the last one was stored is not known; the stream is.
            let _ = self.last.remove(key);
            return Err((error, waiting));
        }
        Ok(())
    }

    /// Tells what was found after the gap that was told last.
    async fn gaps(&self, key: &BranchKey, place: &Announced) -> Result<(), AnnounceError> {
        let gaps = place.reader.wal_gaps().await?;
        if gaps.is_empty() {
            return Ok(());
        }
        let told = self.gap_told(key).await?;
        for gap in gaps.iter().filter(|gap| told < Some(gap.detected_at)) {
            let (event, id) = gap_event(key, gap);
            let _ = self
                .bus
                .publish(Outgoing::new(event, MessageId::new(id), self.clock.now()))
                .await?;
        }
        Ok(())
    }

    /// When the gap that was told last was found.
    async fn gap_told(&self, key: &BranchKey) -> Result<Option<Timestamp>, BusError> {
        let (instance, branch) = (&key.instance, &key.branch);
        let subject = format!("{}.wal.gap.detected.{instance}.{branch}", subject::ROOT);
        let last = match self.bus.last_on(&subject).await {
            Err(BusError::Undecodable { .. }) => None,
            last => last?,
        };
        Ok(last.and_then(|last| match last.envelope.message {
            Event::WalGapDetected(gap) => Some(gap.detected_at),
            _ => None,
        }))
    }

    async fn listing(
        &mut self,
        key: &BranchKey,
        place: &Announced,
        chain_end: ChainEnd,
    ) -> Result<(), AnnounceError> {
        let stream = Some(self.bus.stream_state(topology::WAL).await?.created);
        if self.stream != stream {
            // Another stream knows nothing of what was announced in the one before.
            self.last.clear();
            self.stream = stream;
        }
        let mut last = match self.last.get(key) {
            Some(last) => *last,
            None => self.last_announced(key, place.size).await?,
        };
        let begun = Instant::now();
        let objects = match last {
            Some((timeline, kind)) => {
                place
                    .reader
                    .list_wal_after(place.size, timeline, kind)
                    .await?
            }
            None => place.reader.list_wal(place.size).await?,
        };
        let rest = Instant::now() + begun.elapsed() * LISTING_REST;
        let _ = self.rests.insert(key.clone(), rest);
        for object in to_announce(&objects, last, chain_end, place.size) {
            let (event, id) = archived_event(key, object, place.size);
            let now = self.clock.now();
            let _ = self
                .bus
                .publish(Outgoing::new(event, MessageId::new(id), now))
                .await?;
            last = Some((object.timeline, object.kind));
            let _ = self.last.insert(key.clone(), last);
        }
        let _ = self.last.insert(key.clone(), last);
        Ok(())
    }

    /// Until when the branch is not listed again.
    fn rests_until(&self, key: &BranchKey) -> Option<Instant> {
        self.rests
            .get(key)
            .copied()
            .filter(|rest| *rest > Instant::now())
    }

    async fn last_announced(
        &self,
        key: &BranchKey,
        size: WalSegmentSize,
    ) -> Result<Option<Place>, BusError> {
        let subject = subject::wal_archived(&key.instance, &key.branch);
        let last = match self.bus.last_on(&subject).await {
            // A newer version's event: announcing all again is harmless.
            Err(BusError::Undecodable { .. }) => None,
            last => last?,
        };
        Ok(last.and_then(|last| match last.envelope.message {
            Event::WalSegmentArchived(archived) => place_of(&archived, size),
            _ => None,
        }))
    }
}

/// The event of a gap, made of nothing but its record.
fn gap_event(key: &BranchKey, gap: &WalGap) -> (Event, String) {
    let (instance, branch) = (&key.instance, &key.branch);
    let id = format!(
        "wal.gap.detected:{instance}:{branch}:{}:{}",
        gap.timeline, gap.from_lsn
    );
    let event = Event::WalGapDetected(WalGapDetected {
        instance: instance.clone(),
        branch: branch.clone(),
        timeline: gap.timeline,
        from_lsn: gap.from_lsn,
        to_lsn: gap.to_lsn,
        cause: gap.cause,
        detected_at: gap.detected_at,
    });
    (event, id)
}

fn place_of(archived: &WalSegmentArchived, size: WalSegmentSize) -> Option<Place> {
    let name = |text| SegmentName::parse(text, size).ok();
    let kind = match archived.kind {
        EventKind::History => WalObjectKind::History,
        EventKind::Segment => WalObjectKind::Segment(name(&archived.segment)?),
        EventKind::Partial => {
            WalObjectKind::Partial(name(archived.segment.strip_suffix(".partial")?)?)
        }
        EventKind::Unknown => return None,
    };
    Some((archived.timeline, kind))
}

/// What of a listing is to be announced: beyond the last announcement, within the unbroken chain.
///
/// A history file waits until its timeline is streamed, and a `.partial` until its timeline has ended.
fn to_announce(
    objects: &[WalObject],
    last: Option<Place>,
    chain_end: ChainEnd,
    size: WalSegmentSize,
) -> impl Iterator<Item = &WalObject> {
    let ready = move |object: &&WalObject| match object.kind {
        WalObjectKind::History => object.timeline <= chain_end.timeline,
        WalObjectKind::Segment(name) => {
            object.timeline < chain_end.timeline
                || (object.timeline == chain_end.timeline && name.end(size) <= chain_end.lsn)
        }
        WalObjectKind::Partial(_) => object.timeline < chain_end.timeline,
    };
    let beyond = move |object: &&WalObject| last < Some((object.timeline, object.kind));
    objects.iter().filter(ready).filter(beyond)
}

/// The event of an object, made of nothing but its listing, so that a rebuild from the repository gives
/// the same rows.
fn archived_event(key: &BranchKey, object: &WalObject, size: WalSegmentSize) -> (Event, String) {
    let (segment, kind, start_lsn, end_lsn) = match object.kind {
        WalObjectKind::History => (
            object.timeline.history_file_name(),
            EventKind::History,
            Lsn(0),
            Lsn(0),
        ),
        WalObjectKind::Segment(name) => (
            name.to_string(),
            EventKind::Segment,
            name.start(size),
            name.end(size),
        ),
        WalObjectKind::Partial(name) => (
            format!("{name}.partial"),
            EventKind::Partial,
            name.start(size),
            name.end(size),
        ),
    };
    let id = format!(
        "wal.segment.archived:{}:{}:{segment}",
        key.instance, key.branch
    );
    let archived_at: Timestamp = object.last_modified;
    let event = Event::WalSegmentArchived(WalSegmentArchived {
        instance: key.instance.clone(),
        branch: key.branch.clone(),
        timeline: object.timeline,
        segment,
        kind,
        start_lsn,
        end_lsn,
        stored_bytes: object.stored_bytes,
        archived_at,
    });
    (event, id)
}

#[cfg(test)]
mod tests;
