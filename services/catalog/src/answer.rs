//! Answers to questions about the rows.

use std::collections::BTreeMap;

use bus::{BusError, QueryError};
use events::query::{
    AlertList, BackupList, BackupPlace, BackupShow, BackupView, Backups, BranchList, BranchShow,
    BranchView, Branches, CatalogStatus, DrillList, DrillShow, FAILED, INVALID, InstanceDetail,
    InstanceList, InstanceShow, Instances, NOT_FOUND, Question, Rebuild, RebuildAccepted,
    RestoreList, RestoreShow, Restores, ScheduleList, ScheduleView, Schedules, Series, Status,
    StreamProgress, WalSummary,
};
use events::{InstanceName, subject};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::projector::Projector;
use crate::store::rows::BackupRow;
use crate::store::{BackupFilter, Page, StoreError};

mod control;
mod view;
mod wal;

use view::{backup_view, branch_view, restore_view, schedule_view};

/// Replicas share the questions.
const QUEUE_GROUP: &str = "catalog";

type Answer<Q> = Result<<Q as Question>::Answer, QueryError>;

/// Answers until `shutdown`.
pub(crate) async fn serve(
    projector: Projector,
    shutdown: CancellationToken,
) -> Result<(), BusError> {
    let bus = projector.bus().clone();
    let handler = move |asked: String, question: Value| {
        let projector = projector.clone();
        async move { Box::pin(answer(&projector, &asked, question)).await }
    };
    bus.serve(&subject::catalog_query(">"), QUEUE_GROUP, handler, shutdown)
        .await
}

/// The answer to the question on this subject.
pub(crate) async fn answer(
    projector: &Projector,
    asked: &str,
    question: Value,
) -> Result<Value, QueryError> {
    let name = asked
        .strip_prefix(&subject::catalog_query(""))
        .unwrap_or(asked);
    macro_rules! dispatch {
        ($($question:ty => $handler:ident),+ $(,)?) => {
            match name {
                $(<$question>::NAME => {
                    let question: $question = read(name, question)?;
                    write(projector.$handler(question).await?)
                })+
                _ => Err(QueryError::new(
                    INVALID,
                    format!("the catalog has no question {name:?}"),
                    "use the same version of zektor on both sides",
                )),
            }
        };
    }
    dispatch! {
        InstanceList => instance_list,
        InstanceShow => instance_show,
        BranchList => branch_list,
        BranchShow => branch_show,
        ScheduleList => schedule_list,
        BackupList => backup_list,
        BackupShow => backup_show,
        RestoreList => restore_list,
        RestoreShow => restore_show,
        DrillList => drill_list,
        DrillShow => drill_show,
        AlertList => alert_list,
        Series => series,
        WalSummary => wal_summary,
        Status => status,
        Rebuild => rebuild,
    }
}

fn read<Q: Question>(name: &str, question: Value) -> Result<Q, QueryError> {
    serde_json::from_value(question).map_err(|error| {
        QueryError::new(
            INVALID,
            format!("the question {name} cannot be read: {error}"),
            "use the same version of zektor on both sides",
        )
    })
}

fn write<A: serde::Serialize>(answer: A) -> Result<Value, QueryError> {
    serde_json::to_value(answer).map_err(|error| {
        QueryError::new(
            FAILED,
            format!("the answer cannot be written: {error}"),
            "report this defect",
        )
    })
}

/// The largest part of a message that the rows of an answer take. NATS takes a MiB unless it is told otherwise, and an
/// answer that is larger is none.
const LARGEST_ANSWER: usize = 768 << 10;

/// Leaves as many as one answer takes, and says where the rest begins: a full page may have a next one.
fn cut_page<T: serde::Serialize>(views: &mut Vec<T>, page: Page, offset: u32) -> Option<u32> {
    let full = views.len() == page.limit();
    let cut = cut_to_fit(views);
    let count = u32::try_from(views.len()).unwrap_or(u32::MAX);
    (count > 0 && (full || cut)).then(|| offset.saturating_add(count))
}

