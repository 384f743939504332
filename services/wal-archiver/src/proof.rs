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

use pg_format::{Lsn, PgTimestamp};

/// "What was flushed by `at` lies before `lsn`."
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// The server's flush position, taken after `at`.
    pub(crate) lsn: Lsn,
    /// The server's clock.
    pub(crate) at: PgTimestamp,
}

/// Collects claims until the archive fulfils them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proof {
    /// The oldest claim that is not fulfilled; kept, so that a busy server cannot push it ahead for ever.
    oldest: Option<Claim>,
    newest: Option<Claim>,
    proven: Option<PgTimestamp>,
}

impl Proof {
    /// A claim was made; true if the archive fulfils it already.
    pub(crate) fn claim(&mut self, claim: Claim, durable: Lsn) -> bool {
        match self.oldest {
            None => self.oldest = Some(claim),
            Some(_) => self.newest = Some(claim),
        }
        self.durable(durable)
    }

    /// The archive is durable up to `lsn`; true if that proves a later moment than before.
    pub(crate) fn durable(&mut self, lsn: Lsn) -> bool {
        let before = self.proven;
        while let Some(claim) = self.oldest.filter(|claim| claim.lsn <= lsn) {
            self.proven = self.proven.max(Some(claim.at));
            self.oldest = self.newest.take();
        }
        self.proven != before
    }

    /// The newest moment at which the archive is known to be complete.
    #[must_use]
    pub(crate) fn proven(&self) -> Option<PgTimestamp> {
        self.proven
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn claim(lsn: u64, second: i64) -> Claim {
        Claim {
            lsn: Lsn(lsn),
            at: at(second),
        }
    }

    const fn at(second: i64) -> PgTimestamp {
        PgTimestamp(second * 1_000_000)
    }

    #[test]
    fn a_claim_holds_once_the_archive_is_that_far() {
        let mut proof = Proof::default();
        assert!(!proof.claim(claim(200, 1), Lsn(100)));
        assert_eq!(proof.proven(), None);
        assert!(!proof.durable(Lsn(199)));
        assert!(proof.durable(Lsn(200)));
        assert_eq!(proof.proven(), Some(at(1)));
        assert!(
            proof.claim(claim(200, 9), Lsn(200)),
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
}
