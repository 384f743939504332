//! The heartbeat of work that says little of itself: listings, manifests, WAL that is read again.
//!
//! A delivery of which nothing is heard for some minutes goes to another worker, which would come no further. Each
//! call to the store has its own deadline, so a wait for one is progress, but not for ever.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bus::Progress;

/// Much shorter than the time without progress after which a delivery is given up.
const BEAT_EVERY: Duration = Duration::from_secs(10);
/// Longer than the largest listing takes.
const LONGEST_SILENCE: Duration = Duration::from_secs(3600);

/// Of one delivery.
pub(crate) struct Pulse {
    progress: Progress,
    advances: AtomicU64,
}

impl Pulse {
    pub(crate) fn new(progress: &Progress) -> Self {
        Pulse {
            progress: progress.clone(),
            advances: AtomicU64::new(0),
        }
    }

    /// The work got on.
    pub(crate) fn advance(&self) {
        let _before = self.advances.fetch_add(1, Ordering::Relaxed);
        self.progress.advance();
    }

    /// Waits for the work, which counts as progress until it has not got on for [`LONGEST_SILENCE`].
    pub(crate) async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        let (mut seen, mut silence) = (self.advances.load(Ordering::Relaxed), Duration::ZERO);
        loop {
            if let Ok(done) = tokio::time::timeout(BEAT_EVERY, &mut work).await {
                return done;
            }
            let advances = self.advances.load(Ordering::Relaxed);
            silence = match advances == seen {
                true => silence + BEAT_EVERY,
                false => Duration::ZERO,
            };
            seen = advances;
            if silence < LONGEST_SILENCE {
                self.progress.advance();
            }
        }
    }
}