/// Leaves as many as one answer takes, one at least; whether some had to go.
fn cut_to_fit<T: serde::Serialize>(views: &mut Vec<T>) -> bool {
    let mut bytes = 0;
    let fits = |view: &T| {
        bytes += serde_json::to_vec(view).map_or(0, |json| json.len() + 1);
        bytes <= LARGEST_ANSWER
    };
    let count = views
        .iter()
        .map(fits)
        .take_while(|fits| *fits)
        .count()
        .max(1);
    let cut = count < views.len();
    views.truncate(count);
    cut
}

fn place(row: &BackupRow) -> BackupPlace {
    BackupPlace {
        at: row.listed_at,
        id: row.id,
    }
}

/// A failure of the database is logged where it is answered, and the answer does not hold its details.
fn failed(error: StoreError) -> QueryError {
    let text = service::run::chain(&error);
    tracing::error!(error = text, "a question could not be answered");
    QueryError::new(
        FAILED,
        "the catalog's database failed",
        "see the catalog's log, and ask again",
    )
}

fn unknown_instance(instance: &InstanceName) -> QueryError {
    QueryError::new(
        NOT_FOUND,
        format!("there is no instance {instance}"),
        "zektor instance list shows what there is",
    )
}

impl Projector {
    async fn instance_list(&self, question: InstanceList) -> Answer<InstanceList> {
        let page = Page::new(question.limit, 0);
        let found = self.store().instances(question.after.as_ref(), page).await;
        let mut instances = found.map_err(failed)?;
        let full = instances.len() == page.limit();
        let cut = cut_to_fit(&mut instances);
        let last = instances.last().filter(|_| full || cut);
        Ok(Instances {
            next: last.map(|view| view.name.clone()),
            instances,
        })
    }

    async fn instance_show(&self, question: InstanceShow) -> Answer<InstanceShow> {
        let instance = question.instance;
        let found = self.store().instance(&instance).await;
        let Some(view) = found.map_err(failed)? else {
            return Err(unknown_instance(&instance));
        };
        Ok(InstanceDetail {
            instance: view,
            branch_list: self.branch_views(&instance, None).await?,
            schedules: self.schedule_views(&instance).await?,
        })
    }

    async fn branch_list(&self, question: BranchList) -> Answer<BranchList> {
        self.require_instance(&question.instance).await?;
        let branches = self.branch_views(&question.instance, None).await?;
        Ok(Branches { branches })
    }

    async fn branch_show(&self, question: BranchShow) -> Answer<BranchShow> {
        let BranchShow { instance, branch } = question;
        self.require_instance(&instance).await?;
        let found = self.branch_views(&instance, Some(&branch)).await?;
        found.into_iter().next().ok_or_else(|| {
            QueryError::new(
                NOT_FOUND,
                format!("instance {instance} has no branch {branch}"),
                format!("zektor branch list {instance} shows what there is"),
            )
        })
    }

    async fn schedule_list(&self, question: ScheduleList) -> Answer<ScheduleList> {
        self.require_instance(&question.instance).await?;
        let schedules = self.schedule_views(&question.instance).await?;
        Ok(Schedules { schedules })
    }

    async fn backup_list(&self, question: BackupList) -> Answer<BackupList> {
        let page = Page::new(question.limit, question.offset);
        let filter = BackupFilter::from(question);
        let rows = self.store().backups(&filter, page).await;
        let rows = rows.map_err(failed)?;
        // Backups outlive their instance, so only an empty list asks whether there is one.
        if let (true, Some(instance)) = (rows.is_empty(), &filter.instance) {
            self.require_instance(instance).await?;
        }
        let full = rows.len() == page.limit();
        let places: Vec<BackupPlace> = rows.iter().map(place).collect();
        let mut backups: Vec<BackupView> = rows.into_iter().map(backup_view).collect();
        let cut = cut_to_fit(&mut backups);
        let last = backups.len().checked_sub(1).filter(|_| full || cut);
        Ok(Backups {
            next: last.and_then(|last| places.get(last).copied()),
            backups,
        })
    }

