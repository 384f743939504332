//! At which moment of the server's clock the archive is known to be complete: pure.
//!
//! A claim says "what was flushed by moment S lies before P", and holds for the archive once it is
//! durable up to P. It is made on a second connection: `IDENTIFY_SYSTEM` gives the flush position, asked
//! for after a message of moment S had come over the stream. It counts only if the server still is on the
//! timeline that is streamed, and no standby.
//!
//! The stream alone cannot prove it. A keepalive's position is what was *sent*, not what is flushed
//! (`sentPtr` in `WalSndKeepalive`, PostgreSQL `src/backend/replication/walsender.c`): right after a
//! reconnect it would call an archive complete that is hours behind. And on a timeline that has just
//! ended, a WAL message's position says nothing of the timeline that follows.
//!
//! A claim can be wrong by a little: a commit takes its time before its record is inserted, and the record
//! may be flushed later still (with `synchronous_commit = off` most of a second). So every commit that comes is
//! held against what was claimed. A claim that it contradicts is lowered while it is not proven yet; when it
//! was, that is a violation, and whoever sees it widens the margin that later claims subtract.

use std::collections::VecDeque;

use pg_format::{Lsn, PgTimestamp};

/// Commits that are remembered for a claim about a place before them: those that came while the server was
/// being asked.
const RECENT_COMMITS: usize = 4096;

/// "What was flushed by `at` lies before `lsn`."
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// The server's flush position, taken when its clock had shown `clock`.
    pub(crate) lsn: Lsn,
    /// The server's clock.
    pub(crate) clock: PgTimestamp,
    /// What is claimed of it: this moment, not later than `clock`.
    pub(crate) at: PgTimestamp,
}

impl Claim {
    /// How far, in microseconds, `at` should have been before `clock`, if a commit contradicts the claim.
    fn margin_for(&self, commit: CommitTime) -> Option<u64> {
        (commit.lsn >= self.lsn && commit.time <= self.at)
            .then(|| self.clock.0.abs_diff(commit.time.0).saturating_add(1))
    }

    /// Takes the moment back to before a commit that contradicts it; gives the margin that was needed.
    fn lower(&mut self, commit: CommitTime) -> Option<u64> {
        let needed = self.margin_for(commit)?;
        self.at = PgTimestamp(commit.time.0.saturating_sub(1));
        Some(needed)
    }
}

/// A commit record: where it begins, and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommitTime {
    /// Where the record begins.
    pub(crate) lsn: Lsn,
    /// The server's clock.
    pub(crate) time: PgTimestamp,
}

/// What a commit says of the claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing is wrong.
    Agrees,
    /// A claim that nobody was told of was too late.
    Lowered {
        /// In microseconds, the margin that would have been wide enough.
        needed: u64,
    },
    /// What was said was too late.
    Violated {
        /// What was said.
        said: Claim,
        /// In microseconds, the margin that would have been wide enough.
        needed: u64,
    },
}

/// Collects claims until the archive fulfils them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proof {
    /// The oldest claim that is not fulfilled; kept, so that a busy server cannot push it ahead for ever.
    oldest: Option<Claim>,
    newest: Option<Claim>,
    proven: Option<Claim>,
    /// Commits with an earlier time than all that came after them, in the order of the WAL: the first one
    /// beyond a place has the earliest time of all beyond it.
    recent: VecDeque<CommitTime>,
}

impl Proof {
    /// Nothing is claimed, but `said` was before: later commits are held against it.
    #[must_use]
    pub(crate) fn after(said: Option<Claim>) -> Self {
        Proof {
            proven: said,
            ..Proof::default()
        }
    }

    /// A claim was made; true if the archive fulfils it already.
    pub(crate) fn claim(&mut self, mut claim: Claim, durable: Lsn) -> Claimed {
        let beyond = self.recent.iter().find(|commit| commit.lsn >= claim.lsn);
        let lowered = beyond.and_then(|commit| claim.lower(*commit));
        match self.oldest {
            None => self.oldest = Some(claim),
            Some(_) => self.newest = Some(claim),
        }
        Claimed {
            advanced: self.durable(durable),
            lowered,
        }
    }

    /// The archive is durable up to `lsn`; true if that proves a later moment than before.
    pub(crate) fn durable(&mut self, lsn: Lsn) -> bool {
        let before = self.proven;
        while let Some(claim) = self.oldest.filter(|claim| claim.lsn <= lsn) {
            if self.proven.is_none_or(|proven| proven.at < claim.at) {
                self.proven = Some(claim);
            }
            self.oldest = self.newest.take();
        }
        self.proven != before
    }

    /// A commit came, beyond all that came before.
    pub(crate) fn commit(&mut self, commit: CommitTime) -> Verdict {
        while self
            .recent
            .back()
            .is_some_and(|last| last.time >= commit.time)
        {
            let _ = self.recent.pop_back();
        }
        if self.recent.len() == RECENT_COMMITS {
            let _ = self.recent.pop_front();
        }
        self.recent.push_back(commit);
        let pending = self.oldest.iter_mut().chain(&mut self.newest);
        let lowered = pending.filter_map(|claim| claim.lower(commit)).max();
        if let Some(said) = self.proven
            && let Some(needed) = said.margin_for(commit)
        {
            return Verdict::Violated { said, needed };
        }
        lowered.map_or(Verdict::Agrees, |needed| Verdict::Lowered { needed })
    }

