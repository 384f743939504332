//! Between the one who sees that the slot must be released, and the one who can: archiving itself holds the slot.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Held,
    Wanted,
    Released,
}

/// Whether a branch's slot is to be released.
#[derive(Debug, Default)]
pub(crate) struct ReleaseDesk {
    state: Mutex<State>,
    wake: Notify,
}

impl ReleaseDesk {
    /// The slot must be released; true if that was not wanted before.
    pub(crate) fn want(&self) -> bool {
        let before = std::mem::replace(&mut *self.lock(), State::Wanted);
        self.wake.notify_one();
        before != State::Wanted
    }

    /// Returns when the slot must be released.
    pub(crate) async fn wanted(&self) {
        while !self.is_wanted() {
            self.wake.notified().await;
        }
    }

    #[must_use]
    pub(crate) fn is_wanted(&self) -> bool {
        *self.lock() == State::Wanted
    }

    /// It was done, or could not be done, and is looked at anew.
    pub(crate) fn done(&self, released: bool) {
        *self.lock() = if released {
            State::Released
        } else {
            State::Held
        };
    }

    /// It was released, and archiving has not begun anew.
    #[must_use]
    pub(crate) fn is_released(&self) -> bool {
        *self.lock() == State::Released
    }

    /// Archiving has begun anew.
    pub(crate) fn forget(&self) {
        let mut state = self.lock();
        if *state == State::Released {
            *state = State::Held;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
