//! A bus that is away while somebody waits: over `zektor down` and `zektor up`, over a restart of the server.
//!
//! Nothing is missed meanwhile: the events are read on behind the last that was seen. What must stay true: nobody waits
//! in silence, and nobody waits for ever.

use std::time::Duration;

use bus::From;
use events::topology;
use tokio::time::{Instant, timeout};

use super::Sent;
use crate::failure::{Ending, Failure};
use crate::output::note;

/// How often it is looked whether the bus is there.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// A server that stands still keeps its connections; so often it is asked something.
const ASK_INTERVAL: Duration = Duration::from_secs(5);
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);
/// A restart of the server is no news.
const TOLD_AFTER: Duration = Duration::from_secs(3);
/// Long enough for `zektor down`, another version, and `zektor up`.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(180);

const BUS_AWAY: &str = "bus_away";

/// Since when the bus is away, and who knows.
#[derive(Debug)]
pub(super) struct Outage {
    since: Option<Instant>,
    told: bool,
    asked: Instant,
    pub(super) given_up_after: Duration,
}

impl Outage {
    pub(super) fn none() -> Outage {
        Outage {
            since: None,
            told: false,
            asked: Instant::now(),
            given_up_after: GIVEN_UP_AFTER,
        }
    }

    fn is_over(&mut self) {
        if std::mem::take(&mut self.told) {
            note("the bus is back; still waiting for the outcome");
        }
        self.since = None;
    }

    fn lasts(&mut self) -> Result<(), Failure> {
        let away = self.since.get_or_insert_with(Instant::now).elapsed();
        if away >= self.given_up_after {
            return Err(bus_away(&format!(
                "the bus is away for {} s; what was asked for goes on without anybody waiting for it",
                away.as_secs()
            )));
        }
        if away >= TOLD_AFTER && !self.told {
            self.told = true;
            note(&format!(
                "the bus is away; waiting {} s for it to come back",
                (self.given_up_after - away).as_secs()
            ));
        }
        Ok(())
    }
}

fn bus_away(message: &str) -> Failure {
    let hint =
        "once it is back (`zektor status`), see what came of it; do not ask for it again before";
    Failure::new(Ending::Unreachable, BUS_AWAY, message, hint)
}

/// The sequences of another stream say nothing of this one.
pub(super) fn forgotten() -> Failure {
    bus_away("the bus has forgotten what was asked of it, so the outcome cannot be waited for")
}

/// Says how the outcome can be looked at, if it is no longer waited for because of the bus.
pub(super) fn with_look(failure: Failure, how: &str) -> Failure {
    match failure.code.as_str() {
        BUS_AWAY => Failure {
            hint: format!(
                "once it is back (`zektor status`), see what came of it with `{how}`; do not ask for it again before"
            ),
            ..failure
        },
        _ => failure,
    }
}

impl Sent {
    /// Looks whether the bus is there, and whether it is somewhere else by now.
    pub(super) async fn look(&mut self) -> Result<(), Failure> {
        if self.bus_answers().await? {
            self.outage.is_over();
            return Ok(());
        }
        self.outage.lasts()?;
        self.look_elsewhere().await
    }

    async fn bus_answers(&mut self) -> Result<bool, Failure> {
        if !self.session.bus.is_connected() {
            return Ok(false);
        }
        let outage = &mut self.outage;
        if outage.since.is_none() && outage.asked.elapsed() < ASK_INTERVAL {
            return Ok(true);
        }
        outage.asked = Instant::now();
        let state = self.session.bus.stream_state(topology::EVENTS);
        match timeout(ANSWERED_WITHIN, state).await {
            Ok(Ok(state)) if state.created != self.created => Err(forgotten()),
            answered => Ok(matches!(answered, Ok(Ok(_)))),
        }
    }

    /// The stack of the home may have had to take another port.
    async fn look_elsewhere(&mut self) -> Result<(), Failure> {
        let setting = self.session.setting.clone();
        let Ok(Some(stack)) = setting.stack() else {
            return Ok(());
        };
        let known = self.session.stack.as_ref().map(|known| &known.nats_url);
        if known == Some(&stack.nats_url) {
            return Ok(());
        }
        let Ok(session) = setting.connect().await else {
            return Ok(());
        };
        match session.bus.stream_state(topology::EVENTS).await {
            Ok(state) if state.created == self.created => {}
            Ok(_another) => return Err(forgotten()),
            Err(_) => return Ok(()),
        }
        let from = From::Sequence(self.read.next().0);
        let subjects = self.subjects.clone();
        self.events = Box::pin(session.bus.follow(subjects, from, topology::EVENTS));
        self.session = session;
        Ok(())
    }
}
