//! Desired state and leases: small values under keys, changed by compare-and-set.
//!
//! A bucket is a NATS key-value bucket on the wire (`nats kv` reads it). Every write carries an id of its
//! own, so a write whose answer was lost is recognised instead of being taken for somebody else's.

use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use uuid::Uuid;

use crate::error::CasError;
use crate::follow::Follower;
use crate::publish::ATTEMPT_HEADER;
use crate::transport::{
    EXPECTED_LAST, EXPECTED_LAST_SUBJECT, KV_OPERATION, MARKER_REASON, PublishError, RawMessage,
    RawStored, Start, TTL,
};
use crate::{Bus, BusError, Revision, Sequence};

/// Pause before a watch that failed begins anew.
const WATCH_PAUSE: Duration = Duration::from_secs(1);

/// A bucket of [`events::topology::buckets`].
#[derive(Clone, Debug)]
pub struct Bucket {
    bus: Bus,
    name: String,
}

/// How a conditional write came out.
enum Written {
    At(Revision),
    /// It was not made; this is the key's last message.
    Not(Option<RawStored>),
}

/// What happened to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: String,
    /// Its value now; `None` when it was deleted or has expired.
    pub value: Option<Vec<u8>>,
    /// The revision of the change.
    pub revision: Revision,
}

impl Bus {
    /// A bucket by name.
    #[must_use]
    pub fn bucket(&self, name: &str) -> Bucket {
        Bucket {
            bus: self.clone(),
            name: name.to_owned(),
        }
    }
}

impl Bucket {
    /// A key's value and revision.
    ///
    /// # Errors
    /// As any call.
    pub async fn get(&self, key: &str) -> Result<Option<(Vec<u8>, Revision)>, BusError> {
        let last = self.last(key).await?;
        Ok(last
            .filter(is_value)
            .map(|last| (last.message.payload.to_vec(), Revision(last.sequence.0))))
    }

    /// What is there of a key, and the revision of the last change to it: of its deletion when it is gone, and 0 when it
    /// never was. [`Self::update`] at that revision writes only if nothing has happened to the key since, whether it is
    /// there or not.
    ///
    /// # Errors
    /// As any call.
    pub async fn standing(&self, key: &str) -> Result<(Option<Vec<u8>>, Revision), BusError> {
        Ok(match self.last(key).await? {
            None => (None, Revision(0)),
            Some(last) => {
                let value = is_value(&last).then(|| last.message.payload.to_vec());
                (value, Revision(last.sequence.0))
            }
        })
    }

    /// Makes a key that does not exist.
    ///
    /// # Errors
    /// [`CasError::Conflict`] if it exists.
    pub async fn create(
        &self,
        key: &str,
        value: impl Into<Bytes> + Send,
    ) -> Result<Revision, CasError> {
        self.make(key, value.into(), None).await
    }

    /// Changes a key that is at `revision`.
    ///
    /// # Errors
    /// [`CasError::Conflict`] if it is not.
    pub async fn update(
        &self,
        key: &str,
        value: impl Into<Bytes> + Send,
        revision: Revision,
    ) -> Result<Revision, CasError> {
        self.write(key, value.into(), revision, &[]).await
    }

    /// Removes a key that is at `revision`.
    ///
    /// # Errors
    /// [`CasError::Conflict`] if it is not.
    pub async fn delete(&self, key: &str, revision: Revision) -> Result<(), CasError> {
        let deletion = [(KV_OPERATION, "DEL".to_owned())];
        let _ = self.write(key, Bytes::new(), revision, &deletion).await?;
        Ok(())
    }

    /// As [`Self::delete`], of a key that will hardly be used again: the server forgets `after` the deletion that there
    /// was such a key. Only where keys may expire; whole seconds, rounded up, at least one.
    ///
    /// # Errors
    /// [`CasError::Conflict`] if it is not at `revision`.
    pub async fn forget(
        &self,
        key: &str,
        revision: Revision,
        after: Duration,
    ) -> Result<(), CasError> {
        let deletion = [(KV_OPERATION, "DEL".to_owned()), (TTL, ttl_text(after))];
        let _ = self.write(key, Bytes::new(), revision, &deletion).await?;
        Ok(())
    }

