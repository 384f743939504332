//! Tells what can be restored when its shape has changed; only the last one counts.

use bus::{BusError, Outgoing};
use events::event::{BranchWindowChanged, Event};
use events::window::Window;
use events::{MessageId, subject};

use super::Speaker;
use crate::status::BranchKey;
use crate::window::shape;

impl Speaker {
    /// Tells it, unless the last one that was told has this shape.
    pub(super) async fn window(&self, key: &BranchKey, window: &Window) -> Result<(), BusError> {
        let (instance, branch) = (&key.instance, &key.branch);
        let subject = format!(
            "{}.branch.window_changed.{instance}.{branch}",
            subject::ROOT
        );
        let last = match self.bus.last_on(&subject).await {
            Err(BusError::Undecodable { .. }) => None,
            last => last?,
        };
        if let Some(Event::BranchWindowChanged(told)) = last.map(|last| last.envelope.message)
            && shape(&told.window) == shape(window)
        {
            return Ok(());
        }
        let changed_at = self.clock.now();
        let micros = changed_at.timestamp_micros();
        let id = format!("branch.window_changed:{instance}:{branch}:{micros}");
        let event = Event::BranchWindowChanged(BranchWindowChanged {
            instance: instance.clone(),
            branch: branch.clone(),
            window: window.clone(),
            changed_at,
        });
        let outgoing = Outgoing::new(event, MessageId::new(id), changed_at);
        self.bus.publish(outgoing).await.map(|_| ())
    }
}
