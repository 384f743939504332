use events::moments::{MomentObject, Moments, MomentsQuestion};
use serde_json::json;

use super::{reply, text};

fn question() -> MomentsQuestion {
    serde_json::from_value(json!({
        "instance": "shop", "branch": "main", "from": null, "to": null, "limit": null
    }))
    .unwrap()
}

fn found() -> Moments {
    serde_json::from_value(json!({
        "moments": [
            {
                "at": "2026-03-01T13:59:01.5Z", "lsn": "0/4000028", "xid": 8001, "kind": "delete",
                "relation": "public.items", "rows": 5000,
                "restore_to": "2026-03-01T13:59:01.499999Z", "restore_lsn": "0/4000000"
            },
            {
                "at": "2026-03-01T14:03:07.412345Z", "lsn": "0/5000028", "xid": 8123, "kind": "drop",
                "relation": "public.orders", "rows": null,
                "restore_to": "0/5000000", "restore_lsn": "0/5000000"
            },
            {
                "at": "2026-03-01T14:04:00Z", "lsn": "0/6000028", "xid": 8200, "kind": "rewrite",
                "relation": null, "rows": null, "detail": "file 16411 in database shop",
                "restore_to": "2026-03-01T14:03:59.999999Z", "restore_lsn": "0/6000000"
            }
        ],
        "buckets": [
            { "at": "2026-03-01T13:59:00Z", "commits": 10 },
            { "at": "2026-03-01T14:03:00Z", "commits": 80 }
        ],
        "bucket_seconds": 60
    }))
    .unwrap()
}

