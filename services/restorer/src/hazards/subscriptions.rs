//! Subscriptions of the source: the branch must neither apply their changes nor reach for their slots.
//!
//! What must stay true: nothing that somebody does with a subscription in the branch takes a slot away from the source,
//! whose names on the publisher are the same.

use events::plan::PlanCheck;
use pg_replication::SqlConnection;

use super::{listed, names, warning};
use crate::error::RestoreError;

/// Tables whose first copy has not come to its end. Those in `s` have no slot any more, and where their changes begin
/// is known; those in `r` are like any other.
const IN_THE_MIDDLE: &str = "srsubstate NOT IN ('r', 's')";

/// Workers that apply changes would take them away from the source, whose slot on the publisher they share. They are
/// not started at all (`max_logical_replication_workers = 0`); disabled in the catalog, they also stay quiet when
/// somebody raises that. The slot's name is taken away as well: with it, `DROP SUBSCRIPTION` in the branch would drop the
/// source's slot. It is told, so that a branch that takes its source's place can be given it back.
///
/// `pg_subscription` is shared by all databases, and superusers may write catalogs: so it reaches the databases that
/// let nobody in, where `ALTER SUBSCRIPTION` cannot be said.
pub(super) async fn disable(
    connection: &mut SqlConnection,
) -> Result<Option<PlanCheck>, RestoreError> {
    let disable = "UPDATE pg_catalog.pg_subscription s SET subenabled = false, subslotname = NULL \
                   FROM (SELECT was.oid, d.datname, was.subslotname FROM pg_catalog.pg_subscription was \
                   JOIN pg_catalog.pg_database d ON d.oid = was.subdbid \
                   WHERE was.subenabled OR was.subslotname IS NOT NULL) AS was WHERE was.oid = s.oid \
                   RETURNING s.subname || ' in ' || was.datname || \
                   coalesce(' (its slot is ' || was.subslotname || ')', '')";
    let disabled = names(&connection.query(disable).await?);
    Ok((!disabled.is_empty()).then(|| {
        warning(
            "subscriptions",
            format!(
                "disabled, and parted from the slots on their publishers, which are the source's: {}; to use one when \
                 the source is gone, raise max_logical_replication_workers, restart the branch, ALTER SUBSCRIPTION ... \
                 SET (slot_name = ...) and ENABLE it",
                listed(&disabled)
            ),
        )
    }))
}

/// Forgets the copies of tables that were on their way in this database, and gives their tables.
///
/// Such a copy has a slot of its own, whose name is made of the subscription's, the table's and the cluster's numbers:
/// in the branch it is the source's. `DROP SUBSCRIPTION` drops it even when the subscription has no slot (`DropSubscription`,
/// PostgreSQL `src/backend/commands/subscriptioncmds.c`). The origins go with it, for a copy that begins anew refuses one
/// that is there.
pub(super) async fn forget_copies(
    connection: &mut SqlConnection,
) -> Result<Vec<String>, RestoreError> {
    let origins = format!(
        "SELECT pg_catalog.pg_replication_origin_drop(o.roname) FROM pg_catalog.pg_replication_origin o \
         JOIN pg_catalog.pg_subscription_rel r ON o.roname = pg_catalog.format('pg_%s_%s', r.srsubid, r.srrelid) WHERE {IN_THE_MIDDLE}"
    );
    let _ = connection.query(&origins).await?;
    let copies = format!(
        "WITH gone AS (DELETE FROM pg_catalog.pg_subscription_rel WHERE {IN_THE_MIDDLE} \
         RETURNING srsubid, srrelid, srsubstate) \
         SELECT pg_catalog.format('%s of %s', gone.srrelid::pg_catalog.regclass, s.subname) || \
         CASE gone.srsubstate WHEN 'f' THEN ' (its rows are there)' ELSE '' END \
         FROM gone JOIN pg_catalog.pg_subscription s ON s.oid = gone.srsubid ORDER BY 1"
    );
    Ok(names(&connection.query(&copies).await?))
}

/// What becomes of the tables whose copies were forgotten.
pub(super) fn told(copies: &[String]) -> Option<PlanCheck> {
    (!copies.is_empty()).then(|| {
        let detail = format!(
            "their first copy was on its way, over slots that are the source's, and is forgotten here: {}; ALTER \
             SUBSCRIPTION ... REFRESH PUBLICATION copies them anew once the subscription is enabled, so empty before \
             those whose rows are there",
            listed(copies)
        );
        warning("subscribed_tables", detail)
    })
}

/// Subscriptions of databases that let nobody in, us neither.
pub(super) async fn out_of_reach(
    connection: &mut SqlConnection,
) -> Result<Option<PlanCheck>, RestoreError> {
    let closed = "SELECT s.subname || ' in ' || d.datname FROM pg_catalog.pg_subscription s \
                  JOIN pg_catalog.pg_database d ON d.oid = s.subdbid WHERE NOT d.datallowconn ORDER BY 1";
    let closed = names(&connection.query(closed).await?);
    Ok((!closed.is_empty()).then(|| {
        let detail = format!(
            "their databases let nobody in, so copies of tables that were on their way are still known there: {}; should \
             you open one, DELETE FROM pg_subscription_rel WHERE {IN_THE_MIDDLE} before DROP SUBSCRIPTION, or that drops \
             the source's slots of those copies",
            listed(&closed)
        );
        warning("subscribed_tables", detail)
    }))
}
