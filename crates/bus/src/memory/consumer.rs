//! One durable consumer: what was delivered, what is to be delivered again, what is given up.

use std::collections::BTreeMap;

use events::Timestamp;
use events::topology::ConsumerSpec;

use super::store::Store;
use crate::Sequence;
use crate::transport::{Ack, RawStored};

#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) spec: ConsumerSpec,
    /// Nothing from here on was delivered yet.
    next: Sequence,
    in_hand: BTreeMap<Sequence, Delivered>,
}

#[derive(Debug)]
struct Delivered {
    times: u64,
    /// When it is due again.
    due: Timestamp,
}

impl Consumer {
    pub(super) fn new(spec: ConsumerSpec) -> Self {
        Consumer {
            spec,
            next: Sequence(1),
            in_hand: BTreeMap::new(),
        }
    }

    /// The next delivery and its number: one that is due again before a new one.
    pub(super) fn deliver(&mut self, store: &Store, now: Timestamp) -> Option<(RawStored, u64)> {
        let due_again = now + self.spec.ack_wait;
        let again = self
            .in_hand
            .iter_mut()
            .find(|(_, delivered)| delivered.due <= now);
        if let Some((sequence, delivered)) = again {
            delivered.times += 1;
            delivered.due = due_again;
            return Some((store.get(*sequence)?.clone(), delivered.times));
        }
        if self.is_at_limit() {
            return None;
        }
        let stored = store.find(&self.spec.filters, self.next)?;
        self.next = stored.sequence.next();
        let delivered = Delivered {
            times: 1,
            due: due_again,
        };
        let _ = self.in_hand.insert(stored.sequence, delivered);
        Some((stored.clone(), 1))
    }

    /// Deliveries that nobody has ended.
    pub(super) fn in_hand(&self) -> usize {
        self.in_hand.len()
    }

    /// Whether nothing new is delivered until something in hand has ended.
    pub(super) fn is_at_limit(&self) -> bool {
        let limit = usize::try_from(self.spec.max_ack_pending).unwrap_or(usize::MAX);
        self.in_hand.len() >= limit
    }

    /// Whether the message has ended for this consumer.
    pub(super) fn ack(&mut self, sequence: Sequence, ack: Ack, now: Timestamp) -> bool {
        let Some(delivered) = self.in_hand.get_mut(&sequence) else {
            return false;
        };
        match ack {
            Ack::InProgress => delivered.due = now + self.spec.ack_wait,
            Ack::Retry(after) => delivered.due = now + after,
            Ack::Done | Ack::Terminated => return self.in_hand.remove(&sequence).is_some(),
        }
        false
    }

    /// Gives up what is due again and was delivered as often as it may be; and what is gone.
    pub(super) fn give_up(&mut self, store: &Store, now: Timestamp) -> Vec<(Sequence, u64)> {
        let limit = u64::try_from(self.spec.max_deliver).unwrap_or(u64::MAX);
        let mut given_up = Vec::new();
        self.in_hand.retain(|sequence, delivered| {
            if delivered.due > now {
                return true;
            }
            if store.get(*sequence).is_none() {
                return false;
            }
            if delivered.times >= limit {
                given_up.push((*sequence, delivered.times));
                return false;
            }
            true
        });
        given_up
    }

    pub(super) fn due(&self) -> impl Iterator<Item = Timestamp> {
        self.in_hand.values().map(|delivered| delivered.due)
    }
}
