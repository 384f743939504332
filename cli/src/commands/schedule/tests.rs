use events::WalKeep;
use events::example;
use events::schedules::{ScheduleAnswer, SchedulesAnswer};

use super::{every_moment, reply_of, text};
use crate::output::Room;

fn daily() -> ScheduleAnswer {
    ScheduleAnswer {
        id: "0190a5d0-0000-7000-8000-000000000001".parse().unwrap(),
        name: "daily".to_owned(),
        cron: "50 5 * * *".to_owned(),
        timezone: "UTC".to_owned(),
        retention: "7d".parse().unwrap(),
        branch: "main".parse().unwrap(),
        next_at: "2026-03-02T05:50:00Z".parse().ok(),
        last_at: "2026-03-01T05:50:00Z".parse().ok(),
        paused: false,
        wal: WalKeep::AsLongAsBackup,
    }
}

#[test]
fn the_list_fits_a_terminal() {
    let monthly = ScheduleAnswer {
        name: "monthly, for the auditors".to_owned(),
        cron: "0 4 31L * *".to_owned(),
        timezone: "Europe/Berlin".to_owned(),
        retention: "10y".parse().unwrap(),
        wal: WalKeep::For("7d".parse().unwrap()),
        next_at: None,
        last_at: None,
        paused: true,
        ..daily()
    };
    let archive = ScheduleAnswer {
        name: "\u{1F980}".to_owned(),
        wal: WalKeep::Standalone,
        last_at: None,
        ..daily()
    };
    let text = text(&[daily(), monthly, archive], Room::Terminal);
    insta::assert_snapshot!(text, @r#"
    NAME              FIRES        TIMEZONE       BRANCH  KEPT  PITR  NEXT (UTC)        LAST (UTC)
    daily             50 5 * * *   UTC            main    7d    7d    2026-03-02 05:50  2026-03-01 05:50
    monthly, for th…  0 4 31L * *  Europe/Berlin  main    10y   7d    paused            -
    🦀                50 5 * * *   UTC            main    7d    no    2026-03-02 05:50  -
    "#);
    assert!(text.lines().all(|line| line.chars().count() <= 100));
}

#[test]
fn every_moment_or_not() {
    let week = WalKeep::For("7d".parse().unwrap());
    let said = [WalKeep::AsLongAsBackup, week, WalKeep::Standalone].map(every_moment);
    assert_eq!(
        said,
        [
            "as long as the backup",
            "for 7d",
            "no, only the backups themselves"
        ]
    );
}

#[test]
fn what_was_done_is_said_though_the_scheduler_does_not_answer_after_it() {
    let schedule = events::document::Schedule {
        wal: None,
        ..example::schedule()
    };
    let next = ["2026-03-02T05:50:00Z".parse().unwrap()];
    let wal_of = |known: Option<&SchedulesAnswer>| {
        let reply = reply_of(&schedule, &next, known, "Schedule daily is made.").unwrap();
        assert_eq!(reply.failure, None);
        assert!(reply.text.starts_with("Schedule daily is made."));
        let document: serde_json::Value = serde_json::from_str(&reply.document).unwrap();
        assert_eq!(document["id"], serde_json::json!(schedule.id));
        document["wal"].clone()
    };
    assert!(wal_of(None).is_null());
    let answer = SchedulesAnswer {
        schedules: vec![ScheduleAnswer {
            id: schedule.id,
            ..daily()
        }],
    };
    let known = serde_json::json!(WalKeep::AsLongAsBackup);
    assert_eq!(wal_of(Some(&answer)), known);
}
