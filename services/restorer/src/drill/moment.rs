//! The moment that a drill restores: any of the window, each as likely as every other. Pure.

use std::time::Duration;

use chrono::TimeDelta;
use events::Timestamp;
use events::window::Window;
use rand::Rng;

/// No moment can be drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// Nothing of the branch can be restored.
    Nothing,
    /// What can be restored is not old enough to be asked for yet.
    TooYoung,
}

/// Draws a moment that the window promises and that is `min_age` old.
///
/// # Errors
/// There is none.
pub fn draw(
    window: &Window,
    now: Timestamp,
    min_age: Duration,
    rng: &mut (impl Rng + ?Sized),
) -> Result<Timestamp, Unavailable> {
    let pieces = pieces(window);
    if pieces.is_empty() {
        return Err(Unavailable::Nothing);
    }
    let youngest = now - TimeDelta::from_std(min_age).unwrap_or(TimeDelta::MAX);
    let pieces: Vec<(i64, i64)> = pieces
        .into_iter()
        .filter(|(from, _)| *from <= youngest)
        .map(|(from, to)| (from.timestamp_micros(), to.min(youngest).timestamp_micros()))
        .collect();
    // Both ends of a piece can be restored.
    let total: i64 = pieces.iter().map(|(from, to)| to - from + 1).sum();
    if total <= 0 {
        return Err(Unavailable::TooYoung);
    }
    let mut at = rng.random_range(0..total);
    for (from, to) in pieces {
        let length = to - from + 1;
        if at < length {
            return chrono::DateTime::from_timestamp_micros(from + at).ok_or(Unavailable::Nothing);
        }
        at -= length;
    }
    Err(Unavailable::Nothing)
}

/// The stretches of time that can be restored, in whole microseconds, as the source's clock has them.
fn pieces(window: &Window) -> Vec<(Timestamp, Timestamp)> {
    let (Some(earliest), Some(latest)) = (window.earliest, window.latest) else {
        return Vec::new();
    };
    let mut pieces = Vec::new();
    let mut from = Some(earliest);
    for gap in &window.gaps {
        if let Some(begin) = from {
            // Where the last commit before the gap is not known, only the beginning is sure.
            pieces.push((begin, gap.from.unwrap_or(begin).max(begin)));
        }
        from = gap.restorable_again_at;
    }
    if let Some(begin) = from {
        pieces.push((begin, latest));
    }
    let whole = |at: Timestamp| {
        let part = at.timestamp_subsec_nanos() % 1_000;
        (at, TimeDelta::nanoseconds(i64::from(part)))
    };
    let up = |at: Timestamp| match whole(at) {
        (at, part) if part.is_zero() => at,
        (at, part) => at - part + TimeDelta::microseconds(1),
    };
    let down = |at: Timestamp| {
        let (at, part) = whole(at);
        at - part
    };
    let whole = pieces.into_iter().map(|(from, to)| (up(from), down(to)));
    whole.filter(|(from, to)| from <= to).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use events::example::at;
    use events::window::{Window, WindowGap};
    use pg_format::{Lsn, TimelineId};
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::{Unavailable, draw};

    fn gap(from: i64, again: Option<i64>) -> WindowGap {
        WindowGap {
            timeline: TimelineId(1),
            from_lsn: Lsn(1),
            to_lsn: None,
            from: Some(at(from)),
            restorable_again_at: again.map(at),
        }
    }

    fn window(earliest: i64, latest: i64, gaps: Vec<WindowGap>) -> Window {
        Window {
            earliest: Some(at(earliest)),
            latest: Some(at(latest)),
            complete: gaps.is_empty(),
            gaps,
            ..Window::default()
        }
    }

    #[test]
    fn what_is_empty_or_too_young_has_no_moment() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut check = |window: &Window, now, age, expected| {
            assert_eq!(
                draw(window, at(now), Duration::from_secs(age), &mut rng),
                expected
            );
        };
        check(&Window::default(), 10, 0, Err(Unavailable::Nothing));
        check(
            &window(100, 200, vec![]),
            150,
            60,
            Err(Unavailable::TooYoung),
        );
        check(&window(100, 200, vec![]), 160, 60, Ok(at(100)));
        check(&window(100, 100, vec![]), 500, 60, Ok(at(100)));
    }

    #[test]
    fn every_part_of_the_window_has_its_share() {
        let mut rng = StdRng::seed_from_u64(2);
        let window = window(0, 1000, vec![gap(200, Some(600))]);
        let moments: Vec<_> = (0..6_000)
            .map(|_| draw(&window, at(5_000), Duration::ZERO, &mut rng).unwrap())
            .collect();
        assert!(!moments.iter().any(|m| *m > at(200) && *m < at(600)));
        let early = moments.iter().filter(|m| **m <= at(200)).count();
        assert!((1_800..2_200).contains(&early), "{early} of 6000");
    }

    proptest! {
        #[test]
        fn no_moment_is_in_a_gap_or_too_young(
            seed: u64, first in 1_i64..50, length in 1_i64..50, ends: bool, now in 0_i64..200,
        ) {
            let again = (!ends).then_some(first + length);
            let latest = if ends { first } else { 120 };
            let window = window(0, latest, vec![gap(first, again)]);
            let mut rng = StdRng::seed_from_u64(seed);
            match draw(&window, at(now), Duration::from_secs(10), &mut rng) {
                Ok(moment) => {
                    prop_assert!(moment >= at(0) && moment <= at(latest) && moment <= at(now - 10));
                    prop_assert!(moment <= at(first) || moment >= at(first + length));
                }
                Err(unavailable) => {
                    prop_assert_eq!(unavailable, Unavailable::TooYoung);
                    prop_assert!(now < 10);
                }
            }
        }
    }
}
