//! Moments as people write them. One without an offset is refused: it has two readings, and a restore to the
//! wrong one is a restore to the wrong data.

use chrono::{DateTime, Local, MappedLocalTime, NaiveDateTime, Offset, SecondsFormat, TimeZone};
use events::Timestamp;

use crate::failure::Failure;

/// A moment with an offset, in RFC 3339.
pub(crate) fn parse(text: &str) -> Result<Timestamp, Failure> {
    parse_in(text, &Local)
}

/// Refuses a stretch of time whose end is before its beginning: of nothing nothing is found.
pub(crate) fn in_order(from: Option<Timestamp>, to: Option<Timestamp>) -> Result<(), Failure> {
    match (from, to) {
        (Some(from), Some(to)) if to <= from => Err(Failure::usage(
            "--to is not after --from",
            "give the earlier moment with --from and the later one with --to",
        )),
        _ => Ok(()),
    }
}

fn parse_in<Z: TimeZone>(text: &str, local: &Z) -> Result<Timestamp, Failure> {
    let text = text.trim();
    if let Ok(moment) = DateTime::parse_from_rfc3339(text) {
        return Ok(moment.to_utc());
    }
    let Some(naive) = without_offset(text) else {
        return Err(Failure::usage(
            format!("{text:?} is not a moment"),
            "write it in RFC 3339, like 2026-03-01T14:30:00Z or 2026-03-01T14:30:00+01:00",
        ));
    };
    let utc = naive.and_utc().to_rfc3339_opts(SecondsFormat::AutoSi, true);
    // In the hour that a clock is set back there are two, in the one it is set forward there is none.
    let written = |here: DateTime<Z>| {
        let offset = here.offset().fix();
        let fixed = here.with_timezone(&offset);
        fixed.to_rfc3339_opts(SecondsFormat::AutoSi, false)
    };
    let here = match local.from_local_datetime(&naive) {
        MappedLocalTime::Single(here) => {
            format!("{} in this machine's time zone", written(here))
        }
        MappedLocalTime::Ambiguous(first, second) => format!(
            "{} or {} in this machine's time zone, which has that hour twice",
            written(first),
            written(second)
        ),
        MappedLocalTime::None => "no moment at all in this machine's time zone".to_owned(),
    };
    Err(Failure::usage(
        format!("{text:?} has no offset; it could be {here}, or {utc} in UTC"),
        "give the one that is meant",
    ))
}

fn without_offset(text: &str) -> Option<NaiveDateTime> {
    let forms = [
        "%Y-%m-%dT%H:%M:%S%.f",
        "%Y-%m-%d %H:%M:%S%.f",
        "%Y-%m-%dT%H:%M",
        "%Y-%m-%d %H:%M",
    ];
    forms
        .iter()
        .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())
}

#[cfg(test)]
mod tests {
    use chrono::FixedOffset;

    use super::parse_in;
    use crate::failure::Ending;

    #[test]
    fn with_an_offset_it_is_utc() {
        let berlin = FixedOffset::east_opt(3600).unwrap();
        for text in [
            "2026-03-01T14:30:00+01:00",
            "2026-03-01T13:30:00Z",
            "2026-03-01 13:30:00.000Z",
            " 2026-03-01T13:30:00z ",
        ] {
            let moment = parse_in(text, &berlin).unwrap();
            assert_eq!(moment.to_rfc3339(), "2026-03-01T13:30:00+00:00", "{text}");
        }
    }

    #[test]
    fn the_hours_in_which_a_clock_is_changed_are_told() {
        let berlin = chrono_tz::Europe::Berlin;
        let check = |text: &str, readings: &[&str]| {
            let failure = parse_in(text, &berlin).unwrap_err();
            for reading in readings {
                assert!(failure.message.contains(reading), "{failure}");
            }
        };
        let twice = [
            "2026-10-25T02:30:00+02:00",
            "2026-10-25T02:30:00+01:00",
            "2026-10-25T02:30:00Z",
        ];
        check("2026-10-25T02:30:00", &twice);
        let never = ["no moment at all", "2026-03-29T02:30:00Z"];
        check("2026-03-29T02:30:00", &never);
        let summer = ["2026-07-01T02:30:00+02:00", "2026-07-01T02:30:00Z"];
        check("2026-07-01T02:30:00", &summer);
    }

    #[test]
    fn without_an_offset_both_readings_are_shown() {
        let berlin = FixedOffset::east_opt(3600).unwrap();
        for text in [
            "2026-03-01T14:30:00",
            "2026-03-01 14:30:00",
            "2026-03-01 14:30",
        ] {
            let failure = parse_in(text, &berlin).unwrap_err();
            assert_eq!(failure.ending, Ending::Usage);
            assert!(
                failure.message.contains("2026-03-01T14:30:00+01:00"),
                "{failure}"
            );
            assert!(
                failure.message.contains("2026-03-01T14:30:00Z"),
                "{failure}"
            );
        }
        for text in [
            "",
            "yesterday",
            "14:30",
            "2026-13-01T00:00:00",
            "2026-03-01",
        ] {
            let failure = parse_in(text, &berlin).unwrap_err();
            assert!(failure.message.contains("is not a moment"), "{failure}");
        }
    }
}
