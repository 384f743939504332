//! A worker's right to speak about one backup or restore.
//!
//! The fence is a wildcard over every event of that backup. Whoever publishes there, expecting the sequence
//! that is last, takes it; the sequence it gets is its token. Every further event expects the token and
//! renews it, so an attempt that was taken over can never say another word.

use events::Event;
use uuid::Uuid;

use crate::error::FenceError;
use crate::publish::Expectation;
use crate::{Bus, Outgoing, Sequence};

/// A fence that this attempt holds, as far as it knows.
#[derive(Debug)]
pub struct Fence {
    bus: Bus,
    wildcard: String,
    token: Sequence,
    attempt: String,
}

impl Fence {
    /// Takes the fence by publishing `event`, if `last` is still the last sequence there.
    ///
    /// # Errors
    /// [`FenceError::Lost`] if somebody else was faster.
    pub async fn take(
        bus: &Bus,
        wildcard: String,
        last: Sequence,
        event: Outgoing<Event>,
    ) -> Result<Fence, FenceError> {
        let mut fence = Fence {
            bus: bus.clone(),
            wildcard,
            token: last,
            attempt: Uuid::now_v7().to_string(),
        };
        let _ = fence.publish(event).await?;
        Ok(fence)
    }

    /// Publishes the attempt's next event. After an error of the bus the same event may be published again:
    /// if it was stored and only the answer was lost, it is recognised.
    ///
    /// # Errors
    /// [`FenceError::Lost`] if the attempt was taken over; it must stop.
    pub async fn publish(&mut self, event: Outgoing<Event>) -> Result<Sequence, FenceError> {
        let expectation = Expectation {
            fence: &self.wildcard,
            last: self.token,
            attempt: Some(&self.attempt),
        };
        self.token = self.bus.publish_under(event, &expectation).await?;
        Ok(self.token)
    }

    /// The sequence of the attempt's last event.
    #[must_use]
    pub fn token(&self) -> Sequence {
        self.token
    }

    /// The wildcard.
    #[must_use]
    pub fn wildcard(&self) -> &str {
        &self.wildcard
    }
}
