//! Tells what slots mean for disks when that has changed; only the last one counts.

use bus::{BusError, Outgoing};
use events::event::{Event, SlotRiskChanged, SlotRiskLevel};
use events::{MessageId, subject};

use super::Speaker;

impl Speaker {
    /// Tells it, unless the last one that was told has this level. That there is nothing to fear is told only to those
    /// who were told otherwise.
    pub(super) async fn slot_risk(&self, changed: &SlotRiskChanged) -> Result<(), BusError> {
        let (instance, branch) = (&changed.instance, &changed.branch);
        let subject = format!(
            "{}.wal.slot.risk_changed.{instance}.{branch}",
            subject::ROOT
        );
        let last = match self.bus.last_on(&subject).await {
            Err(BusError::Undecodable { .. }) => None,
            last => last?,
        };
        let told = match last.map(|last| last.envelope.message) {
            Some(Event::SlotRiskChanged(told)) => told.level,
            _ => SlotRiskLevel::Low,
        };
        if told == changed.level {
            return Ok(());
        }
        let micros = changed.changed_at.timestamp_micros();
        let id = format!("wal.slot.risk_changed:{instance}:{branch}:{micros}");
        let event = Event::SlotRiskChanged(changed.clone());
        let outgoing = Outgoing::new(event, MessageId::new(id), self.clock.now());
        self.bus.publish(outgoing).await.map(|_| ())
    }
}
