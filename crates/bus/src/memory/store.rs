//! The messages of one stream: de-duplication, expectations, history, expiry.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use events::Timestamp;
use events::envelope::MESSAGE_ID_HEADER;

use crate::subjects::covers;
use crate::transport::{
    EXPECTED_LAST, EXPECTED_LAST_SUBJECT, KV_OPERATION, MARKER_REASON, PublishError, RawMessage,
    RawStored, Receipt, Start, TTL,
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
    /// Where each subject's messages are.
    places: BTreeMap<String, BTreeSet<Sequence>>,
    /// The same by the last token of the subject: what is asked for by a wildcard mostly ends in an id.
    places_by_end: HashMap<String, BTreeSet<Sequence>>,
    expiries: BTreeSet<(Timestamp, Sequence)>,
    ids: HashMap<String, Sequence>,
    /// The same, oldest first.
    ids_by_age: VecDeque<(Timestamp, String)>,
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
            places: BTreeMap::new(),
            places_by_end: HashMap::new(),
            expiries: BTreeSet::new(),
            ids: HashMap::new(),
            ids_by_age: VecDeque::new(),
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
        while let Some((_, old)) = self.ids_by_age.pop_front_if(|(at, _)| *at + window <= now) {
            let _ = self.ids.remove(&old);
        }
        if let Some(sequence) = id.as_ref().and_then(|id| self.ids.get(id)) {
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
            self.ids_by_age.push_back((now, id.clone()));
            let _ = self.ids.insert(id, sequence);
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
        let end = last_token(&subject).to_owned();
        let _ = self.places_by_end.entry(end).or_default().insert(self.last);
        if let Some(at) = expires {
            let _ = self.expiries.insert((at, self.last));
        }
        let places = self.places.entry(subject).or_default();
        let _ = places.insert(self.last);
        if let Some(history) = self.history {
            let old: Vec<_> = places.iter().rev().skip(history).copied().collect();
            for sequence in old {
                self.remove(sequence);
            }
        }
        self.last
    }

    /// Lets go of what has expired; a subject that is empty then gets a marker. Whether there was any.
    pub(super) fn expire(&mut self, now: Timestamp) -> bool {
        let due = self.expiries.iter().take_while(|(at, _)| *at <= now);
        let expired: Vec<_> = due
            .filter_map(|(_, sequence)| {
                let held = self.messages.get(sequence)?;
                Some((*sequence, held.stored.message.clone()))
            })
            .collect();
        let any = !expired.is_empty();
        for (sequence, message) in expired {
            self.remove(sequence);
            let subject = message.subject.clone();
            // The mark of a deletion leaves no mark of its own.
            if message.header(KV_OPERATION).is_none() && self.last_on(&subject).is_none() {
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
        self.expiries.first().map(|(at, _)| *at)
    }

    pub(super) fn remove(&mut self, sequence: Sequence) {
        let Some(Held { stored, expires }) = self.messages.remove(&sequence) else {
            return;
        };
        let subject = stored.message.subject.as_str();
        if let Some(there) = self.places.get_mut(subject) {
            let _ = there.remove(&sequence);
            if there.is_empty() {
                let _ = self.places.remove(subject);
            }
        }
        let end = last_token(subject);
        if let Some(there) = self.places_by_end.get_mut(end) {
            let _ = there.remove(&sequence);
            if there.is_empty() {
                let _ = self.places_by_end.remove(end);
            }
        }
        if let Some(at) = expires {
            let _ = self.expiries.remove(&(at, sequence));
        }
    }

    pub(super) fn get(&self, sequence: Sequence) -> Option<&RawStored> {
        self.messages.get(&sequence).map(|held| &held.stored)
    }

    pub(super) fn last_on(&self, filter: &str) -> Option<&RawStored> {
        let wild = filter.split('.').any(|token| token == "*" || token == ">");
        let end = last_token(filter);
        if !wild {
            return self.get(*self.places.get(filter)?.last()?);
        }
        if end != "*" && end != ">" {
            let places = self.places_by_end.get(end)?.iter().rev();
            return places
                .filter_map(|sequence| self.get(*sequence))
                .find(|stored| covers(filter, &stored.message.subject));
        }
        let last = self
            .on(filter)
            .filter_map(|(_, places)| places.last())
            .max();
        self.get(*last?)
    }

    /// The subjects that a filter selects, with the places of their messages.
    fn on(&self, filter: &str) -> impl Iterator<Item = (&String, &BTreeSet<Sequence>)> {
        let begin = literal(filter);
        self.places
            .range(begin.to_owned()..)
            .take_while(move |(subject, _)| subject.starts_with(begin))
            .filter(move |(subject, _)| covers(filter, subject))
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
        let mut first = BTreeSet::new();
        if start == Start::LastPerSubject {
            let everything = [">".to_owned()];
            let filters = if filters.is_empty() {
                &everything
            } else {
                filters
            };
            for filter in filters {
                first.extend(
                    self.on(filter)
                        .filter_map(|(_, places)| places.last().copied()),
                );
            }
        }
        let first: Vec<_> = first.into_iter().collect();
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

fn last_token(subject: &str) -> &str {
    subject.rsplit('.').next().unwrap_or(subject)
}

/// What a filter says before its first wildcard.
fn literal(filter: &str) -> &str {
    filter.find(['*', '>']).map_or(filter, |at| &filter[..at])
}

fn selected(filters: &[String], stored: &RawStored) -> bool {
    filters.is_empty()
        || filters
            .iter()
            .any(|filter| covers(filter, &stored.message.subject))
}
