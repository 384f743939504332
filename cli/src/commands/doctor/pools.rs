//! Each pool that instances are in: whether any worker serves it. Without one no backup of theirs is ever begun.

use std::collections::BTreeMap;

use events::{InstanceDocument, PoolName};

use super::{ANSWER_WITHIN, Check, in_time};
use crate::commands::pool::{Served, called, served, unserved};
use crate::session::Session;

/// So many instances are named.
const MOST_NAMED: usize = 3;

pub(super) async fn check(session: &Session) -> Vec<Check> {
    let listed = tokio::time::timeout(ANSWER_WITHIN, session.bus.instances().list()).await;
    // That they cannot be listed is said where they are looked at.
    let Ok(Ok(documents)) = listed else {
        return Vec::new();
    };
    let checks = of_pools(&documents)
        .into_iter()
        .map(|(pool, instances)| async move {
            let name = format!("pool {}", called(pool.as_ref()));
            let look = async {
                let served = served(session, pool.as_ref()).await;
                of_pool(pool.as_ref(), &instances, served)
            };
            in_time(name, look).await
        });
    futures::future::join_all(checks).await
}

/// The pools, with the instances that are in each.
fn of_pools(documents: &[InstanceDocument]) -> BTreeMap<Option<PoolName>, Vec<String>> {
    let mut pools: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for document in documents.iter().filter(|document| !document.removing) {
        let instances = pools.entry(document.pool.clone()).or_default();
        instances.push(document.instance.to_string());
    }
    pools
}

fn of_pool(pool: Option<&PoolName>, instances: &[String], served: Option<Served>) -> Check {
    let name = format!("pool {}", called(pool));
    match served {
        Some(Served::Free) => Check::ok(name, "a worker serves it, and has a place free"),
        Some(Served::Busy) => Check::ok(name, "all places of its workers are taken"),
        None => Check::warning(name, "it is not known who serves it", "see `zektor status`"),
        Some(Served::Nobody) => {
            let mut named = instances[..instances.len().min(MOST_NAMED)].join(", ");
            if instances.len() > MOST_NAMED {
                named.push_str(&format!(" and {} more", instances.len() - MOST_NAMED));
            }
            let unserved = unserved(pool);
            let (detail, hint) = unserved.split_once("; ").unwrap_or((&unserved, ""));
            Check::failed(
                name,
                format!("{detail}; no backup of {named} is begun"),
                hint,
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use events::{CommandId, InstanceDocument, PoolName, example};
    use uuid::Uuid;

    use super::{of_pool, of_pools};
    use crate::commands::doctor::CheckState;
    use crate::commands::pool::Served;

    #[test]
    fn a_pool_that_nobody_serves_is_named_with_its_instances() {
        let document = |name: &str, pool: Option<&str>, removing| InstanceDocument {
            pool: pool.map(|pool| PoolName::new(pool).unwrap()),
            removing,
            ..InstanceDocument::new(
                name.parse().unwrap(),
                CommandId(Uuid::nil()),
                example::at(0),
            )
        };
        let mut documents = vec![
            document("a", None, false),
            document("gone", Some("us"), true),
        ];
        documents.extend(["b", "c", "d", "e"].map(|name| document(name, Some("eu"), false)));
        let pools = of_pools(&documents);
        let pools: Vec<_> = pools.iter().collect();
        assert_eq!(pools.len(), 2, "{pools:?}");
        let (eu, instances) = pools[1];
        let check = of_pool(eu.as_ref(), instances, Some(Served::Nobody));
        assert_eq!(check.state, CheckState::Failed);
        assert_eq!(
            check.detail,
            "no worker serves the pool eu now; no backup of b, c, d and 1 more is begun"
        );
        assert!(check.hint.contains("ZEKTOR_WORKER_POOLS=eu"), "{check:?}");
        for served in [Served::Free, Served::Busy] {
            let check = of_pool(eu.as_ref(), instances, Some(served));
            assert_eq!(check.state, CheckState::Ok);
        }
    }
}
