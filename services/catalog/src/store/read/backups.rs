//! Lists of backups. Each is read along an index in its own order, so that a page costs a page, whatever there is.

use events::query::{BackupList, BackupStatus};
use events::{BackupId, BranchName, InstanceName, ScheduleId, Timestamp};

use super::{Filter, Page};
use crate::store::column::Column;
use crate::store::rows::{BackupRow, Row};
use crate::store::{Result, Store, cannot};

/// Which backups are wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct BackupFilter {
    pub(crate) instance: Option<InstanceName>,
    pub(crate) branch: Option<BranchName>,
    pub(crate) status: Option<BackupStatus>,
    pub(crate) schedule: Option<ScheduleId>,
    /// Asked for then or later.
    pub(crate) from: Option<Timestamp>,
    /// Asked for before then.
    pub(crate) to: Option<Timestamp>,
    pub(crate) name: Option<String>,
    /// Those too that are gone, or were skipped.
    pub(crate) all: bool,
}

impl From<BackupList> for BackupFilter {
    fn from(asked: BackupList) -> Self {
        BackupFilter {
            instance: asked.instance,
            branch: asked.branch,
            status: asked.status,
            schedule: asked.schedule_id,
            from: asked.from,
            to: asked.to,
            name: asked.name,
            all: asked.all,
        }
    }
}

/// Which of the two halves of the backups is looked at: an index has each in order, not both.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Half {
    Shown,
    Hidden,
    /// The index in use is not by this.
    Either,
}

impl BackupFilter {
    /// The halves in which there may be any.
    fn halves(&self) -> &'static [Half] {
        match (self.status, self.all, self.schedule) {
            (Some(_), ..) | (None, true, Some(_)) => &[Half::Either],
            (None, false, _) => &[Half::Shown],
            (None, true, None) => &[Half::Shown, Half::Hidden],
        }
    }

    fn conditions(&self, half: Half, before: usize) -> Filter {
        let words = self.name.as_ref().map(|name| pattern(name));
        let filter = Filter::after(before)
            .equal("instance", self.instance.as_ref())
            .equal("branch", self.branch.as_ref())
            .equal("schedule_id", self.schedule.as_ref())
            .equal("status", self.status.as_ref())
            .compared("listed_at", ">=", self.from.as_ref())
            .compared("listed_at", "<", self.to.as_ref())
            .like("folded_name", words.as_ref());
        // Said as it stands in the index of the few: a value would not be known to be one of these.
        let filter = match self.status {
            Some(status) if is_unusual(status) && self.instance.is_none() => {
                filter.and("status IN ('requested', 'in_progress', 'failed', 'skipped')")
            }
            _ => filter,
        };
        match half {
            Half::Shown => filter.and("hidden = 0"),
            Half::Hidden => filter.and("hidden = 1"),
            Half::Either => filter,
        }
    }
}

/// Few are in such a state.
fn is_unusual(status: BackupStatus) -> bool {
    !matches!(status, BackupStatus::Completed | BackupStatus::Expired)
}

/// What matches a name that contains this.
fn pattern(name: &str) -> String {
    let mut pattern = String::from("%");
    for c in name.to_lowercase().chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}

const NEWEST_FIRST: &str = "ORDER BY listed_at DESC, id DESC";

impl Store {
    /// Backups, newest first.
    pub(crate) async fn backups(
        &self,
        filter: &BackupFilter,
        page: Page,
    ) -> Result<Vec<BackupRow>> {
        let mut rows: Vec<BackupRow> = Vec::new();
        let halves = filter.halves();
        if let [half] = halves {
            let rest = format!("{NEWEST_FIRST}{}", page.sql());
            return self.select(filter.conditions(*half, 0), &rest).await;
        }
        // Where a page of both begins, nobody knows before both are merged.
        let keys = self.merged(filter, halves, page).await?;
        for id in keys {
            let of_branch = Filter::of_branch(&id.0, &id.1).equal("id", Some(&id.2));
            rows.extend(self.select::<BackupRow>(of_branch, "").await?);
        }
        Ok(rows)
    }

    /// The keys of a page over more than one half.
    async fn merged(
        &self,
        filter: &BackupFilter,
        halves: &[Half],
        page: Page,
    ) -> Result<Vec<(InstanceName, BranchName, BackupId)>> {
        let Page { limit, offset } = page;
        let to_its_end = u64::from(limit) + u64::from(offset);
        let mut values = Vec::new();
        let mut parts = Vec::new();
        for half in halves {
            let conditions = filter.conditions(*half, values.len());
            parts.push(format!(
                "SELECT * FROM (SELECT instance, branch, id, listed_at FROM {}{} {NEWEST_FIRST} LIMIT {to_its_end}) AS half{}",
                BackupRow::TABLE,
                conditions.sql(),
                parts.len(),
            ));
            values.extend(conditions.values);
        }
        let sql = format!(
            "SELECT * FROM ({}) AS halves {NEWEST_FIRST}{}",
            parts.join(" UNION ALL "),
            page.sql()
        );
        let rows = self.rows(sql, values).await?;
        let key = |row: &sqlx::any::AnyRow| {
            Ok((
                Column::read(row, "instance")?,
                Column::read(row, "branch")?,
                Column::read(row, "id")?,
            ))
        };
        let keys: sqlx::Result<_> = rows.iter().map(key).collect();
        keys.map_err(cannot("answer from its rows"))
    }

    /// A backup by its id.
    pub(crate) async fn backup(
        &self,
        instance: Option<&InstanceName>,
        id: BackupId,
    ) -> Result<Option<BackupRow>> {
        let filter = Filter::default()
            .equal("instance", instance)
            .equal("id", Some(&id));
        Ok(self.select(filter, "LIMIT 1").await?.pop())
    }

    /// When a branch was last backed up.
    pub(crate) async fn last_backup_at(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
    ) -> Result<Option<Timestamp>> {
        let filter =
            Filter::of_branch(instance, branch).equal("status", Some(&BackupStatus::Completed));
        self.latest("backed_up_at", filter).await
    }

    /// When a schedule last asked for a backup.
    pub(crate) async fn last_request_of(
        &self,
        instance: &InstanceName,
        schedule: ScheduleId,
    ) -> Result<Option<Timestamp>> {
        let filter = Filter::default()
            .equal("instance", Some(instance))
            .equal("schedule_id", Some(&schedule));
        self.latest("requested_at", filter).await
    }

    async fn latest(&self, column: &str, filter: Filter) -> Result<Option<Timestamp>> {
        let sql = format!(
            "SELECT MAX({column}) AS latest FROM backups{}",
            filter.sql()
        );
        let rows = self.rows(sql, filter.values).await?;
        let latest = rows
            .first()
            .map(|row| Column::read(row, "latest"))
            .transpose();
        Ok(latest.map_err(cannot("answer from its rows"))?.flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::pattern;

    #[test]
    fn a_name_is_looked_for_as_it_is_written() {
        assert_eq!(pattern("Audit"), "%audit%");
        assert_eq!(pattern(r"50%_\"), r"%50\%\_\\%");
        assert_eq!(pattern("ÄRGER"), "%ärger%");
    }
}
