//! The messages of one stream: de-duplication, expectations, history, expiry.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use events::Timestamp;
use events::envelope::MESSAGE_ID_HEADER;

use crate::subjects::covers;
use crate::transport::{
    EXPECTED_LAST, EXPECTED_LAST_SUBJECT, MARKER_REASON, PublishError, RawMessage, RawStored,
    Receipt, Start, TTL,
};
use crate::{Sequence, StreamState};

#[derive(Debug)]
pub(super) struct Store {
    pub(super) subjects: Vec<String>,
    pub(super) duplicate_window: Duration,
    /// Messages kept of one subject; a bucket's history.
    pub(super) history: Option<usize>,
    created: Timestamp,
    last: Sequence,
    messages: BTreeMap<Sequence, Held>,
    ids: HashMap<String, (Sequence, Timestamp)>,
}

#[derive(Debug)]
struct Held {
    stored: RawStored,
    expires: Option<Timestamp>,
}

impl Store {
    pub(super) fn new(subjects: Vec<String>, created: Timestamp) -> Self {
        Store {
            subjects,
            duplicate_window: Duration::from_secs(120),
            history: None,
            created,
            last: Sequence::NONE,
            messages: BTreeMap::new(),
            ids: HashMap::new(),
        }
    }

    pub(super) fn captures(&self, subject: &str) -> bool {
        self.subjects.iter().any(|own| covers(own, subject))
    }

    pub(super) fn publish(
        &mut self,
        message: &RawMessage,
        now: Timestamp,
    ) -> Result<Receipt, PublishError> {
        let id = message.header(MESSAGE_ID_HEADER).map(str::to_owned);
        let window = self.duplicate_window;
        self.ids.retain(|_, (_, at)| *at + window > now);
        if let Some((sequence, _)) = id.as_ref().and_then(|id| self.ids.get(id)) {
            return Ok(Receipt {
                sequence: *sequence,
                duplicate: true,
            });
        }
        if let Some(expected) = message.header(EXPECTED_LAST) {
            let filter = message
                .header(EXPECTED_LAST_SUBJECT)
                .unwrap_or(&message.subject);
            let last = self
                .last_on(filter)
                .map_or(Sequence::NONE, |last| last.sequence);
            if expected != last.to_string() {
                return Err(PublishError::Unexpected);
            }
        }
        let expires = message
            .header(TTL)
            .and_then(|ttl| ttl.trim_end_matches('s').parse().ok())
            .map(|seconds| now + Duration::from_secs(seconds));
        let sequence = self.append(message.clone(), expires, now);
        if let Some(id) = id {
            let _ = self.ids.insert(id, (sequence, now));
        }
        Ok(Receipt {
            sequence,
            duplicate: false,
        })
    }

    fn append(
        &mut self,
        message: RawMessage,
        expires: Option<Timestamp>,
        now: Timestamp,
    ) -> Sequence {
        self.last = self.last.next();
        let subject = message.subject.clone();
        let stored = RawStored {
            sequence: self.last,
            time: now,
            pending: 0,
            message,
        };
        let _ = self.messages.insert(self.last, Held { stored, expires });
        if let Some(history) = self.history {
            let kept: Vec<_> = self
                .messages
                .iter()
                .filter(|(_, held)| held.stored.message.subject == subject)
                .map(|(sequence, _)| *sequence)
                .collect();
            for sequence in kept.iter().rev().skip(history) {
                self.remove(*sequence);
            }
        }
        self.last
    }

    /// Lets go of what has expired; a subject that is empty then gets a marker. Whether there was any.
    pub(super) fn expire(&mut self, now: Timestamp) -> bool {
        let expired: Vec<_> = self
            .messages
            .iter()
            .filter(|(_, held)| held.expires.is_some_and(|at| at <= now))
            .map(|(sequence, held)| (*sequence, held.stored.message.subject.clone()))
            .collect();
        let any = !expired.is_empty();
        for (sequence, subject) in expired {
            self.remove(sequence);
            if self.last_on(&subject).is_none() {
                let headers = [(MARKER_REASON.to_owned(), "MaxAge".to_owned())].into();
                let marker = RawMessage {
                    subject,
                    headers,
                    payload: bytes::Bytes::new(),
                };
                let _ = self.append(marker, None, now);
            }
        }
        any
    }

    pub(super) fn next_expiry(&self) -> Option<Timestamp> {
        self.messages.values().filter_map(|held| held.expires).min()
    }

    pub(super) fn remove(&mut self, sequence: Sequence) {
        drop(self.messages.remove(&sequence));
    }

    pub(super) fn get(&self, sequence: Sequence) -> Option<&RawStored> {
        self.messages.get(&sequence).map(|held| &held.stored)
    }

    pub(super) fn last_on(&self, filter: &str) -> Option<&RawStored> {
        self.messages
            .values()
            .rev()
            .map(|held| &held.stored)
            .find(|stored| covers(filter, &stored.message.subject))
    }

    /// The first message from `from` on that one of the filters selects; without filters any.
    pub(super) fn find(&self, filters: &[String], from: Sequence) -> Option<&RawStored> {
        self.messages
            .range(from..)
            .map(|(_, held)| &held.stored)
            .find(|stored| selected(filters, stored))
    }

    /// What a reader reads first, and where it goes on.
    pub(super) fn begin(&self, filters: &[String], start: Start) -> (VecDeque<Sequence>, Sequence) {
        let next = match start {
            Start::Beginning => Sequence::NONE,
            Start::New | Start::LastPerSubject => self.last.next(),
            Start::Sequence(sequence) => sequence,
            Start::Time(at) => self
                .messages
                .values()
                .find(|held| held.stored.time >= at)
                .map_or(self.last.next(), |held| held.stored.sequence),
        };
        let mut first = BTreeMap::new();
        if start == Start::LastPerSubject {
            for held in self.messages.values() {
                if selected(filters, &held.stored) {
                    let subject = held.stored.message.subject.as_str();
                    let _ = first.insert(subject, held.stored.sequence);
                }
            }
        }
        let mut first: Vec<_> = first.into_values().collect();
        first.sort_unstable();
        (first.into(), next)
    }

    pub(super) fn state(&self) -> StreamState {
        StreamState {
            created: self.created,
            first: self
                .messages
                .keys()
                .next()
                .copied()
                .unwrap_or(self.last.next()),
            last: self.last,
            messages: self.messages.len() as u64,
        }
    }
}

fn selected(filters: &[String], stored: &RawStored) -> bool {
    filters.is_empty()
        || filters
            .iter()
            .any(|filter| covers(filter, &stored.message.subject))
}