#[test]
fn a_list_says_what_happened_and_how_to_come_out_before_it() {
    insta::assert_snapshot!(text(&question(), &found(), None), @r#"
    Moments of shop/main on 2026-03-01, newest last; times are UTC, by the server's clock.

    AT                WHAT                                       TRANSACTION  RESTORE TO
    13:59:01.500000Z  5000 rows of table public.items deleted    8001         2026-03-01T13:59:01.499999Z
    14:03:07.412345Z  table public.orders dropped                8123         0/5000000
    14:04:00.000000Z  a table without a known name written anew  8200         2026-03-01T14:03:59.999999Z
        file 16411 in database shop

    commits  ▁···█
             90 from 2026-03-01T13:59:00.000000Z on; a bar is 1 min 0 s, the highest 80

    The last that took data away:
      2026-03-01T14:03:07.412345Z  table public.orders dropped, transaction 8123
    To come out just before it, in a new branch:
      zektor restore shop --lsn 0/5000000 --as before-drop-8123 --wait
    With --dry-run it first says what would be in that branch, and changes nothing.
    "#);
}

#[test]
fn several_days_another_branch_and_what_is_missing_are_said() {
    let mut found = found();
    found.moments.truncate(2);
    found.moments[0].at = "2026-02-28T23:00:00Z".parse().unwrap();
    found.moments.truncate(1);
    let mut later = found.moments[0].clone();
    later.at = "2026-03-01T02:00:00Z".parse().unwrap();
    later.rows = Some(7_000_000);
    later.kind = events::moments::MomentKind::Update;
    found.moments = vec![found.moments[0].clone(), later];
    found.moments[0].kind = events::moments::MomentKind::RestorePoint;
    found.moments[0].xid = 0;
    found.truncated = true;
    found.unread = vec!["0/7000000 to 0/8000000 on timeline 1 is missing".to_owned()];
    found.buckets.clear();
    let question = MomentsQuestion {
        branch: "fix".parse().unwrap(),
        ..question()
    };
    insta::assert_snapshot!(text(&question, &found, None), @r#"
    Moments of shop/fix, newest last; times are UTC, by the server's clock.

    AT                           WHAT                                        TRANSACTION  RESTORE TO
    2026-02-28T23:00:00.000000Z  restore point public.items                  -            2026-03-01T13:59:01.499999Z
    2026-03-01T02:00:00.000000Z  7000000 rows of table public.items updated  8001         2026-03-01T13:59:01.499999Z

    These are the latest 2; there were more before. Narrow it with --to, or raise --limit.

    Not everything could be looked at:
      0/7000000 to 0/8000000 on timeline 1 is missing

    The last that changed much:
      2026-03-01T02:00:00.000000Z  7000000 rows of table public.items updated, transaction 8001
    To come out just before it, in a new branch:
      zektor restore shop --time 2026-03-01T13:59:01.499999Z --as before-update-8001 --from fix --wait
    With --dry-run it first says what would be in that branch, and changes nothing.
    "#);
}

#[test]
fn where_nothing_happened_it_says_so() {
    let mut asked = question();
    asked.only_drops = true;
    asked.from = Some("2026-03-01T14:00:00Z".parse().unwrap());
    insta::assert_snapshot!(text(&asked, &Moments::default(), None), @r#"No table and no database was dropped, and no table emptied on shop/main since 2026-03-01T14:00:00.000000Z."#);
    insta::assert_snapshot!(text(&question(), &Moments::default(), None), @r#"Nothing was dropped or emptied, and no transaction changed many rows of a table on shop/main."#);
}

#[test]
fn the_document_has_the_fields_of_the_contract() {
    let reply = reply(&question(), &found(), None).unwrap();
    let document: serde_json::Value = serde_json::from_str(&reply.document).unwrap();
    for field in ["at", "lsn", "xid", "kind", "relation", "rows", "restore_to"] {
        assert!(document["moments"][1].get(field).is_some(), "{field}");
    }
    assert_eq!(document["moments"][1]["restore_to"], "0/5000000");
    assert_eq!(document["moments"][1]["kind"], "drop");
    assert_eq!(document["buckets"][1]["commits"], 80);
    assert!(document["buckets"][1].get("at").is_some());
}

#[test]
fn what_cannot_be_restored_has_no_way_back() {
    let window = |gap: serde_json::Value| {
        let window = json!({
            "earliest": "2026-03-01T14:00:00Z", "latest": "2026-03-01T15:00:00Z",
            "latest_lsn": "0/9000000", "complete": gap.is_null(),
            "gaps": gap.is_object().then_some(gap).into_iter().collect::<Vec<_>>(),
            "earliest_backup_id": null, "timeline": 1
        });
        serde_json::from_value(window).unwrap()
    };
    // The delete lies before the first backup.
    let said = text(&question(), &found(), Some(&window(json!(null))));
    assert!(!said.contains("2026-03-01T13:59:01.499999Z"), "{said}");
    assert!(
        said.contains("zektor restore shop --lsn 0/5000000"),
        "{said}"
    );
    // The drop lies in a gap; it was most likely meant, so nothing else is recommended.
    let gap = json!({
        "timeline": 1, "from_lsn": "0/4800000", "to_lsn": "0/5800000",
        "from": "2026-03-01T14:01:00Z", "restorable_again_at": "2026-03-01T14:03:30Z"
    });
    insta::assert_snapshot!(text(&question(), &found(), Some(&window(gap))), @r#"
    Moments of shop/main on 2026-03-01, newest last; times are UTC, by the server's clock.

    AT                WHAT                                       TRANSACTION  RESTORE TO
    13:59:01.500000Z  5000 rows of table public.items deleted    8001         -
    14:03:07.412345Z  table public.orders dropped                8123         -
    14:04:00.000000Z  a table without a known name written anew  8200         2026-03-01T14:03:59.999999Z
        file 16411 in database shop

    Where no moment to restore to is shown, there is none: it lies before the first sound backup, or where WAL is missing.
    See: zektor window shop --branch main

    commits  ▁···█
             90 from 2026-03-01T13:59:00.000000Z on; a bar is 1 min 0 s, the highest 80
    "#);
}

#[test]
fn an_index_is_called_one_and_is_not_recommended() {
    let mut found = found();
    found.moments[0].object = Some(MomentObject::Table);
    found.moments[1].object = Some(MomentObject::Index);
    found.moments[2].object = Some(MomentObject::MaterializedView);
    found.moments[2].relation = Some("public.daily".to_owned());
    let said = text(&question(), &found, None);
    assert!(said.contains("index public.orders dropped"), "{said}");
    let view = "materialized view public.daily written anew";
    assert!(said.contains(view), "{said}");
    assert!(said.contains("--as before-delete-8001"), "{said}");
    let json = serde_json::to_value(&found.moments[1]).unwrap();
    assert_eq!(
        (&json["kind"], &json["object"]),
        (&json!("drop"), &json!("index"))
    );
}

#[test]
fn the_database_is_shown_where_there_are_several() {
    let mut found = found();
    found.moments[0].database = Some("shop".to_owned());
    found.moments[1].database = Some("shop".to_owned());
    let said = text(&question(), &found, None);
    assert!(said.contains("of table public.items deleted"), "{said}");
    found.moments[1].database = Some("stock".to_owned());
    let said = text(&question(), &found, None);
    assert!(
        said.contains("of table shop/public.items deleted"),
        "{said}"
    );
    assert!(said.contains("table stock/public.orders dropped"), "{said}");
    let json = serde_json::to_value(&found.moments[1]).unwrap();
    assert_eq!(json["relation"], "public.orders");
    assert_eq!(json["database"], "stock");
}
