//! Commits over time, as a row of bars.
//!
//! A bar is the commits of a whole number of the answer's buckets, its height in proportion to the highest; where
//! there was none there is a dot, and where there was one there is a bar, however small.

use std::time::Duration;

use events::Timestamp;
use events::moments::Bucket;

use crate::output::{exact, span};

/// Fits beside its name in a terminal of 80 columns.
const WIDEST: u64 = 60;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The bars with what they mean; nothing if there was no commit.
pub(super) fn text(buckets: &[Bucket], bucket_seconds: u64) -> Option<String> {
    let (first, last) = (buckets.first()?.at, buckets.last()?.at);
    let width = bucket_seconds.max(1);
    let place = |at: Timestamp| u64::try_from((at - first).num_seconds()).unwrap_or(0) / width;
    let per_bar = (place(last) + 1).div_ceil(WIDEST);
    let bars = usize::try_from(place(last) / per_bar + 1).ok()?;
    let mut commits = vec![0_u64; bars];
    for bucket in buckets {
        let bar = usize::try_from(place(bucket.at) / per_bar).ok()?;
        let bar = commits.get_mut(bar)?;
        *bar = bar.saturating_add(bucket.commits);
    }
    let highest = commits.iter().copied().max().filter(|most| *most > 0)?;
    let all: u64 = buckets.iter().map(|bucket| bucket.commits).sum();
    let drawn: String = commits
        .iter()
        .map(|commits| bar(*commits, highest))
        .collect();
    let seconds = Duration::from_secs(width.saturating_mul(per_bar));
    Some(format!(
        "commits  {drawn}\n         {all} from {} on; a bar is {}, the highest {highest}\n",
        exact(first),
        span(seconds),
    ))
}

fn bar(commits: u64, highest: u64) -> char {
    match commits {
        0 => '·',
        _ => {
            let eighths = u128::from(commits) * 8;
            let height = eighths.div_ceil(u128::from(highest)).clamp(1, 8);
            BARS[usize::try_from(height - 1).unwrap_or(7)]
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use events::Timestamp;
    use events::moments::Bucket;

    use super::text;

    fn buckets(width: i64, commits: &[(i64, u64)]) -> Vec<Bucket> {
        let begin: Timestamp = "2026-03-01T14:00:00Z".parse().unwrap();
        let bucket = |&(place, commits)| Bucket {
            at: begin + TimeDelta::seconds(width * place),
            commits,
        };
        commits.iter().map(bucket).collect()
    }

    #[test]
    fn a_bar_is_in_proportion_and_silence_is_a_dot() {
        let found = buckets(60, &[(0, 1), (1, 50), (3, 100), (4, 1000)]);
        insta::assert_snapshot!(text(&found, 60).unwrap(), @r"
        commits  ▁▁·▁█
                 1151 from 2026-03-01T14:00:00.000000Z on; a bar is 1 min 0 s, the highest 1000
        ");
    }

    #[test]
    fn a_long_time_is_drawn_in_wider_bars_without_losing_a_commit() {
        let every: Vec<(i64, u64)> = (0..600).map(|place| (place, 2)).collect();
        let drawn = text(&buckets(10, &every), 10).unwrap();
        assert_eq!(drawn.matches('█').count(), 60, "{drawn}");
        assert!(drawn.contains("1200 from"), "{drawn}");
        assert!(
            drawn.contains("a bar is 1 min 40 s, the highest 20"),
            "{drawn}"
        );
    }

    #[test]
    fn without_commits_nothing_is_drawn() {
        assert_eq!(text(&[], 60), None);
        assert_eq!(text(&buckets(60, &[(0, 0)]), 60), None);
        // An answer that makes no sense is no panic.
        let backwards = buckets(60, &[(9, 1), (0, 1)]);
        let _ = text(&backwards, 0);
    }
}
