//! Commands that change an instance document once, however late one of their deliveries goes on.
//!
//! A delivery that stands still (its process was stopped, its disk hung) is taken for lost, and the command is delivered
//! again; and then the first one goes on: when all is done, when somebody has undone it, when the name is another
//! branch's or instance's. What must stay true: nothing is written or told that is not bound to what was read *before* it
//! was asked whether the outcome was told. Where that is so and nothing was told, nobody has come between; all others
//! look again, and find it told.

use bus::{CasError, FenceError, Outgoing, Revision, Sequence};
use events::{Event, InstanceDocument, InstanceName};

use super::{Given, World};
use crate::refusal::{Refusal, Unfinished};

/// Others may change the same document, or tell of it, meanwhile; so often it is decided anew.
const MOST_ATTEMPTS: u32 = 32;

/// Where it is seen that the outcome was told.
#[derive(Clone, Copy)]
pub(super) enum Told<'a> {
    /// Anything is on this fence: it is that of what the command makes.
    First(&'a str),
    /// Something that the command has caused is on this fence, or a refusal.
    Caused(&'a str),
}

impl World {
    /// Changes the document, unless an earlier delivery has told the outcome: then nothing.
    pub(super) async fn change_once(
        &self,
        given: &Given,
        (instance, told): (&InstanceName, Told<'_>),
        change: impl Fn(InstanceDocument) -> Result<InstanceDocument, Refusal>,
    ) -> Result<Option<InstanceDocument>, Unfinished> {
        for _ in 0..MOST_ATTEMPTS {
            let (before, revision) = self.bus.instances().standing(instance).await?;
            let told = match told {
                Told::First(fence) => self.last_told(fence).await? != Sequence::NONE,
                Told::Caused(fence) => self.has_told(given, fence.to_owned()).await?,
            };
            if told {
                return Ok(None);
            }
            let before = before.ok_or_else(|| Refusal::no_such_instance(instance))?;
            let after = change(before.clone())?;
            if after == before || self.replace(&after, revision).await? {
                return Ok(Some(after));
            }
        }
        Err(contended(instance))
    }

    /// Changes the document and tells it on `fence`, unless an earlier delivery has. What is told there last is what the
    /// document said last.
    pub(super) async fn change_and_tell(
        &self,
        given: &Given,
        (instance, fence): (&InstanceName, &str),
        change: impl Fn(InstanceDocument) -> Result<InstanceDocument, Refusal>,
        outgoing: impl Fn(&InstanceDocument) -> Result<Outgoing<Event>, Refusal>,
    ) -> Result<(), Unfinished> {
        for _ in 0..MOST_ATTEMPTS {
            let last = self.last_told(fence).await?;
            let of = (instance, Told::Caused(fence));
            let Some(document) = self.change_once(given, of, &change).await? else {
                return Ok(());
            };
            self.mirror(instance).await?;
            let outgoing = outgoing(&document)?;
            if self.tell_after(outgoing, (fence, last)).await? {
                return Ok(());
            }
        }
        Err(contended(instance))
    }

    /// The last event on a fence.
    pub(super) async fn last_told(&self, fence: &str) -> Result<Sequence, Unfinished> {
        let last = self.bus.last_on(fence).await?;
        Ok(last.map_or(Sequence::NONE, |last| last.sequence))
    }

    /// Whether it could be told: false if something was said there after `last`.
    pub(super) async fn tell_after(
        &self,
        outgoing: Outgoing<Event>,
        (fence, last): (&str, Sequence),
    ) -> Result<bool, Unfinished> {
        match self.bus.publish_expecting(outgoing, fence, last).await {
            Ok(_sequence) => Ok(true),
            Err(FenceError::Lost { .. }) => Ok(false),
            Err(FenceError::Bus(error)) => Err(error.into()),
        }
    }

    /// Whether it could be written: false if something has happened to the document after `revision`.
    pub(super) async fn replace(
        &self,
        document: &InstanceDocument,
        revision: Revision,
    ) -> Result<bool, Unfinished> {
        match self.bus.instances().replace(document, revision).await {
            Ok(_revision) => Ok(true),
            Err(CasError::Conflict { .. }) => Ok(false),
            Err(CasError::Bus(error)) => Err(error.into()),
        }
    }
}

/// The command is delivered again.
pub(super) fn contended(instance: &InstanceName) -> Unfinished {
    Unfinished::NotYet(format!(
        "others change the document of instance {instance} all the time"
    ))
}
