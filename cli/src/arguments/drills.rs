//! `zektor drill`: restores that are rehearsed.

use std::str::FromStr;

use clap::{Args, Subcommand};
use events::document::DrillCheck;
use events::{BranchName, InstanceName};

use super::OfInstance;
use super::schedules::When;

#[derive(Debug, Subcommand)]
pub(crate) enum DrillCommand {
    /// Restore a random moment into a sandbox now, check it, and throw it away
    Run(DrillRun),
    /// List the drills of an instance, newest first
    List(OfInstance),
    /// Show what a drill has shown
    Show(OfDrill),
    /// Rehearse regularly, and say what must be true of the restored data; what is not given stays as it is
    Schedule(DrillSchedule),
}

#[derive(Debug, Args)]
pub(crate) struct DrillRun {
    pub(crate) instance: InstanceName,
    /// The branch whose past is restored
    #[arg(long, default_value = "main")]
    pub(crate) branch: BranchName,
}

#[derive(Debug, Args)]
pub(crate) struct OfDrill {
    pub(crate) instance: InstanceName,
    /// Its id, or the first characters of that (six or more)
    #[arg(value_name = "ID")]
    pub(crate) drill: String,
}

#[derive(Debug, Args)]
pub(crate) struct DrillSchedule {
    pub(crate) instance: InstanceName,
    #[command(flatten)]
    pub(crate) when: When,
    /// The branch whose past is restored [default: as before, at first main]
    #[arg(long)]
    pub(crate) branch: Option<BranchName>,
    /// A SELECT (or WITH, VALUES, TABLE) whose first column must be neither false nor NULL in every row, now and at
    /// every other moment; may be given several times, and those that are given replace all that were
    #[arg(long = "check", value_name = "NAME[@DATABASE]=SELECT")]
    pub(crate) checks: Vec<Check>,
    /// No drills any more but by hand, and no checks
    #[arg(long, conflicts_with_all = ["every", "cron", "checks"])]
    pub(crate) off: bool,
}

/// A [`DrillCheck`] as it is written on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check(pub(crate) DrillCheck);

impl FromStr for Check {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            "write it as NAME=SELECT ..., or NAME@DATABASE=SELECT ... for another database"
                .to_owned()
        };
        let (name, sql) = text.split_once('=').ok_or_else(wrong)?;
        let (name, database) = match name.rsplit_once('@') {
            Some((name, database)) => (name, Some(database.trim().to_owned())),
            None => (name, None),
        };
        let (name, sql) = (name.trim().to_owned(), sql.trim().to_owned());
        let nameless = database.as_ref().is_some_and(String::is_empty);
        if name.is_empty() || sql.is_empty() || nameless {
            return Err(wrong());
        }
        if !asks(&sql) {
            return Err(format!(
                "the check must be a statement that only asks: SELECT, WITH, VALUES or TABLE; write it as {name}=SELECT ..."
            ));
        }
        Ok(Check(DrillCheck {
            name,
            database,
            sql,
        }))
    }
}

/// Whether a statement begins as one that has rows to look at. That it changes nothing is up to its transaction.
fn asks(sql: &str) -> bool {
    let begin = sql.trim_start_matches(|c: char| c == '(' || c.is_whitespace());
    let first = begin.split(|c: char| !c.is_ascii_alphabetic()).next();
    let first = first.unwrap_or_default().to_ascii_uppercase();
    ["SELECT", "WITH", "VALUES", "TABLE"].contains(&first.as_str())
}

#[cfg(test)]
mod tests {
    use super::Check;

    #[test]
    fn a_check_is_a_name_and_a_statement() {
        let parsed = |text: &str| {
            let check = text.parse::<Check>().ok()?.0;
            Some((check.name, check.database, check.sql))
        };
        let expected = |name: &str, database: Option<&str>, sql: &str| {
            Some((name.to_owned(), database.map(str::to_owned), sql.to_owned()))
        };
        assert_eq!(
            parsed("orders are there=SELECT count(*) >= 1 FROM orders"),
            expected("orders are there", None, "SELECT count(*) >= 1 FROM orders")
        );
        assert_eq!(parsed("a@b=SELECT 1"), expected("a", Some("b"), "SELECT 1"));
        for sql in [
            "with x as (select 1) select * from x",
            "(SELECT 1)",
            "VALUES(true)",
            "table t",
        ] {
            assert_eq!(parsed(&format!("a={sql}")), expected("a", None, sql));
        }
        for wrong in [
            "SELECT 1",
            "=SELECT 1",
            "a=",
            "a@=SELECT 1",
            "",
            "a=y",
            "a=DELETE FROM orders",
            "a=SELECTED",
        ] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }
}
