use clap::{CommandFactory, Parser};
use events::RestoreTarget;

use super::{Arguments, BackupCommand, Command, wants_json};
use crate::output::OutputFormat;

fn parse(line: &str) -> Result<Arguments, clap::Error> {
    Arguments::try_parse_from(std::iter::once("zektor").chain(line.split_whitespace()))
}

#[test]
fn the_definition_is_consistent() {
    Arguments::command().debug_assert();
}

#[test]
fn every_command_of_the_contract_is_parsed() {
    for line in [
        "up --home /h --repository file:///r --foreground",
        "down --home /h",
        "status",
        "doctor",
        "instance add orders --dsn postgres://u@h/ --no-default-schedule",
        "instance list",
        "instance show orders",
        "instance remove orders",
        "instance update orders --pool eu",
        "schedule create orders --every daily --retention 7d",
        "schedule create orders --every weekly --on mon --at 02:30 --timezone Europe/Berlin --retention 4w --name w \
         --branch main --pitr 14d",
        "schedule create orders --cron @daily --retention 1y --standalone",
        "restore orders --backup 0190a5d0 --as b",
        "schedule list orders",
        "schedule update orders daily --every hourly --at :05 --retention 2d --name hourly --pitr 1d",
        "schedule update orders daily --timezone Asia/Tokyo",
        "schedule update orders daily --at 03:00",
        "schedule preview --every daily --from 2026-03-28",
        "backup list orders --status damaged",
        "schedule pause orders daily",
        "schedule resume orders 0190a5d0",
        "schedule delete orders x",
        "schedule preview --cron @daily",
        "schedule preview orders --every monthly --on last --at 04:00 --timezone UTC --retention 7d --name n --branch b",
        "backup create orders --branch main --name n --type full --retention 30d --wait",
        "backup list orders --branch main --status completed",
        "backup create orders --pitr 14d --retention 30d",
        "backup create orders --standalone",
        "backup list orders --schedule daily --trigger manual --from 2026-03-01T00:00:00Z --to 2026-03-02T00:00:00Z \
         --name release --all --limit 10 --offset 20",
        "backup show orders 0190a5d0-0000-7000-8000-000000000000",
        "backup show orders 0190a5d0",
        "backup verify orders x --wait",
        "backup rename orders x release",
        "backup keep orders x --retention 30d",
        "backup keep orders x --forever",
        "backup hold orders x --reason audit",
        "backup release orders x",
        "backup delete orders x",
        "backup undelete orders x --retention 7d",
        "backup retry orders x --wait",
        "restore orders --latest --as b --from main --size small --dry-run --wait",
        "restore orders --time 2026-03-01T00:00:00Z --as b",
        "restore orders --lsn 0/3000000 --as b",
        "restore orders --restore-point p --as b",
        "restore orders --latest --dry-run",
        "branch list orders",
        "branch show orders b",
        "branch credentials orders b",
        "branch stop orders b",
        "branch start orders b",
        "branch delete orders b",
        "extensions check orders b",
        "window orders --branch main",
        "moments orders",
        "moments orders --branch main --from 2026-03-01T00:00:00Z --to 2026-03-02T00:00:00Z --only drops --limit 5",
        "extensions reinstall orders b",
        "branch delete orders b --purge --yes",
        "restore orders --xid 8123 --as b --keep-passwords",
        "restore orders --backup 0197 --as b --even-damaged",
        "instance add orders --dsn postgres://u@h/ --archive-mode command --on-disk-risk release",
        "wal status orders --branch main",
        "events --follow --type backup.completed --instance orders",
        "retention explain orders",
        "retention explain orders --branch fix --at 2026-03-01T00:00:00Z",
        "catalog rebuild --from stream",
        "catalog rebuild --from repository --output json --nats nats://127.0.0.1:4222",
    ] {
        let parsed = parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(parsed.command.later(), None, "{line}");
    }
}

#[test]
fn later_commands_are_parsed_and_hidden() {
    let line = "recover --repository file:///r --instance i --latest --into d";
    assert_eq!(parse(line).unwrap().command.later(), Some("recover"));
    let help = Arguments::command().render_long_help().to_string();
    assert!(!help.contains("  recover"), "{help}");
}

