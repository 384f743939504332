//! Plans with the repository: reads what the planner asks for, and looks at what must be there before a restore.

use events::event::RefusalCode;
use events::plan::PlanCheck;
use events::{ClusterSize, RestoreTarget, Timestamp};
use repository::archive::Archive;
use repository::{BranchReader, ErrorClass, WalPath};
use wal_index::Names;

use crate::compute::{ComputeError, Programs};
use crate::error::RestoreError;
use crate::index::Cut;
use crate::plan::{self, Known, Missing, Plan, Refusal, Stretch, Unplanned};
use crate::preflight;
use crate::restorer::Restorer;

/// The oldest major version whose WAL can be looked into; an older one's backups are not taken either.
const OLDEST_MAJOR: u32 = 14;
/// A plan needs a few readings. A transaction may be looked for in many intervals, whose xids overlap.
const MOST_READINGS: usize = 5_000;

impl Restorer {
    /// Decides what a restore to `target` will do. Damaged backups are left out, unless nothing else leads there.
    ///
    /// # Errors
    /// [`RestoreError::Refused`], or the repository failed.
    pub(crate) async fn decide(
        &self,
        reader: &BranchReader,
        archive: &Archive,
        target: &RestoreTarget,
    ) -> Result<Plan, RestoreError> {
        // A backup that is asked for by its id is not looked for; the plan says whether it is damaged.
        if matches!(target, RestoreTarget::Backup { .. }) || archive.damaged().is_empty() {
            return self.decide_among(reader, archive, target).await;
        }
        let sound = archive.clone().preferring_sound();
        let decided = self.decide_among(reader, &sound, target).await;
        let Err(RestoreError::Refused(refusal)) = decided else {
            return decided;
        };
        match self.decide_among(reader, archive, target).await {
            // The nearest that would work is told of what is sound.
            Err(RestoreError::Refused(_)) => Err(refusal.into()),
            decided => decided,
        }
    }

    /// The same with what is in `archive`.
    async fn decide_among(
        &self,
        reader: &BranchReader,
        archive: &Archive,
        target: &RestoreTarget,
    ) -> Result<Plan, RestoreError> {
        let now = self.clock.now();
        let ask = |known: &Known| plan::plan(archive, known, target, now, self.policy);
        self.learn(reader, archive, ask).await
    }

    /// The latest time that can be asked for now, if there is one.
    ///
    /// # Errors
    /// The repository failed.
    pub(crate) async fn latest_time(
        &self,
        reader: &BranchReader,
        archive: &Archive,
    ) -> Result<Option<Timestamp>, RestoreError> {
        let now = self.clock.now();
        let ask = |known: &Known| plan::latest(archive, known, now, self.policy);
        match self.learn(reader, archive, ask).await {
            Err(RestoreError::Refused(_)) => Ok(None),
            told => told,
        }
    }

    /// Reads what the planner asks for until it has an answer.
    async fn learn<T>(
        &self,
        reader: &BranchReader,
        archive: &Archive,
        ask: impl Fn(&Known) -> Result<T, Unplanned>,
    ) -> Result<T, RestoreError> {
        let mut known = Known::new();
        let mut last = None;
        for _ in 0..MOST_READINGS {
            let (history, missing) = match ask(&known) {
                Ok(answer) => return Ok(answer),
                Err(Unplanned::Refused(refusal)) => return Err(refusal.into()),
                Err(Unplanned::Needs { history, missing }) => (history, missing),
            };
            // What was read once and is missing again would be missing for ever.
            if last.as_ref() == Some(&missing) {
                break;
            }
            let timeline = history.timeline();
            let path =
                WalPath::to(archive, timeline).ok_or_else(|| Refusal::no_history(timeline))?;
            let Some(some) = archive.backups.first() else {
                return Err(RestoreError::Undecided);
            };
            let (cut, segment_size) = (Cut::of(some), some.wal_segment_size);
            let wal = known.entry(timeline).or_default();
            match missing.clone() {
                Missing::Index(range) => {
                    let index = &self.memory.index;
                    let slice = index.read(reader, &path, cut, range.clone()).await?;
                    self.look_at_unread_wal(reader, segment_size, &history, &slice.missing)
                        .await;
                    wal.add_index(range, slice.segments);
                }
                Missing::Records { range, at } => {
                    let mut stretch = Stretch::new(range.clone(), at);
                    let observe = |record: &pg_format::wal::WalRecord<'_>| stretch.observe(record);
                    let (from, to) = (range.start, range.end);
                    match reader.records_between(&path, from, to, observe).await {
                        Ok(_) => {}
                        Err(error) if error.class() == ErrorClass::Corrupt => {
                            self.tell_damaged_wal(reader, segment_size, &error).await;
                            return Err(Refusal::damaged(from, to, &error.to_string()).into());
                        }
                        Err(error) => return Err(error.into()),
                    }
                    wal.add_stretch(stretch);
                }
                Missing::Contradicted(source) => return Err(RestoreError::Index(source)),
            }
            last = Some(missing);
        }
        Err(RestoreError::Undecided)
    }

    /// What is looked at before anything is started, beyond the plan; and the programs to run the branch with.
    ///
    /// # Errors
    /// [`RestoreError::Refused`] for what cannot succeed, or something failed.
    pub(crate) async fn preflight(
        &self,
        archive: &Archive,
        plan: &Plan,
        size: ClusterSize,
    ) -> Result<(Programs, Vec<PlanCheck>), RestoreError> {
        let programs = self.programs(plan).await?;
        let source = self
            .memory
            .sources
            .of(&self.repository, &plan.backup)
            .await?;
        let archived = |timeline| archive.histories.contains_key(&timeline);
        let mut checks = vec![
            preflight::programs(plan, &programs),
            preflight::disk(
                plan,
                self.compute.free_bytes().await,
                self.policy.room_bytes,
            )?,
            preflight::history_files(plan, archived),
            preflight::hot_standby(&source, size),
            preflight::preload(&source, &programs.bin),
        ];
        if let Some((_, lsn)) = plan.half_dropped.first() {
            let backup = &plan.backup;
            let reader = self.repository.reader(&backup.instance, &backup.branch);
            let maps = reader
                .relation_maps(&plan.history, *lsn, plan.end_lsn)
                .await?;
            checks.extend(preflight::half_dropped(plan, &Names::new(maps)));
        }
        Ok((programs, checks))
    }

    pub(crate) async fn programs(&self, plan: &Plan) -> Result<Programs, RestoreError> {
        let major = plan.backup.server_version / 10_000;
        if major < OLDEST_MAJOR {
            let message = format!("postgresql {major} cannot be restored");
            let hint = format!("{OLDEST_MAJOR} and newer can");
            return Err(Refusal::new(RefusalCode::UnsuitableSource, message, hint).into());
        }
        match self.compute.programs(major).await {
            Ok(programs) => Ok(programs),
            Err(error @ ComputeError::NoPrograms { .. }) => {
                let hint = format!(
                    "install postgresql {major} there, or name its programs' folder in \
                     ZEKTOR_POSTGRES_BIN_DIRS"
                );
                Err(Refusal::new(RefusalCode::Invalid, error.to_string(), hint).into())
            }
            Err(error) => Err(error.into()),
        }
    }
}
