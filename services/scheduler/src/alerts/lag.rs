//! How far archives are behind.
//!
//! Archivers say it when they are asked. In a round at most `lag_looks` of them are: those that were behind at the last look
//! first, then a slice of all the others, chosen by the minute and by the branch's name, so that every branch has its turn
//! whichever replica does the round. With 10,000 branches and 1,000 looks that is every ten minutes. A look is one
//! request without storage; it is written down only if it matters.

use std::time::Duration;

use ::alerts::{BranchState, Fact};
use chrono::TimeDelta;
use events::document::Branch;
use events::position::{ArchiverPosition, PositionQuestion};
use events::{ArchiveMode, BranchName, InstanceName, Timestamp, subject};
use futures::StreamExt as _;
use sha2::{Digest as _, Sha256};

use super::Watch;
use super::round::Live;
use super::store::key;

/// Questions at the same time.
const AT_ONCE: usize = 64;
/// Patience for one answer.
const ANSWER: Duration = Duration::from_secs(2);
/// Looks end before the next round.
const LONGEST: Duration = Duration::from_secs(40);

type States = std::collections::BTreeMap<(InstanceName, BranchName), Option<BranchState>>;

/// A branch whose archiver is asked.
struct Chosen<'a> {
    instance: &'a InstanceName,
    branch: &'a BranchName,
    /// Nothing is known of it but that it kept up.
    quiet: bool,
    since: Timestamp,
}

impl Watch {
    pub(super) async fn look_at_lags(&self, live: &[Live<'_>], states: &States) {
        let chosen = self.chosen(live, states);
        let looks = futures::stream::iter(chosen).for_each_concurrent(AT_ONCE, |chosen| async move {
            let Chosen { instance, branch, quiet, since } = chosen;
            if let Some(fact) = self.lag_of(instance, branch, since).await {
                let now = self.clock.now();
                let under = matches!(&fact, Fact::LagSeen { lag, .. } if *lag <= self.settings.lag);
                if quiet && under {
                    return;
                }
                let seen = self.change(instance, branch, |state| {
                    let _ = state.observe(now, fact.clone(), now, &self.settings);
                });
                if let Err(error) = seen.await {
                    tracing::warn!(%instance, %branch, error = %error, "a look at an archive could not be kept");
                }
            }
        });
        if tokio::time::timeout(LONGEST, looks).await.is_err() {
            tracing::warn!("not all archives of this round could be looked at in time");
        }
    }

    /// Whom to ask now.
    fn chosen<'a>(&self, live: &[Live<'a>], states: &States) -> Vec<Chosen<'a>> {
        let minute = self.clock.now().timestamp() / 60;
        let slices = live.len().div_ceil(self.lag_looks.max(1)).max(1);
        let turn = usize::try_from(minute).unwrap_or(0) % slices;
        let mut chosen: Vec<_> = live
            .iter()
            .filter_map(|(document, branch)| {
                let since = streamed_since(document.branches.get(*branch))?;
                let state = states.get(&(document.instance.clone(), (*branch).clone()));
                let state = state.and_then(Option::as_ref)?;
                if state.is_stopped() {
                    return None;
                }
                let quiet = state.keeps_up(&self.settings);
                let due = !quiet || slice(&document.instance, branch, slices) == turn;
                due.then_some(Chosen {
                    instance: &document.instance,
                    branch,
                    quiet,
                    since,
                })
            })
            .collect();
        chosen.sort_by_key(|chosen| chosen.quiet);
        chosen.truncate(self.lag_looks);
        chosen
    }

    /// `since` is when the branch was registered: where nothing was ever archived, everything since is in danger.
    async fn lag_of(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        since: Timestamp,
    ) -> Option<Fact> {
        let asked = subject::archiver_position(instance, branch);
        let answer = self
            .bus
            .request(&asked, &PositionQuestion::default(), ANSWER)
            .await;
        let now = self.clock.now();
        match answer {
            Ok(position) => Some(seen(&position, since, now)),
            Err(bus::RequestError::Bus(_)) => None,
            // Nobody archives it: then the repository tells how long ago somebody did.
            Err(_) => {
                let reader = self.repository.reader(instance, branch);
                let position = repository::archive::position(&reader).await.ok()?;
                // One is the server's time, the other one the archiver's: whichever is behind.
                let proven = position.map(|position| position.proven_at.min(position.updated));
                let error = Some("no archiver answers for this branch".to_owned());
                Some(Fact::LagSeen {
                    lag: now - proven.unwrap_or(since),
                    error,
                })
            }
        }
    }
}

/// What a position means. While WAL is received the archiver itself knows how far it is behind; while it is not, the
/// server may go on without it, so that everything since the last proof is in danger; since the branch was registered,
/// when there never was a proof.
fn seen(position: &ArchiverPosition, since: Timestamp, now: Timestamp) -> Fact {
    let told = position
        .lag_seconds
        .filter(|lag| position.streaming && lag.is_finite());
    #[expect(
        clippy::cast_possible_truncation,
        reason = "seconds of a lag are far from the limit"
    )]
    let told = told.map(|lag| TimeDelta::seconds(lag as i64));
    let lag = told.unwrap_or_else(|| now - position.proven_at.unwrap_or(since));
    Fact::LagSeen {
        lag,
        error: position.error.clone(),
    }
}

/// When the branch was registered. None of a server that pushes: it does so when a segment is full, and its lag is its own
/// choice.
fn streamed_since(branch: Option<&Branch>) -> Option<Timestamp> {
    let active = branch.and_then(Branch::active)?;
    (active.archive_mode == ArchiveMode::Stream).then_some(active.created_at)
}

fn slice(instance: &InstanceName, branch: &BranchName, slices: usize) -> usize {
    let digest = Sha256::digest(key(instance, branch).as_bytes());
    let mut number = [0; 8];
    number.copy_from_slice(&digest[..8]);
    usize::try_from(u64::from_be_bytes(number) >> 1).unwrap_or(0) % slices
}
