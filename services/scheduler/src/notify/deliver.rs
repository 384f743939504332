//! One alert, one message.
//!
//! What a channel was told stands in the bucket of alerts, under `told.<channel>.<instance>.<branch>.<rule>`: which alert,
//! and whether its message has arrived. It is written before the first try, so that whoever sees the resolution knows that
//! the alert is on its way, and the resolution waits for it. An alert that is over when it comes for the first time is not
//! told, and neither is its resolution; what stands is told, however old it is, and tried for as long as it stands. What is
//! over and could not be delivered for a day is given up: a day of the stream's, for the clocks of replicas differ.

use std::time::Duration;

use async_trait::async_trait;
use bus::{Bucket, Bus, BusError, CasError, Delivery, Handler, Outcome, Revision, Sequence};
use chrono::TimeDelta;
use events::event::{AlertRaised, AlertResolved};
use events::{Event, Timestamp, subject, topology};
use serde::{Deserialize, Serialize};

use super::{Channel, Notice, SendError};
use crate::alerts::alert_fence;

/// What is over, and could not be delivered for so long, is given up.
const NEWS: TimeDelta = TimeDelta::days(1);
/// Before the second try; then twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(15 * 60);
/// Until what must be sent before may have been.
const TURN: Duration = Duration::from_secs(2);

/// The consumer of alerts of one channel.
pub(crate) struct Deliver {
    bus: Bus,
    channel: Channel,
}

/// What a channel was told of one rule of one branch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    /// Of the alert's event.
    sequence: Sequence,
    since: Timestamp,
    /// The message has arrived.
    sent: bool,
    /// When the stream was made that the sequence is of. One that was lost begins at 1 again.
    #[serde(default)]
    stream: Option<Timestamp>,
}

impl Told {
    /// Whether its sequence says something; one of an older version of Zektor does.
    fn is_of(&self, stream: Timestamp) -> bool {
        self.stream.is_none_or(|own| own == stream)
    }
}

#[derive(Debug, thiserror::Error)]
enum Undelivered {
    #[error(transparent)]
    Send(#[from] SendError),
    #[error(transparent)]
    Bus(#[from] BusError),
    /// Something else must be sent first, or somebody else is at it.
    #[error("{0}")]
    Turn(&'static str),
}

impl From<CasError> for Undelivered {
    fn from(error: CasError) -> Self {
        match error {
            CasError::Conflict { .. } => Undelivered::Turn("another replica is at it"),
            CasError::Bus(error) => Undelivered::Bus(error),
        }
    }
}

#[async_trait]
impl Handler<Event> for Deliver {
    async fn handle(&self, delivery: &Delivery<Event>) -> Outcome {
        let Some(notice) = Notice::of(&delivery.envelope) else {
            return Outcome::Done;
        };
        let delivered = match &delivery.envelope.message {
            Event::AlertRaised(raised) => self.raised(raised, &notice, delivery.sequence).await,
            Event::AlertResolved(resolved) => self.resolved(resolved, &notice).await,
            _ => Ok(()),
        };
        let Err(error) = delivered else {
            return Outcome::Done;
        };
        if !matches!(error, Undelivered::Bus(_))
            && self
                .is_hopeless(delivery)
                .await
                .is_ok_and(|hopeless| hopeless)
            && self.give_up(delivery).await.is_ok()
        {
            tracing::error!(
                channel = self.channel.name(), id = notice.id, error = %error,
                "an alert that is over could not be delivered for a day and is given up"
            );
            return Outcome::Done;
        }
        let after = match &error {
            Undelivered::Turn(_) => TURN,
            Undelivered::Send(_) | Undelivered::Bus(_) => pause(delivery.attempt),
        };
        let reason = format!("{}: {error}", self.channel.name());
        Outcome::Retry { after, reason }
    }
}

fn pause(attempt: u64) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(1))
        .unwrap_or(u32::MAX)
        .min(16);
    FIRST_PAUSE
        .saturating_mul(1 << doublings)
        .min(LONGEST_PAUSE)
}

impl Deliver {
    pub(crate) fn new(bus: Bus, channel: Channel) -> Self {
        Deliver { bus, channel }
    }

    async fn raised(
        &self,
        raised: &AlertRaised,
        notice: &Notice,
        sequence: Sequence,
    ) -> Result<(), Undelivered> {
        let AlertRaised {
            instance,
            branch,
            rule,
            since,
            ..
        } = raised;
        let key = self.key(instance, branch, rule);
        let stream = self.bus.stream_state(topology::EVENTS).await?.created;
        let own = Told {
            sequence,
            since: *since,
            sent: false,
            stream: Some(stream),
        };
        let fence = alert_fence(instance, branch, rule);
        let revision = match self.told(&key).await? {
            Some((told, _)) if told.is_of(stream) && told.sequence > sequence => return Ok(()),
            Some((told, revision)) if told.is_of(stream) && told.sequence == sequence => {
                if told.sent {
                    return Ok(());
                }
                revision
            }
            // A channel that is new reads all there ever was.
            _ if self.is_followed(&fence, sequence).await? => return Ok(()),
            before => {
                let revision = match before {
                    None => self.bucket().create(&key, json(&own)?).await?,
                    // Its resolution comes first: it stands before this in the stream.
                    Some((told, _))
                        if told.is_of(stream)
                            && self.waits_for(&told, sequence, raised).await? =>
                    {
                        return Err(Undelivered::Turn(
                            "the resolution of the alert before is not sent yet",
                        ));
                    }
                    Some((_, revision)) => {
                        self.bucket().update(&key, json(&own)?, revision).await?
                    }
                };
                // Only now: a resolution that comes after this look finds what was written.
                if self.is_followed(&fence, sequence).await? {
                    self.bucket().delete(&key, revision).await?;
                    return Ok(());
                }
                revision
            }
        };
        self.channel.send(notice).await?;
        let sent = Told { sent: true, ..own };
        let _ = self.bucket().update(&key, json(&sent)?, revision).await?;
        Ok(())
    }