    /// Takes a lease: makes a key that goes by itself after `ttl` (whole seconds, rounded up, at least one).
    ///
    /// # Errors
    /// [`CasError::Conflict`] if somebody holds it.
    pub async fn create_with_ttl(
        &self,
        key: &str,
        value: impl Into<Bytes> + Send,
        ttl: Duration,
    ) -> Result<Revision, CasError> {
        self.make(key, value.into(), Some(ttl)).await
    }

    /// Renews a lease that is at `revision`: it lives `ttl` from now on.
    ///
    /// # Errors
    /// [`CasError::Conflict`] if it has expired or somebody else holds it.
    pub async fn renew(
        &self,
        key: &str,
        value: impl Into<Bytes> + Send,
        revision: Revision,
        ttl: Duration,
    ) -> Result<Revision, CasError> {
        self.write(key, value.into(), revision, &[(TTL, ttl_text(ttl))])
            .await
    }

    /// Gives a lease back.
    ///
    /// # Errors
    /// [`CasError::Conflict`] if it has expired or somebody else holds it.
    pub async fn release(&self, key: &str, revision: Revision) -> Result<(), CasError> {
        self.delete(key, revision).await
    }

    /// The keys that exist, in no particular order.
    ///
    /// # Errors
    /// As any call.
    pub async fn keys(&self) -> Result<Vec<String>, BusError> {
        let present = self.present().await?;
        Ok(present.into_iter().map(|change| change.key).collect())
    }

    /// The keys below `prefix` (a key that lacks its last tokens) that exist, with their values.
    ///
    /// # Errors
    /// As any call; [`BusError::InvalidKey`] for a prefix that begins no key.
    pub async fn under(&self, prefix: &str) -> Result<Vec<Change>, BusError> {
        let below = format!("{}.>", self.subject(prefix)?);
        let stream = self.stream();
        let last = || self.bus.transport.last_on(&stream, &below);
        // A reader costs more than a look, and most often there never was any such key.
        if self.bus.patiently(last).await?.is_none() {
            return Ok(Vec::new());
        }
        let start = Start::LastPerSubject;
        self.present_in(Follower::new(&self.bus, &stream, vec![below], start))
            .await
    }

    /// Every key that exists, with its value.
    pub(crate) async fn present(&self) -> Result<Vec<Change>, BusError> {
        self.present_in(self.follower()).await
    }

    async fn present_in(&self, mut follower: Follower) -> Result<Vec<Change>, BusError> {
        let mut present = std::collections::BTreeMap::new();
        while let Some(stored) = follower.next_until(Sequence(u64::MAX)).await? {
            let Some(change) = self.change(stored) else {
                continue;
            };
            let _ = match change.value {
                Some(_) => present.insert(change.key.clone(), change),
                None => present.remove(&change.key),
            };
        }
        Ok(present.into_values().collect())
    }

    /// All values that exist now, then every change, for ever and over reconnects. Changes of a key that
    /// follow closely on each other may be seen as one. When the bucket was lost and made anew, the watch
    /// begins anew.
    pub fn watch(&self) -> impl Stream<Item = Change> + Send + Unpin + use<> {
        let state = (self.clone(), self.follower());
        Box::pin(futures::stream::unfold(
            state,
            |(bucket, mut follower)| async move {
                loop {
                    match follower.next().await {
                        Ok(stored) => {
                            if let Some(change) = bucket.change(stored) {
                                return Some((change, (bucket, follower)));
                            }
                        }
                        Err(error) => {
                            tracing::warn!(
                                bucket = bucket.name,
                                error = &error as &dyn std::error::Error,
                                "a watch begins anew"
                            );
                            tokio::time::sleep(WATCH_PAUSE).await;
                            follower = bucket.follower();
                        }
                    }
                }
            },
        ))
    }

    fn follower(&self) -> Follower {
        let all = vec![format!("$KV.{}.>", self.name)];
        Follower::new(&self.bus, &self.stream(), all, Start::LastPerSubject)
    }

