//! "Prove it now": somebody waits for the position to cover this very moment.
//!
//! A restore to a moment of seconds ago, or a backup that has just been copied, should not wait for the next
//! flush. Whoever asks names no moment: a proof counts for every ask that came before it was begun.

use std::time::Duration;

use tokio::sync::watch;

/// Asks, and the proofs that answered them. Numbered, so that an old proof never answers a new ask.
#[derive(Debug)]
pub(crate) struct Haste {
    asked: watch::Sender<u64>,
    proven: watch::Sender<u64>,
}

impl Default for Haste {
    fn default() -> Self {
        Haste {
            asked: watch::Sender::new(0),
            proven: watch::Sender::new(0),
        }
    }
}

impl Haste {
    /// Asks, and waits until a proof that was begun later is stored; false when that took too long.
    pub(crate) async fn prove(&self, within: Duration) -> bool {
        let mut proven = self.proven.subscribe();
        let mut number = 0;
        self.asked.send_modify(|asked| {
            *asked += 1;
            number = *asked;
        });
        let answered = proven.wait_for(|proven| *proven >= number);
        tokio::time::timeout(within, answered)
            .await
            .is_ok_and(|answered| answered.is_ok())
    }

    /// The asks, for the one who proves. The first look sees what was asked before.
    pub(crate) fn asks(&self) -> watch::Receiver<u64> {
        let mut asks = self.asked.subscribe();
        asks.mark_changed();
        asks
    }

    /// Whether an ask has no answer yet.
    pub(crate) fn is_open(&self, number: u64) -> bool {
        *self.proven.borrow() < number
    }

    /// Every ask up to this one is answered.
    pub(crate) fn answer(&self, number: u64) {
        self.proven
            .send_modify(|proven| *proven = number.max(*proven));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_old_proof_does_not_answer_a_new_ask() {
        let haste = Haste::default();
        let first = Duration::from_secs(1);
        assert!(!haste.prove(first).await);
        let asks = haste.asks();
        assert!(asks.has_changed().unwrap() && haste.is_open(1));
        haste.answer(1);
        assert!(!haste.is_open(1));
        assert!(!haste.prove(first).await, "the second ask");
        let (proven, ()) = tokio::join!(haste.prove(first), async { haste.answer(3) });
        assert!(proven);
    }
}
