//! How fast a worker reads and stores, over all its backups together.
//!
//! A limit of the server (`MAX_RATE`) protects one source; these protect the worker's network and the store. They
//! hold on average: what is stored goes up in packs.

use std::sync::Arc;

use leaky_bucket::RateLimiter;

use crate::config::WorkerConfig;

/// Refills a second: short pauses rather than long ones.
const REFILLS: u64 = 10;

/// The limits of this worker.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rates {
    read: Option<Arc<RateLimiter>>,
    stored: Option<Arc<RateLimiter>>,
}

impl Rates {
    pub(crate) fn of(config: &WorkerConfig) -> Self {
        Rates {
            read: limiter(config.worker_max_rate_kib),
            stored: limiter(config.store_max_rate_kib),
        }
    }

    /// Waits until `bytes` may be read.
    pub(crate) async fn read(&self, bytes: u64) {
        wait(self.read.as_deref(), bytes).await;
    }

    /// Waits until `bytes` may be stored.
    pub(crate) async fn store(&self, bytes: u64) {
        wait(self.stored.as_deref(), bytes).await;
    }
}

/// Counts bytes; at most a second's worth is saved up.
fn limiter(kib_per_second: u32) -> Option<Arc<RateLimiter>> {
    let bytes = u64::from(kib_per_second) * 1024;
    let count = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let limiter = RateLimiter::builder()
        .max(count(bytes))
        .initial(count(bytes / REFILLS))
        .refill(count((bytes / REFILLS).max(1)))
        .interval(std::time::Duration::from_millis(1000 / REFILLS))
        .build();
    (kib_per_second > 0).then(|| Arc::new(limiter))
}

async fn wait(limiter: Option<&RateLimiter>, bytes: u64) {
    let Some(limiter) = limiter else {
        return;
    };
    let mut left = usize::try_from(bytes).unwrap_or(usize::MAX);
    while left > 0 {
        let part = left.min(limiter.max());
        limiter.acquire(part).await;
        left -= part;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::Rates;
    use crate::config::WorkerConfig;

    async fn seconds(kib: u32, take: impl AsyncFnOnce(&Rates)) -> Duration {
        let rates = Rates::of(&WorkerConfig {
            worker_max_rate_kib: kib,
            ..WorkerConfig::default()
        });
        let begun = Instant::now();
        take(&rates).await;
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn all_backups_of_a_worker_share_its_rate() {
        let took = seconds(100, async |rates| {
            let one = async || {
                for _ in 0..50 {
                    rates.read(10 * 1024).await;
                }
            };
            tokio::join!(one(), one());
        });
        let took = took.await.as_secs_f64();
        assert!((9.0..=11.0).contains(&took), "1000 KiB took {took} s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_larger_than_a_second_is_let_through_in_its_time() {
        let took = seconds(10, async |rates| rates.read(100 * 1024).await).await;
        let took = took.as_secs_f64();
        assert!((9.0..=11.0).contains(&took), "100 KiB took {took} s");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nobody_waits() {
        let took = seconds(0, async |rates| {
            rates.read(u64::MAX).await;
            rates.store(u64::MAX).await;
        });
        assert_eq!(took.await, Duration::ZERO);
    }
}
