//! Why the mark of a backup is not changed.

use super::*;

/// Refuses to keep what is to go, if it is to go by this wish.
pub(super) fn refuse_to_go(of: Of<'_>, mark: &BackupMark, by: DeletedBy) -> Result<(), Refusal> {
    if mark.deletion.is_none_or(|deletion| deletion.by != by) {
        return Ok(());
    }
    Err(invalid(
        format!("backup {} is marked for deletion", of.id),
        format!(
            "Keep it after all, and then say so again: `zektor backup undelete {} {}`.",
            of.instance, of.id
        ),
    ))
}

pub(super) fn held(of: Of<'_>) -> Refusal {
    invalid(
        format!("backup {} is held", of.id),
        format!(
            "Release it first: `zektor backup release {} {}`.",
            of.instance, of.id
        ),
    )
}

pub(super) fn busy(of: Of<'_>) -> Unfinished {
    Unfinished::NotYet(format!(
        "backup {} is changed by others all the time",
        of.id
    ))
}

pub(super) fn invalid(message: impl Into<String>, hint: impl Into<String>) -> Refusal {
    Refusal::new(RefusalCode::Invalid, message, hint)
}
