//! Waiting for a fact instead of sleeping.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a server may take to start on a busy machine.
pub const START_TIMEOUT: Duration = Duration::from_secs(60);

/// First pause between two looks; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Polls until `fact` is true.
///
/// # Errors
/// When the time is over; the error names `what` was awaited.
pub async fn wait_until(
    what: &str,
    timeout: Duration,
    mut fact: impl AsyncFnMut() -> bool,
) -> Result<()> {
    let begin = Instant::now();
    let mut pause = FIRST_PAUSE;
    while !fact().await {
        if begin.elapsed() >= timeout {
            bail!("waited {timeout:?} in vain for {what}");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn returns_when_the_fact_holds_and_names_it_when_it_never_does() {
        let mut looks = 0;
        wait_until("three looks", START_TIMEOUT, async || {
            looks += 1;
            looks == 3
        })
        .await
        .unwrap();
        let never = wait_until("the sea to dry", Duration::from_millis(5), async || false).await;
        assert!(never.unwrap_err().to_string().contains("the sea to dry"));
    }
}