#[test]
fn what_makes_no_sense_is_a_usage_error() {
    for line in [
        "restore orders --as b",
        "restore orders --latest --time 2026-03-01T00:00:00Z --as b",
        "restore orders --latest",
        "restore orders --latest --as .b",
        "restore orders --xid 2 --as b",
        "restore orders --xid 8123 --latest --as b",
        "moments orders --only rows",
        "moments orders --limit 0",
        "instance add orders --dsn postgres://u@h/ --archive-mode push",
        "restore orders --latest --as b --size huge",
        "instance add or.ders --dsn postgres://u@h/",
        "backup create orders --retention 7",
        "backup create orders --pitr 7d --standalone",
        "backup keep orders x",
        "backup keep orders x --forever --retention 7d",
        "restore orders --latest --as b --even-damaged",
        "backup list orders --limit 0",
        "schedule create orders --every daily",
        "schedule create orders --every nightly --retention 7d",
        "schedule create orders --every daily --cron @daily --retention 7d",
        "schedule preview --count 0",
        "instance update orders",
        "backup list orders --status done",
        "catalog rebuild --from tape",
        "up --backup-workers 0",
        "status --output xml",
    ] {
        assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
    }
}

#[test]
fn options_stand_anywhere() {
    let parsed = parse("backup --wait create orders --output json").unwrap();
    assert!(parsed.global.wait);
    assert_eq!(parsed.global.output, OutputFormat::Json);
    assert!(matches!(
        parsed.command,
        Command::Backup(BackupCommand::Create(_))
    ));
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    assert!(wants_json(&words("zektor nonsense --output json")));
    assert!(wants_json(&words("zektor --output=json")));
    assert!(!wants_json(&words("zektor json --output table")));
}

#[test]
fn targets() {
    let target = |line: &str| match parse(line).unwrap().command {
        Command::Restore(restore) => restore.target.target(),
        _ => unreachable!(),
    };
    assert_eq!(
        target("restore o --latest --as b"),
        Ok(RestoreTarget::Latest)
    );
    let at = "2026-03-01T13:30:00Z".parse().unwrap();
    let expected = Ok(RestoreTarget::Time { at });
    assert_eq!(
        target("restore o --time 2026-03-01T14:30:00+01:00 --as b"),
        expected
    );
    let lsn = "16/B374D848".parse().unwrap();
    assert_eq!(
        target("restore o --lsn 16/B374D848 --as b"),
        Ok(RestoreTarget::Lsn { lsn })
    );
    // What `zektor moments` gives may stand behind either.
    let expected = Ok(RestoreTarget::Lsn { lsn });
    assert_eq!(target("restore o --time 16/B374D848 --as b"), expected);
    let expected = Ok(RestoreTarget::Time { at });
    assert_eq!(
        target("restore o --lsn 2026-03-01T13:30:00.000000Z --as b"),
        expected
    );
    for line in [
        "restore o --time 2026-03-01T14:30:00 --as b",
        "restore o --lsn 2026-03-01T14:30:00 --as b",
        "restore o --lsn 0:3 --as b",
        "restore o --lsn main --as b",
        "restore o --xid 4294967296 --as b",
    ] {
        assert!(target(line).is_err(), "{line}");
    }
    // As pg_current_xact_id() says it, in the second epoch.
    let expected = Ok(RestoreTarget::Transaction { xid: 8123 });
    assert_eq!(target("restore o --xid 4294975419 --as b"), expected);
}

#[test]
fn moments_are_asked_between_two_moments() {
    let question = |line: &str| match parse(line).unwrap().command {
        Command::Moments(which) => which.question(),
        _ => unreachable!(),
    };
    let asked =
        question("moments o --from 2026-03-01T14:30:00+01:00 --only drops --limit 3").unwrap();
    assert_eq!(asked.from, "2026-03-01T13:30:00Z".parse().ok());
    assert_eq!(
        (asked.to, asked.only_drops, asked.limit),
        (None, true, Some(3))
    );
    for line in [
        "moments o --from 2026-03-01T14:30:00",
        "moments o --to 2026-03-01T14:30:00",
        "moments o --from 2026-03-02T00:00:00Z --to 2026-03-01T00:00:00Z",
    ] {
        let failure = question(line).unwrap_err();
        assert_eq!(failure.ending, crate::failure::Ending::Usage, "{line}");
    }
}