    fn change(&self, stored: RawStored) -> Option<Change> {
        let prefix = format!("$KV.{}.", self.name);
        let key = stored.message.subject.strip_prefix(&prefix)?.to_owned();
        Some(Change {
            key,
            value: is_value(&stored).then(|| stored.message.payload.to_vec()),
            revision: Revision(stored.sequence.0),
        })
    }

    fn stream(&self) -> String {
        format!("KV_{}", self.name)
    }

    fn subject(&self, key: &str) -> Result<String, BusError> {
        let legal = |c: char| c.is_ascii_alphanumeric() || "-/_=.".contains(c);
        let valid = !key.is_empty()
            && !key.starts_with('.')
            && !key.ends_with('.')
            && !key.contains("..")
            && key.chars().all(legal);
        if !valid {
            return Err(BusError::InvalidKey {
                key: key.to_owned(),
            });
        }
        Ok(format!("$KV.{}.{key}", self.name))
    }

    async fn last(&self, key: &str) -> Result<Option<RawStored>, BusError> {
        let (stream, subject) = (self.stream(), self.subject(key)?);
        self.bus
            .patiently(|| self.bus.transport.last_on(&stream, &subject))
            .await
    }

    async fn make(
        &self,
        key: &str,
        value: Bytes,
        ttl: Option<Duration>,
    ) -> Result<Revision, CasError> {
        let ttl: Vec<_> = ttl.map(|ttl| (TTL, ttl_text(ttl))).into_iter().collect();
        let absent = Revision(0);
        let found = match self.try_write(key, value.clone(), absent, &ttl).await? {
            Written::At(revision) => return Ok(revision),
            Written::Not(found) => found,
        };
        let expected = match found {
            Some(last) if is_value(&last) => return Err(self.conflict(key, absent)),
            // Something is there, but it only says that the key is gone.
            Some(last) => Revision(last.sequence.0),
            None => absent,
        };
        self.write(key, value, expected, &ttl).await
    }

    async fn write(
        &self,
        key: &str,
        payload: Bytes,
        expected: Revision,
        extra: &[(&str, String)],
    ) -> Result<Revision, CasError> {
        match self.try_write(key, payload, expected, extra).await? {
            Written::At(revision) => Ok(revision),
            Written::Not(_) => Err(self.conflict(key, expected)),
        }
    }

    fn conflict(&self, key: &str, expected: Revision) -> CasError {
        CasError::Conflict {
            bucket: self.name.clone(),
            key: key.to_owned(),
            expected,
        }
    }

    async fn try_write(
        &self,
        key: &str,
        payload: Bytes,
        expected: Revision,
        extra: &[(&str, String)],
    ) -> Result<Written, BusError> {
        let subject = self.subject(key)?;
        let attempt = Uuid::now_v7().to_string();
        let mut headers: std::collections::BTreeMap<_, _> = [
            (EXPECTED_LAST, expected.to_string()),
            (EXPECTED_LAST_SUBJECT, subject.clone()),
            (ATTEMPT_HEADER, attempt.clone()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        headers.extend(
            extra
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone())),
        );
        let message = RawMessage {
            subject,
            headers,
            payload,
        };
        match self.bus.store(&message).await {
            Ok(receipt) => return Ok(Written::At(Revision(receipt.sequence.0))),
            Err(PublishError::Bus(error)) => return Err(error),
            Err(PublishError::Unexpected) => {}
        }
        // An earlier try may have been stored and its answer lost.
        Ok(match self.last(key).await? {
            Some(last) if last.message.header(ATTEMPT_HEADER) == Some(&attempt) => {
                Written::At(Revision(last.sequence.0))
            }
            found => Written::Not(found),
        })
    }
}

/// Whether a message of a bucket is a value, and not the mark of a key that was deleted or expired.
fn is_value(stored: &RawStored) -> bool {
    let message = &stored.message;
    message.header(KV_OPERATION).is_none_or(|op| op == "PUT")
        && message.header(MARKER_REASON).is_none()
}

/// NATS takes whole seconds, one at least.
fn ttl_text(ttl: Duration) -> String {
    let whole = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    format!("{}s", whole.max(1))
}
