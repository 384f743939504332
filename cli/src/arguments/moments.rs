//! `zektor moments`.

use clap::Args;
use events::moments::MomentsQuestion;
use events::{BranchName, InstanceName};

use crate::failure::Failure;
use crate::moment;

#[derive(Debug, Args)]
pub(crate) struct MomentsArguments {
    pub(crate) instance: InstanceName,
    #[arg(long, default_value = "main")]
    pub(crate) branch: BranchName,
    /// Nothing before this, with its offset: 2026-03-01T14:00:00Z [default: the beginning of the archive]
    #[arg(long, value_name = "RFC3339")]
    pub(crate) from: Option<String>,
    /// Nothing after this [default: its end]
    #[arg(long, value_name = "RFC3339")]
    pub(crate) to: Option<String>,
    /// Only what took a table, all its rows or a database away: drops (not of an index alone) and truncates
    #[arg(long, value_enum)]
    pub(crate) only: Option<Only>,
    /// At most so many, the latest ones
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Only {
    Drops,
}

impl MomentsArguments {
    /// The question that was meant.
    pub(crate) fn question(self) -> Result<MomentsQuestion, Failure> {
        let parse = |text: Option<String>| text.as_deref().map(moment::parse).transpose();
        let (from, to) = (parse(self.from)?, parse(self.to)?);
        if from.zip(to).is_some_and(|(from, to)| from > to) {
            return Err(Failure::usage(
                "--from is later than --to, so there is nothing in between",
                "give the earlier moment with --from",
            ));
        }
        Ok(MomentsQuestion {
            instance: self.instance,
            branch: self.branch,
            from,
            to,
            only_drops: self.only == Some(Only::Drops),
            limit: self.limit,
        })
    }
}