    /// Whether something was said of the same rule since: the alert is over, or told anew.
    async fn is_followed(&self, fence: &str, sequence: Sequence) -> Result<bool, BusError> {
        let head = self.bus.last_on(fence).await?;
        Ok(head.is_some_and(|head| head.sequence > sequence))
    }

    /// Whether a message is too old to be tried again. An alert that stands never is.
    async fn is_hopeless(&self, delivery: &Delivery<Event>) -> Result<bool, BusError> {
        if let Event::AlertRaised(raised) = &delivery.envelope.message {
            let fence = alert_fence(&raised.instance, &raised.branch, raised.rule);
            if !self.is_followed(&fence, delivery.sequence).await? {
                return Ok(false);
            }
        }
        self.is_old(delivery.stored_at).await
    }

    /// Whether the stream went on for a day since. That is no later than a day by the server's clock, whatever ours shows.
    async fn is_old(&self, stored_at: Timestamp) -> Result<bool, BusError> {
        for kind in ["alert", "backup"] {
            let last = self
                .bus
                .last_on(&format!("{}.{kind}.>", subject::ROOT))
                .await?;
            if last.is_some_and(|last| last.time - stored_at > NEWS) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the resolution of what was told may still be on its way: not when it is older than a day.
    async fn waits_for(
        &self,
        told: &Told,
        sequence: Sequence,
        raised: &AlertRaised,
    ) -> Result<bool, BusError> {
        let fence = alert_fence(&raised.instance, &raised.branch, raised.rule);
        let from = told.sequence.next();
        let mut between = self
            .bus
            .history(vec![fence], from, topology::EVENTS)
            .await?;
        while let Some(stored) = futures::StreamExt::next(&mut between).await {
            let stored = stored?;
            if stored.sequence >= sequence {
                break;
            }
            if matches!(stored.envelope.message, Event::AlertResolved(_)) {
                return Ok(!self.is_old(stored.time).await?);
            }
        }
        Ok(false)
    }

    async fn resolved(&self, resolved: &AlertResolved, notice: &Notice) -> Result<(), Undelivered> {
        let AlertResolved {
            instance,
            branch,
            rule,
            since,
            ..
        } = resolved;
        let key = self.key(instance, branch, rule);
        let Some((told, revision)) = self
            .told(&key)
            .await?
            .filter(|(told, _)| told.since == *since)
        else {
            return Ok(());
        };
        if !told.sent {
            let stream = self.bus.stream_state(topology::EVENTS).await?.created;
            if !told.is_of(stream) {
                // The alert was lost with its stream: nobody will send it.
                self.bucket().delete(&key, revision).await?;
                return Ok(());
            }
            return Err(Undelivered::Turn("the alert itself is not sent yet"));
        }
        self.channel.send(notice).await?;
        self.bucket().delete(&key, revision).await?;
        Ok(())
    }

    /// Forgets what was to be told.
    async fn give_up(&self, delivery: &Delivery<Event>) -> Result<(), Undelivered> {
        let key = match &delivery.envelope.message {
            Event::AlertRaised(e) => self.key(&e.instance, &e.branch, &e.rule),
            Event::AlertResolved(e) => self.key(&e.instance, &e.branch, &e.rule),
            _ => return Ok(()),
        };
        if let Some((_, revision)) = self.told(&key).await? {
            self.bucket().delete(&key, revision).await?;
        }
        Ok(())
    }

    fn bucket(&self) -> Bucket {
        self.bus.bucket(topology::ALERTS)
    }

    fn key(
        &self,
        instance: &impl std::fmt::Display,
        branch: &impl std::fmt::Display,
        rule: &impl std::fmt::Display,
    ) -> String {
        format!("told.{}.{instance}.{branch}.{rule}", self.channel.name())
    }

    async fn told(&self, key: &str) -> Result<Option<(Told, Revision)>, Undelivered> {
        let Some((bytes, revision)) = self.bucket().get(key).await? else {
            return Ok(None);
        };
        match serde_json::from_slice(&bytes) {
            Ok(told) => Ok(Some((told, revision))),
            // Of another version: what it says is not known, so that nothing of it is relied on.
            Err(_) => {
                self.bucket().delete(key, revision).await?;
                Ok(None)
            }
        }
    }
}

fn json(told: &Told) -> Result<Vec<u8>, BusError> {
    serde_json::to_vec(told).map_err(|source| BusError::Encode {
        what: "what a channel was told".to_owned(),
        source,
    })
}
