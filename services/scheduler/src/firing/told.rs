//! What the bus was heard to say of fires, so that the replica that comes second does nothing.
//!
//! Every replica fires everything. Whoever publishes first is heard here by the others, at the cost of one message
//! instead of several round trips.
//!
//! What must stay true: a fire counts as told only when an event on its backup's own fence was read from the stream.
//! What was not heard is done twice, with one effect; nothing is left undone.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bus::{Bus, From};
use events::{BackupId, Event, Trigger, topology};
use futures::StreamExt as _;

/// Backups remembered: far more than come due while one of them is looked at.
const REMEMBERED: usize = 1 << 16;
/// Before a stream that was made anew is followed.
const PAUSE: Duration = Duration::from_secs(1);

/// The scheduled backups of which something was heard, the latest ones.
#[derive(Default)]
pub(super) struct Told {
    remembered: Mutex<Remembered>,
}

#[derive(Default)]
struct Remembered {
    ids: HashSet<BackupId>,
    order: VecDeque<BackupId>,
}

impl Told {
    /// Whether there is an event on the fence of this backup.
    pub(super) fn of(&self, id: BackupId) -> bool {
        self.remembered().ids.contains(&id)
    }

    /// Listens for ever.
    pub(super) async fn listen(&self, bus: Bus) {
        loop {
            // The verb of a request has its pool in it.
            let of_backups = vec!["zektor.backup.>".to_owned()];
            let mut said = bus.follow(of_backups, From::New, topology::EVENTS);
            while let Some(said) = said.next().await {
                if let Some(id) = said.ok().and_then(|said| fired(&said.envelope.message)) {
                    self.remember(id, REMEMBERED);
                }
            }
            // Its stream was lost, and with it what was said.
            self.forget();
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Forgets all that was said.
    pub(super) fn forget(&self) {
        *self.remembered() = Remembered::default();
    }

    fn remember(&self, id: BackupId, at_most: usize) {
        let mut remembered = self.remembered();
        if !remembered.ids.insert(id) {
            return;
        }
        remembered.order.push_back(id);
        if remembered.order.len() > at_most
            && let Some(oldest) = remembered.order.pop_front()
        {
            let _there = remembered.ids.remove(&oldest);
        }
    }

    fn remembered(&self) -> MutexGuard<'_, Remembered> {
        let remembered = self.remembered.lock();
        remembered.unwrap_or_else(PoisonError::into_inner)
    }
}

/// The backup of a fire that this is the first word of.
fn fired(event: &Event) -> Option<BackupId> {
    match event {
        Event::BackupRequested(requested) => {
            (requested.trigger == Trigger::Schedule).then_some(requested.backup_id)
        }
        Event::BackupQueued(queued) => {
            (queued.request.trigger == Trigger::Schedule).then_some(queued.backup_id)
        }
        Event::BackupSkipped(skipped) => Some(skipped.backup_id),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use events::BackupId;
    use uuid::Uuid;

    use super::Told;

    #[test]
    fn the_latest_are_remembered() {
        let told = Told::default();
        let id = |number| BackupId(Uuid::from_u128(number));
        for number in [1, 2, 2, 1, 3, 4] {
            told.remember(id(number), 3);
        }
        let known: Vec<_> = (1..=5).filter(|number| told.of(id(*number))).collect();
        assert_eq!(known, [2, 3, 4]);
    }
}
