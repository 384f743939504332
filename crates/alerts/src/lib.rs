//! What needs somebody's attention: facts about one branch, and rules that raise and resolve alerts. Pure: the
//! time is an argument.
//!
//! [`BranchState`] is everything that is kept of a branch. It takes [`Fact`]s as they are heard, is looked at when time
//! goes by, and holds what is to be announced until somebody says that it was. What must stay true:
//!
//! - Of one rule, raised and resolved alternate, whatever is heard, in whatever order, and however often.
//! - A fact that is heard again changes nothing; neither does one that is older than what it would replace.
//! - What is dated into the future was said by a clock that was ahead, and hides nothing that is heard after it.
//! - Nothing that was raised is said again while it stands, unless it has become worse, or another backup was found
//!   damaged: then it is resolved and raised anew; or it was last said so long ago that people are reminded.
//! - No message holds an address, a user or a secret ([`scrub`]): it goes to places that Zektor does not know.
//! - The state is bounded, however long the branch lives.

mod fact;
mod facts;
mod kept;
mod promises;
mod recent;
mod rules;
mod scrub;
mod settings;
mod state;
mod sweeps;

pub use fact::{Completed, Fact, FailedDrill, Gap, Promised};
pub use facts::Facts;
pub use scrub::scrub;
pub use settings::Settings;
pub use state::{Announcement, BranchState, Change, Standing};