    async fn backup_show(&self, question: BackupShow) -> Answer<BackupShow> {
        let BackupShow { instance, id } = question;
        let row = self
            .store()
            .backup(instance.as_ref(), id)
            .await
            .map_err(failed)?;
        row.map(backup_view).ok_or_else(|| {
            let instance = instance.map_or("INSTANCE".to_owned(), |name| name.to_string());
            QueryError::new(
                NOT_FOUND,
                format!("there is no backup {id}"),
                format!("zektor backup list {instance} shows what there is"),
            )
        })
    }

    async fn restore_list(&self, question: RestoreList) -> Answer<RestoreList> {
        let page = Page::new(question.limit, question.offset);
        let rows = self
            .store()
            .restores(question.instance.as_ref(), page)
            .await;
        let rows = rows.map_err(failed)?.into_iter();
        let mut restores = rows.map(restore_view).collect();
        let next = cut_page(&mut restores, page, question.offset);
        Ok(Restores { restores, next })
    }

    async fn restore_show(&self, question: RestoreShow) -> Answer<RestoreShow> {
        let row = self.store().restore(question.id).await.map_err(failed)?;
        row.map(restore_view).ok_or_else(|| {
            QueryError::new(
                NOT_FOUND,
                format!("there is no restore {}", question.id),
                "zektor events --type restore.requested shows what there was",
            )
        })
    }

    async fn status(&self, _: Status) -> Answer<Status> {
        let mut streams = BTreeMap::new();
        for (stream, position) in self.store().positions().await.map_err(failed)? {
            let state = self.bus().stream_state(&stream).await.ok();
            let progress = StreamProgress {
                created: position.created,
                applied_sequence: position.applied,
                lag: state.map(|state| state.last.0.saturating_sub(position.applied)),
            };
            let _ = streams.insert(stream, progress);
        }
        let rebuild = self.store().rebuild_state().await.map_err(failed)?;
        Ok(CatalogStatus {
            backend: self.store().backend().name().to_owned(),
            streams,
            rebuilding: rebuild.wanted,
            rebuild_error: rebuild.error,
            rebuilt_from: rebuild.rebuilt_from,
            rebuilt_at: rebuild.rebuilt_at,
        })
    }

    async fn rebuild(&self, question: Rebuild) -> Answer<Rebuild> {
        self.ask_rebuild(question.from).await.map_err(failed)?;
        Ok(RebuildAccepted {
            from: question.from,
        })
    }

    async fn require_instance(&self, instance: &InstanceName) -> Result<(), QueryError> {
        let found = self.store().instance(instance).await.map_err(failed)?;
        found.map(drop).ok_or_else(|| unknown_instance(instance))
    }

    async fn branch_views(
        &self,
        instance: &InstanceName,
        branch: Option<&events::BranchName>,
    ) -> Result<Vec<BranchView>, QueryError> {
        let rows = self
            .store()
            .branches(instance, branch)
            .await
            .map_err(failed)?;
        let mut views = Vec::with_capacity(rows.len());
        for row in rows {
            let last = self.store().last_backup_at(instance, &row.branch).await;
            let window = self.store().window(instance, &row.branch).await;
            views.push(branch_view(
                row,
                last.map_err(failed)?,
                window.map_err(failed)?,
            ));
        }
        Ok(views)
    }

    async fn schedule_views(
        &self,
        instance: &InstanceName,
    ) -> Result<Vec<ScheduleView>, QueryError> {
        let rows = self.store().schedules(instance).await.map_err(failed)?;
        let mut views = Vec::with_capacity(rows.len());
        for row in rows {
            let last_at = self.store().last_request_of(instance, row.id).await;
            views.push(schedule_view(row, last_at.map_err(failed)?));
        }
        Ok(views)
    }
}