    /// The newest moment at which the archive is known to be complete.
    #[must_use]
    pub(crate) fn proven(&self) -> Option<PgTimestamp> {
        self.proven.map(|claim| claim.at)
    }
}

/// What came of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claimed {
    /// The archive fulfils it already, and that proves a later moment.
    pub(crate) advanced: bool,
    /// Commits that had come already contradicted it; in microseconds, the margin that was needed.
    pub(crate) lowered: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn claim(lsn: u64, second: i64) -> Claim {
        Claim {
            lsn: Lsn(lsn),
            clock: at(second),
            at: at(second),
        }
    }

    const fn at(second: i64) -> PgTimestamp {
        PgTimestamp(second * 1_000_000)
    }

    #[test]
    fn a_claim_holds_once_the_archive_is_that_far() {
        let mut proof = Proof::default();
        assert!(!proof.claim(claim(200, 1), Lsn(100)).advanced);
        assert_eq!(proof.proven(), None);
        assert!(!proof.durable(Lsn(199)));
        assert!(proof.durable(Lsn(200)));
        assert_eq!(proof.proven(), Some(at(1)));
        assert!(
            proof.claim(claim(200, 9), Lsn(200)).advanced,
            "an idle server, later"
        );
        assert_eq!(proof.proven(), Some(at(9)));
    }

    #[test]
    fn a_busy_server_does_not_push_the_proof_ahead_of_itself() {
        let mut proof = Proof::default();
        for second in 1..100 {
            let _ = proof.claim(claim(second * 10, i64::try_from(second).unwrap()), Lsn(0));
        }
        assert!(proof.durable(Lsn(10)));
        assert_eq!(proof.proven(), Some(at(1)));
        assert!(proof.durable(Lsn(990)));
        assert_eq!(proof.proven(), Some(at(99)));
    }

    const fn commit(lsn: u64, second: i64) -> CommitTime {
        CommitTime {
            lsn: Lsn(lsn),
            time: at(second),
        }
    }

    #[test]
    fn a_commit_that_comes_late_violates_what_was_said() {
        let mut proof = Proof::default();
        assert!(proof.claim(claim(200, 10), Lsn(200)).advanced);
        assert_eq!(proof.commit(commit(200, 11)), Verdict::Agrees);
        let said = claim(200, 10);
        assert_eq!(
            proof.commit(commit(300, 7)),
            Verdict::Violated {
                said,
                needed: 3_000_001
            },
            "took its time at 7, was inserted after 10"
        );
    }

    #[test]
    fn what_is_streamed_again_violates_nothing() {
        let mut proof = Proof::after(Some(claim(200, 10)));
        assert_eq!(proof.commit(commit(150, 7)), Verdict::Agrees);
        assert_eq!(proof.commit(commit(192, 9)), Verdict::Agrees);
        assert!(matches!(
            proof.commit(commit(200, 9)),
            Verdict::Violated { .. }
        ));
    }

    #[test]
    fn a_claim_is_lowered_before_it_is_said() {
        let mut proof = Proof::default();
        let _ = proof.claim(claim(200, 10), Lsn(100));
        assert_eq!(
            proof.commit(commit(199, 2)),
            Verdict::Agrees,
            "is before it"
        );
        assert_eq!(
            proof.commit(commit(210, 8)),
            Verdict::Lowered { needed: 2_000_001 }
        );
        assert!(proof.durable(Lsn(200)));
        assert_eq!(proof.proven(), Some(PgTimestamp(7_999_999)));
        assert_eq!(proof.commit(commit(220, 8)), Verdict::Agrees);
    }

    #[test]
    fn a_claim_about_what_has_passed_is_held_against_all_that_came_since() {
        let mut proof = Proof::default();
        for (lsn, second) in [(100, 5), (110, 3), (120, 9), (130, 8), (140, 12)] {
            assert_eq!(proof.commit(commit(lsn, second)), Verdict::Agrees);
        }
        let claimed = proof.claim(claim(115, 10), Lsn(200));
        assert_eq!(claimed.lowered, Some(2_000_001), "not by the one at 110");
        assert_eq!(proof.proven(), Some(PgTimestamp(7_999_999)));
    }

    #[test]
    fn few_commits_are_remembered() {
        let mut proof = Proof::default();
        for number in 0..20_000 {
            let _ = proof.commit(commit(number, i64::try_from(number).unwrap()));
        }
        assert_eq!(proof.recent.len(), RECENT_COMMITS);
        let claimed = proof.claim(claim(19_990, 19_995), Lsn(0));
        assert_eq!(claimed.lowered, Some(5_000_001));
    }
}
