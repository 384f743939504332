//! Lists of backups. Each is read along an index in its own order, so that a page costs a page, whatever there is.
//!
//! A name is looked for anywhere in it, whatever its case: of an instance in a pass over an index alone (milliseconds for a
//! hundred thousand backups); of all instances at once it is a pass over all of them, which no command asks for.

use events::query::{BackupList, BackupPlace, BackupStatus};
use events::{BackupId, BranchName, InstanceName, ScheduleId, Timestamp};

use sqlx::any::AnyRow;

use super::{Filter, Page};
use crate::store::column::{Column, SqlValue};
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
    /// After this place of the list.
    pub(crate) after: Option<BackupPlace>,
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
            after: asked.after,
        }
    }
}

/// Which of the two halves of the backups is looked at: an index has each in order, not both.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Half {
    Shown,
    Hidden,
    /// The index in use is not by this: few are in such a state.
    Either,
}

impl BackupFilter {
    /// The halves in which there may be any.
    fn halves(&self) -> &'static [Half] {
        match (self.status, self.all) {
            (None, false) | (Some(BackupStatus::Completed), _) => &[Half::Shown],
            (None, true) => &[Half::Shown, Half::Hidden],
            (Some(_), _) => &[Half::Either],
        }
    }

    /// Whether many rows are passed over for the few that are wanted: not one of them needs to be read whole.
    fn is_found_by_keys(&self, page: Page) -> bool {
        page.offset > FAR || self.name.is_some()
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
            .like("folded_name", words.as_ref())
            .after_place(self.after.as_ref());
        // Said as it stands in the index of those: of a value nobody knows before that it is none.
        let filter = match self.status {
            Some(status) if status != BackupStatus::Completed => {
                filter.and("status <> 'completed'")
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

impl Filter {
    /// Said so that the moment alone is where an index is entered.
    fn after_place(mut self, place: Option<&BackupPlace>) -> Self {
        let Some(place) = place else {
            return self;
        };
        let at = place.at.to_sql();
        let first = self.before + self.values.len() + 1;
        self.values.extend([at.clone(), at, place.id.to_sql()]);
        let (second, third) = (first + 1, first + 2);
        self.and(&format!(
            "listed_at <= ${first} AND (listed_at < ${second} OR id < ${third})"
        ))
    }
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

type Key = [SqlValue; 3];

/// Pages farther down than this are found by their keys first.
const FAR: u32 = 1000;
/// Of a schedule's backups, so many are looked at for one that was not skipped.
const NEWEST: u32 = 50;

const NEWEST_FIRST: &str = "ORDER BY listed_at DESC, id DESC";

impl Store {
    /// Backups, newest first.
    pub(crate) async fn backups(
        &self,
        filter: &BackupFilter,
        page: Page,
    ) -> Result<Vec<BackupRow>> {
        let halves = filter.halves();
        if let ([half], false) = (halves, filter.is_found_by_keys(page)) {
            let rest = format!("{NEWEST_FIRST}{}", page.sql());
            return self.select(filter.conditions(*half, 0), &rest).await;
        }
        let keys = match halves {
            [half] => self.keys_of(filter, *half, page).await?,
            // Where a page of both begins, nobody knows before both are merged.
            halves => self.merged(filter, halves, page).await?,
        };
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut among = Filter::default();
        let places: Vec<String> = keys.iter().map(|key| among.places(key)).collect();
        let among = among.and(&format!(
            "(instance, branch, id) IN (VALUES {})",
            places.join(", ")
        ));
        self.select(among, NEWEST_FIRST).await
    }

    /// The keys of a page, from an index alone where it has all that is asked.
    async fn keys_of(&self, filter: &BackupFilter, half: Half, page: Page) -> Result<Vec<Key>> {
        let conditions = filter.conditions(half, 0);
        let sql = format!(
            "SELECT instance, branch, id FROM {}{} {NEWEST_FIRST}{}",
            BackupRow::TABLE,
            conditions.sql(),
            page.sql()
        );
        self.keys(sql, conditions.values).await
    }

    /// The keys of a page over more than one half.
    async fn merged(&self, filter: &BackupFilter, halves: &[Half], page: Page) -> Result<Vec<Key>> {
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
        self.keys(sql, values).await
    }

    async fn keys(&self, sql: String, values: Vec<SqlValue>) -> Result<Vec<Key>> {
        let rows = self.rows(sql, values).await?;
        let key = |row: &AnyRow| {
            let instance: InstanceName = Column::read(row, "instance")?;
            let branch: BranchName = Column::read(row, "branch")?;
            let id: BackupId = Column::read(row, "id")?;
            Ok([instance.to_sql(), branch.to_sql(), id.to_sql()])
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

    /// When a branch was last backed up. One backup of a branch is taken at a time, in the order they are asked for.
    pub(crate) async fn last_backup_at(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
    ) -> Result<Option<Timestamp>> {
        let filter = BackupFilter {
            instance: Some(instance.clone()),
            branch: Some(branch.clone()),
            status: Some(BackupStatus::Completed),
            ..BackupFilter::default()
        };
        let newest = self.backups(&filter, Page::new(Some(1), 0)).await?;
        Ok(newest.first().and_then(|row| row.backed_up_at))
    }

    /// When a schedule last asked for a backup: not for one that was skipped.
    pub(crate) async fn last_request_of(
        &self,
        instance: &InstanceName,
        schedule: ScheduleId,
    ) -> Result<Option<Timestamp>> {
        let filter = BackupFilter {
            instance: Some(instance.clone()),
            schedule: Some(schedule),
            all: true,
            ..BackupFilter::default()
        };
        let newest = self.backups(&filter, Page::new(Some(NEWEST), 0)).await?;
        let ran = |row: &&BackupRow| row.status != BackupStatus::Skipped;
        if let Some(last) = newest.iter().find(ran) {
            return Ok(last.requested_at);
        }
        // It was skipped for long: of what is gone nothing is looked for.
        let shown = BackupFilter {
            all: false,
            ..filter
        };
        let newest = self.backups(&shown, Page::new(Some(1), 0)).await?;
        Ok(newest.first().and_then(|row| row.requested_at))
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
