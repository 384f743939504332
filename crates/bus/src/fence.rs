//! A worker's right to speak about one backup or restore.
//!
//! The fence is a wildcard over every event of that backup. Whoever publishes there, expecting the sequence
//! that is last, takes it; the sequence it gets is its token. Every further event expects the token and
//! renews it, so an attempt that was taken over can never say another word.

use events::Event;
use uuid::Uuid;

use crate::error::FenceError;
use crate::publish::{ATTEMPT_HEADER, Expectation};
use crate::{Bus, BusError, Outgoing, Sequence};

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

    /// Publishes the attempt's next event. After an error of the bus the same event may be published again,
    /// or another one: if the first was stored and only the answer was lost, it is recognised.
    ///
    /// # Errors
    /// [`FenceError::Lost`] if the attempt was taken over; it must stop.
    pub async fn publish(&mut self, event: Outgoing<Event>) -> Result<Sequence, FenceError> {
        match self.publish_after(event.clone(), self.token).await {
            // An event of ours stands there whose answer was lost: nobody came between.
            Err(FenceError::Lost { head, .. }) if self.is_ours(head).await? => {
                self.token = self.publish_after(event, head).await?;
            }
            published => self.token = published?,
        }
        Ok(self.token)
    }

    async fn publish_after(
        &self,
        event: Outgoing<Event>,
        last: Sequence,
    ) -> Result<Sequence, FenceError> {
        let expectation = Expectation {
            fence: &self.wildcard,
            last,
            attempt: Some(&self.attempt),
        };
        self.bus.publish_under(event, &expectation).await
    }

    async fn is_ours(&self, head: Sequence) -> Result<bool, BusError> {
        let last = self.bus.last_raw(&self.wildcard).await?;
        Ok(last.is_some_and(|last| {
            last.sequence == head && last.message.header(ATTEMPT_HEADER) == Some(&self.attempt)
        }))
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
