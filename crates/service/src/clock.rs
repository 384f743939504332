//! Time, passed in: decisions take a moment as a value, the shell takes it from a [`Clock`].

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use events::Timestamp;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;

/// The longest sleep before the wall clock is asked again, so that a clock that was set is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// A source of the present moment.
pub trait Clock: Send + Sync + 'static {
    /// The present moment.
    fn now(&self) -> Timestamp;

    /// Returns when `moment` has come; at once if it is past.
    fn sleep_until(&self, moment: Timestamp) -> BoxFuture<'_, ()>;

    /// Returns after `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'_, ()> {
        let delta = chrono::TimeDelta::from_std(duration).unwrap_or(chrono::TimeDelta::MAX);
        let moment = self
            .now()
            .checked_add_signed(delta)
            .unwrap_or(Timestamp::MAX_UTC);
        self.sleep_until(moment)
    }
}

/// The machine's wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the clock"
    )]
    fn now(&self) -> Timestamp {
        chrono::Utc::now()
    }

    fn sleep_until(&self, moment: Timestamp) -> BoxFuture<'_, ()> {
        async move {
            // `to_std` fails on a negative distance: the moment has come.
            while let Ok(left) = (moment - self.now()).to_std() {
                if left.is_zero() {
                    return;
                }
                tokio::time::sleep(left.min(LONGEST_SLEEP)).await;
            }
        }
        .boxed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'_, ()> {
        // A duration is not touched by a wall clock that is set.
        tokio::time::sleep(duration).boxed()
    }
}

/// A clock that moves only when a test moves it.
#[derive(Debug)]
pub struct ManualClock {
    now: watch::Sender<Timestamp>,
    /// The moments that sleepers wait for.
    wakes: Mutex<Vec<Timestamp>>,
    sleeping: watch::Sender<usize>,
}

impl ManualClock {
    /// A clock that stands at `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        ManualClock {
            now: watch::Sender::new(now),
            wakes: Mutex::new(Vec::new()),
            sleeping: watch::Sender::new(0),
        }
    }

    /// Moves it forward by `duration`.
    pub fn advance(&self, duration: Duration) {
        let delta = chrono::TimeDelta::from_std(duration).unwrap_or(chrono::TimeDelta::MAX);
        self.now.send_modify(|now| *now += delta);
    }

    /// Sets it, backwards too.
    pub fn set(&self, now: Timestamp) {
        let _ = self.now.send_replace(now);
    }

    /// Returns when `count` tasks sleep, with the earliest moment that one of them waits for.
    pub async fn wait_for_sleepers(&self, count: usize) -> Option<Timestamp> {
        let mut sleeping = self.sleeping.subscribe();
        // Cannot fail: the sender is a field of self.
        let _ = sleeping.wait_for(|sleeping| *sleeping >= count).await;
        self.wakes().iter().min().copied()
    }

    fn wakes(&self) -> std::sync::MutexGuard<'_, Vec<Timestamp>> {
        self.wakes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts one sleeper while it lives, so that a cancelled sleep is not counted.
struct Sleeper<'a> {
    clock: &'a ManualClock,
    moment: Timestamp,
}

impl<'a> Sleeper<'a> {
    fn new(clock: &'a ManualClock, moment: Timestamp) -> Self {
        clock.wakes().push(moment);
        clock.sleeping.send_modify(|count| *count += 1);
        Sleeper { clock, moment }
    }
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        let mut wakes = self.clock.wakes();
        if let Some(index) = wakes.iter().position(|wake| *wake == self.moment) {
            let _ = wakes.swap_remove(index);
        }
        drop(wakes);
        self.clock.sleeping.send_modify(|count| *count -= 1);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.now.borrow()
    }

    fn sleep_until(&self, moment: Timestamp) -> BoxFuture<'_, ()> {
        async move {
            let mut now = self.now.subscribe();
            if *now.borrow() >= moment {
                return;
            }
            let _sleeper = Sleeper::new(self, moment);
            let _ = now.wait_for(|now| *now >= moment).await;
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::{Clock, ManualClock, SystemClock};

    #[tokio::test]
    async fn a_manual_clock_wakes_whom_the_moment_has_reached() {
        let start = events::example::at(0);
        let clock = Arc::new(ManualClock::new(start));
        let sleeper = tokio::spawn({
            let clock = Arc::clone(&clock);
            async move {
                clock.sleep(Duration::from_secs(60)).await;
                clock.now()
            }
        });
        let wake = clock.wait_for_sleepers(1).await;
        assert_eq!(wake, Some(start + chrono::TimeDelta::seconds(60)));
        clock.advance(Duration::from_secs(59));
        assert!(!sleeper.is_finished());
        clock.advance(Duration::from_secs(2));
        assert_eq!(
            sleeper.await.unwrap(),
            start + chrono::TimeDelta::seconds(61)
        );
        assert!(clock.wakes().is_empty());
    }

    #[tokio::test]
    async fn a_past_moment_is_not_waited_for() {
        let clock = SystemClock;
        clock.sleep_until(events::Timestamp::UNIX_EPOCH).await;
        let before = clock.now();
        clock
            .sleep_until(before + chrono::TimeDelta::milliseconds(20))
            .await;
        assert!(clock.now() - before >= chrono::TimeDelta::milliseconds(20));
    }
}
